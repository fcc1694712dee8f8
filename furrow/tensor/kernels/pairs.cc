#include "furrow/tensor/kernels/pairs.h"

namespace furrow::tensor::kernels {

bool has_pairs() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16");  // AVX-512 alone does not say it
#else
  return false;
#endif
}

bool usable_pairs() {
#if defined(__x86_64__)
  static const bool here = has_pairs() && !__builtin_cpu_is("intel");
#else
  constexpr bool here = false;
#endif
  return PairsScope::or_else(here);
}

}  // namespace furrow::tensor::kernels
