#include "furrow/tensor/kernels/parallel.h"

#include <exception>
#include <vector>

#include "furrow/tensor/kernels/team.h"

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

thread_local Team team;
thread_local bool in_chunk = false;

void run_share(void* context, int member, int members) {
  Chunks& chunks = *static_cast<Chunks*>(context);
  in_chunk = true;
  for (int chunk = member; chunk < chunks.count; chunk += members) chunks.run(chunk);
  in_chunk = false;
}

void run_all(Chunks& chunks) {
  if (!in_chunk) return team.run(chunks.count, run_share, &chunks);
  for (int chunk = 0; chunk < chunks.count; ++chunk) chunks.run(chunk);
}

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
