#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/tensor/kernels/quantised_adam.cc"
#include "furrow/tensor/kernels/targets.h"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on
#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "furrow/tensor/kernels/moments-inl.h"
#include "furrow/tensor/kernels/parallel.h"
#include "furrow/tensor/kernels/quantised_adam.h"
#include "furrow/tensor/kernels/simd-inl.h"

#ifndef FURROW_TENSOR_KERNELS_QUANTISED_ADAM_TABLES_
#define FURROW_TENSOR_KERNELS_QUANTISED_ADAM_TABLES_
namespace furrow::tensor::kernels {

// Magnitudes are looked up by their first bits: a bucket is 1/256 of its magnitude wide, less than two
// borders between values are apart, so that it holds one at most.
constexpr int kBucketShift = 15;
constexpr uint32_t kFirstBucket = (127 - 23) << (23 - kBucketShift);  // of 2^-23: what is less is 0
constexpr uint32_t kLastBucket = 127 << (23 - kBucketShift);          // of 1
constexpr uint32_t kBuckets = kLastBucket - kFirstBucket + 1;

struct QuantisationTables {
  std::array<float, 256> values{};        // by code
  std::array<float, 257> border{};        // by index of a magnitude: what lies above belongs to the next
  std::array<int32_t, kBuckets> least{};  // by bucket: the index of its least magnitude
};
const QuantisationTables& quantisation_tables(bool is_signed);

}  // namespace furrow::tensor::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {
namespace {

using DBytes = hn::Rebind<uint8_t, DU>;

VF dequantise(const uint8_t* codes, const QuantisationTables& tables, VF scale) {
  const VI index = hn::PromoteTo(DI(), hn::LoadU(DBytes(), codes));
  return hn::Mul(scale, hn::GatherIndex(DF(), tables.values.data(), index));
}

// Index of the nearest magnitude, x >= 0.
VI nearest(VF x, const QuantisationTables& tables) {
  const VI bits = hn::ShiftRight<kBucketShift>(hn::BitCast(DI(), x));
  const VI first = hn::Set(DI(), static_cast<int32_t>(kFirstBucket));
  const VI last = hn::Set(DI(), static_cast<int32_t>(kBuckets - 1));
  const VI bucket = hn::Min(hn::Max(hn::Sub(bits, first), hn::Zero(DI())), last);
  const VI index = hn::GatherIndex(DI(), tables.least.data(), bucket);
  const auto above = hn::Gt(x, hn::GatherIndex(DF(), tables.border.data(), index));
  return hn::IfThenElse(hn::RebindMask(DI(), above), hn::Add(index, hn::Set(DI(), 1)), index);
}

void quantise(const float* values, float largest, const QuantisationTables& tables, bool is_signed,
              uint8_t* codes) {
  const VF inverse = set(1 / largest);
  for (int64_t i = 0; i < kQuantisedBlock; i += kLanes) {
    const VF x = hn::Mul(inverse, load(values + i));
    VI code = nearest(hn::Abs(x), tables);
    if (is_signed) {
      const auto negative = hn::RebindMask(DI(), hn::Lt(x, zero()));
      const VI down = hn::Neg(hn::Min(code, hn::Set(DI(), 127)));
      code = hn::IfThenElse(negative, down, code);
    }
    hn::StoreU(hn::TruncateTo(DBytes(), hn::BitCast(DU(), code)), DBytes(), codes + i);
  }
}

struct Factors {
  explicit Factors(const QuantisedAdam& a)
      : moments(a),
        keep(rounded(1 - a.lr * a.weight_decay)),
        rate(rounded(a.lr / Moments::correction1(a))),
        first(quantisation_tables(true)),
        second(quantisation_tables(false)) {}
  Moments moments;
  VF keep, rate;
  const QuantisationTables &first, &second;
};

// The scale of a block, and its codes where it is large enough to divide by.
float keep_block(const float* values, VF largest, const QuantisationTables& tables, bool is_signed,
                 uint8_t* codes) {
  const float scale = hn::GetLane(hn::MaxOfLanes(DF(), largest));
  if (scale < 0x1p-126F) {
    std::memset(codes, 0, kQuantisedBlock);
    return 0;
  }
  quantise(values, scale, tables, is_signed, codes);
  return scale;
}

void adam_block(const QuantisedAdam& a, const Factors& f, int64_t block) {
  const int64_t begin = block * kQuantisedBlock, n = std::min(kQuantisedBlock, a.n - begin);
  alignas(64) float first[kQuantisedBlock], second[kQuantisedBlock];
  alignas(64) uint8_t first_codes[kQuantisedBlock] = {}, second_codes[kQuantisedBlock] = {};
  if (n < kQuantisedBlock) {
    std::fill(first, first + kQuantisedBlock, 0.0F);
    std::fill(second, second + kQuantisedBlock, 0.0F);
  }
  std::memcpy(first_codes, a.first + begin, static_cast<size_t>(n));
  std::memcpy(second_codes, a.second + begin, static_cast<size_t>(n));
  const VF scale1 = set(a.first_scale[block]), scale2 = set(a.second_scale[block]);
  VF largest1 = zero(), largest2 = zero();
  sweep(0, n, [&](int64_t i, auto at) HWY_ATTR {
    const VF g = hn::Mul(f.moments.grad_scale, at.load(a.grad + begin + i));
    const VF old = dequantise(second_codes + i, f.second, scale2);
    const VF m = f.moments.first(dequantise(first_codes + i, f.first, scale1), g);
    const VF v = f.moments.second(hn::Mul(old, old), g);
    const VF root = hn::Sqrt(v);
    at.store(m, first + i);
    at.store(root, second + i);
    largest1 = hn::Max(largest1, hn::Abs(m));
    largest2 = hn::Max(largest2, root);
    const VF step = hn::Div(m, f.moments.scale(root));
    const VF param = hn::Mul(f.keep, at.load(a.param + begin + i));
    at.store(hn::NegMulAdd(f.rate, step, param), a.param + begin + i);
  });
  a.first_scale[block] = keep_block(first, largest1, f.first, true, first_codes);
  a.second_scale[block] = keep_block(second, largest2, f.second, false, second_codes);
  std::memcpy(a.first + begin, first_codes, static_cast<size_t>(n));
  std::memcpy(a.second + begin, second_codes, static_cast<size_t>(n));
}

}  // namespace

void run_quantised_adam(const QuantisedAdam& args, int threads) {
  const int64_t blocks = quantised_blocks(args.n);
  parallel_for(blocks < 64 ? 1 : threads, blocks, [&](int64_t begin, int64_t end) {
    const Factors factors(args);
    for (int64_t b = begin; b < end; ++b) adam_block(args, factors, b);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace furrow::tensor::kernels {
namespace {

// Magnitudes in order: 0, the middles of equal parts of each decade from 10^-6 to 1, twice as many in each as
// in the one below, and 1.
std::vector<float> magnitudes(bool is_signed) {
  std::vector<float> values = {0};
  for (int decade = 0; decade < 7; ++decade) {
    const int parts = 1 << (decade + (is_signed ? 0 : 1));
    const double top = std::pow(10.0, decade - 6), width = 0.9 * top / parts;
    for (int p = 0; p < parts; ++p) values.push_back(static_cast<float>(0.1 * top + width * (p + 0.5)));
  }
  values.push_back(1);
  return values;
}

QuantisationTables make_tables(bool is_signed) {
  const std::vector<float> values = magnitudes(is_signed);
  QuantisationTables tables;
  for (size_t i = 0; i < values.size(); ++i) {
    tables.values[i] = values[i];
    if (is_signed && i > 0 && i + 1 < values.size()) tables.values[256 - i] = -values[i];
    const bool last = i + 1 == values.size();
    tables.border[i] = last ? 2 : (values[i] + values[i + 1]) / 2;
  }
  size_t index = 0;
  for (uint32_t b = 0; b < kBuckets; ++b) {
    const float least = b == 0 ? 0 : std::bit_cast<float>((kFirstBucket + b) << kBucketShift);
    while (least > tables.border[index]) ++index;
    tables.least[b] = static_cast<int32_t>(index);
  }
  return tables;
}

}  // namespace

const QuantisationTables& quantisation_tables(bool is_signed) {
  static const QuantisationTables kSigned = make_tables(true), kUnsigned = make_tables(false);
  return is_signed ? kSigned : kUnsigned;
}

const std::array<float, 256>& dynamic_map(bool is_signed) { return quantisation_tables(is_signed).values; }

uint8_t nearest_code(float x, bool is_signed) {
  const QuantisationTables& tables = quantisation_tables(is_signed);
  int index = 0;
  while (std::fabs(x) > tables.border[static_cast<size_t>(index)]) ++index;
  return static_cast<uint8_t>(x < 0 ? -std::min(index, 127) : index);
}

HWY_EXPORT(run_quantised_adam);
void quantised_adam_step(const QuantisedAdam& args, int threads) {
  HWY_DYNAMIC_DISPATCH(run_quantised_adam)(args, threads);
}

}  // namespace furrow::tensor::kernels
#endif
