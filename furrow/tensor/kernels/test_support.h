// What the kernels' tests share: numbers, every instruction set of this machine, comparison of bits.
#pragma once

#include "furrow/tensor/kernels/pairs.h"
#include "furrow/tensor/kernels/targets.h"
// targets.h decides what the next header counts as generated.
#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "furrow/tensor/kernels/half.h"

namespace furrow::tensor::kernels::testing {

inline std::vector<float> random_floats(int64_t n, uint32_t seed, float low = -1, float high = 1) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<float> uniform(low, high);
  std::vector<float> out(static_cast<size_t>(n));
  for (float& x : out) x = uniform(engine);
  return out;
}

inline float value_of(bf16 x) { return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }

// Rounded to 16 bits, and as float32 again.
template <class H>
std::vector<H> narrowed(const std::vector<float>& values) {
  std::vector<H> out(values.size());
  convert(static_cast<int64_t>(values.size()), values.data(), out.data(), 1);
  return out;
}
template <class H>
std::vector<float> widened(const std::vector<H>& values) {
  std::vector<float> out(values.size());
  convert(static_cast<int64_t>(values.size()), values.data(), out.data(), 1);
  return out;
}

// Runs fn(name) once per instruction set that is compiled in and present, where the processor has pairs of
// bfloat16 with them and without, then restores the choice.
template <class Fn>
void for_each_target(const Fn& fn) {
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    for (const bool pairs : {false, true}) {
      if (pairs && (target != HWY_AVX3 || !has_pairs())) continue;
      const PairsScope scope(pairs);
      const std::string name = std::string(hwy::TargetName(target)) + (pairs ? " with pairs" : "");
      SCOPED_TRACE(name);
      fn(name.c_str());
    }
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

// Largest |got - want| / max(1, |want|).
inline double worst_error(const std::vector<float>& got, const std::vector<double>& want) {
  double worst = got.size() == want.size() ? 0 : INFINITY;
  for (size_t i = 0; i < std::min(got.size(), want.size()); ++i) {
    const double error = std::abs(got[i] - want[i]) / std::max(1.0, std::abs(want[i]));
    worst = error <= worst ? worst : error;  // NaN wins
  }
  return worst;
}

// A copy that starts `offset` floats past an aligned address: results must not depend on where data lies.
struct Shifted {
  Shifted(const std::vector<float>& values, size_t offset) : storage(values.size() + offset), offset(offset) {
    std::copy(values.begin(), values.end(), storage.begin() + static_cast<std::ptrdiff_t>(offset));
  }
  float* data() { return storage.data() + offset; }
  std::vector<float> values() const {
    return {storage.begin() + static_cast<std::ptrdiff_t>(offset), storage.end()};
  }
  std::vector<float> storage;
  size_t offset;
};

}  // namespace furrow::tensor::kernels::testing
