#include "furrow/tensor/kernels/pairs.h"

#include <utility>

namespace furrow::tensor::kernels {
namespace {

thread_local const bool* in_scope = nullptr;

}  // namespace

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
  return in_scope != nullptr ? *in_scope : here;
}

PairsScope::PairsScope(bool usable) : before_(std::exchange(in_scope, &usable_)), usable_(usable) {}
PairsScope::~PairsScope() { in_scope = before_; }

}  // namespace furrow::tensor::kernels
