#include "furrow/tensor/kernels/parallel.h"

#include <omp.h>

#include <exception>
#include <vector>

namespace furrow::tensor::kernels {
namespace {

// Exceptions must not leave an OpenMP region: keep the first by chunk number.
struct Chunks {
  int count;
  int64_t n;
  ChunkFn fn;
  void* context;
  std::vector<std::exception_ptr> errors;

  void run(int chunk) {
    const int64_t begin = n * chunk / count;
    const int64_t end = n * (chunk + 1) / count;
    if (begin == end) return;
    try {
      fn(context, begin, end);
    } catch (...) {
      errors[static_cast<size_t>(chunk)] = std::current_exception();
    }
  }
};

}  // namespace

void parallel_chunks(int threads, int64_t n, ChunkFn fn, void* context) {
  if (n <= 0) return;
  if (threads <= 1 || n == 1) {
    fn(context, 0, n);
    return;
  }
  Chunks chunks{threads, n, fn, context, std::vector<std::exception_ptr>(static_cast<size_t>(threads))};
#pragma omp parallel num_threads(threads)
  for (int chunk = omp_get_thread_num(); chunk < threads; chunk += omp_get_num_threads()) chunks.run(chunk);
  for (const std::exception_ptr& error : chunks.errors) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace furrow::tensor::kernels
