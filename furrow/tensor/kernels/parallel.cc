#include "furrow/tensor/kernels/parallel.h"

#include <exception>
#include <vector>

// ThreadSanitizer cannot see the barriers of the OpenMP runtime; under it every chunk has a thread of its
// own.
#if defined(__SANITIZE_THREAD__)
#include <thread>
#else
#include <omp.h>
#endif

namespace furrow::tensor::kernels {
namespace {

// Exceptions must not leave a thread: keep the first by chunk number.
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

#if defined(__SANITIZE_THREAD__)
void run_all(Chunks& chunks) {
  std::vector<std::thread> threads;
  for (int chunk = 1; chunk < chunks.count; ++chunk)
    threads.emplace_back([&chunks, chunk] { chunks.run(chunk); });
  chunks.run(0);
  for (std::thread& thread : threads) thread.join();
}
#else
void run_all(Chunks& chunks) {
#pragma omp parallel num_threads(chunks.count)
  for (int chunk = omp_get_thread_num(); chunk < chunks.count; chunk += omp_get_num_threads())
    chunks.run(chunk);
}
#endif

}  // namespace

void parallel_chunks(int threads, int64_t n, ChunkFn fn, void* context) {
  if (n <= 0) return;
  if (threads <= 1 || n == 1) {
    fn(context, 0, n);
    return;
  }
  Chunks chunks{threads, n, fn, context, std::vector<std::exception_ptr>(static_cast<size_t>(threads))};
  run_all(chunks);
  for (const std::exception_ptr& error : chunks.errors) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace furrow::tensor::kernels
