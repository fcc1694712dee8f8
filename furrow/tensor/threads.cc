#include <ATen/Parallel.h>
#include <dlfcn.h>
#include <fmt/format.h>

#include "furrow/base/error.h"
#include "furrow/tensor/threads_torch.h"

namespace furrow::tensor {
namespace {

// Both libraries come with libtorch, under names that depend on its build: a build without MKL has neither
// the symbol nor the need for it.
template <class Function>
Function find_symbol(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, name));
}

}  // namespace

void set_thread_count(int threads) {
  if (threads < 1) {
    throw Error(ErrorCode::kInvalidArgument, fmt::format("{} threads: use at least 1", threads));
  }
  static const auto set_openmp = find_symbol<void (*)(int)>("omp_set_num_threads");
  static const auto set_mkl = find_symbol<int (*)(int)>("MKL_Set_Num_Threads_Local");
  // libtorch sets a thread's count at its first parallel operation; let it do that now, before ours.
  at::get_num_threads();
  if (set_openmp != nullptr) set_openmp(threads);
  if (set_mkl != nullptr) set_mkl(threads);
}

int thread_count() { return at::get_num_threads(); }

}  // namespace furrow::tensor
