#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/tensor/kernels/quantised_adam.cc"
#include "furrow/tensor/kernels/targets.h"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on
#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>
#include <vector>

#include "furrow/tensor/kernels/moments-inl.h"
#include "furrow/tensor/kernels/parallel.h"
#include "furrow/tensor/kernels/quantised_adam.h"
#include "furrow/tensor/kernels/simd-inl.h"

#ifndef FURROW_TENSOR_KERNELS_QUANTISED_ADAM_TABLES_
#define FURROW_TENSOR_KERNELS_QUANTISED_ADAM_TABLES_
namespace furrow::tensor::kernels {

// Magnitudes by index: 0, decade after decade, 1.  In a decade they are `base` + `width` (p + 1/2) for p = 0,
// 1, ..., so that codes are computed, and tables are small enough for registers: a gather costs a load for
// each lane.
//
// A border between decades, or to 0 or 1, lies in every third binade at most, so that there are two cases for
// a magnitude of a binade: below its border, or above, where the next binade's factors hold as well.
constexpr int kFirstBinade = 127 - 23;  // biased exponent of 2^-23: what is less is 0
constexpr int kBinades = 24;            // up to that of 1
struct QuantisationTables {
  std::array<float, 256> values{};  // by code
  // By binade, padded to four vectors: index = min(`inverse` x + `offset`, `limit`), rounded down.
  alignas(64) std::array<float, 32> border{}, inverse{}, offset{}, limit{};
  // By the last four bits of the biased exponent of index + `shift`; p + 1/2 is what that has above its power
  // of two.
  alignas(64) std::array<float, 16> base{}, width{};
  float shift = 0;
};
const QuantisationTables& quantisation_tables(bool is_signed);

}  // namespace furrow::tensor::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {
namespace {

using DBytes = hn::Rebind<uint8_t, DU>;

// What `table` of four vectors' size has at `index`, each below kBinades.
VF binade_entry(const std::array<float, 32>& table, VI index) {
  const float* const from = table.data();
#if HWY_TARGET <= HWY_AVX3
  return VF{_mm512_permutex2var_ps(load(from).raw, index.raw, load(from + 16).raw)};
#elif HWY_TARGET == HWY_AVX2
  const auto part = [&](int p)
                        HWY_ATTR { return VF{_mm256_permutevar8x32_ps(load(from + 8 * p).raw, index.raw)}; };
  const auto above = [&](int i) HWY_ATTR { return hn::RebindMask(DF(), hn::Gt(index, hn::Set(DI(), i))); };
  return hn::IfThenElse(above(15), part(2), hn::IfThenElse(above(7), part(1), part(0)));
#else
  return hn::GatherIndex(DF(), from, hn::Min(index, hn::Set(DI(), 31)));
#endif
}

// The same of a table of 16, by the last four bits of `index`.
VF exponent_entry(const std::array<float, 16>& table, VI index) {
  const float* const from = table.data();
#if HWY_TARGET <= HWY_AVX3
  return VF{_mm512_permutexvar_ps(index.raw, load(from).raw)};
#elif HWY_TARGET == HWY_AVX2
  const VF low{_mm256_permutevar8x32_ps(load(from).raw, index.raw)};
  const VF high{_mm256_permutevar8x32_ps(load(from + 8).raw, index.raw)};
  return VF{_mm256_blendv_ps(low.raw, high.raw, hn::BitCast(DF(), hn::ShiftLeft<28>(index)).raw)};
#else
  return hn::GatherIndex(DF(), from, hn::And(index, hn::Set(DI(), 15)));
#endif
}

// No products and sums are fused here: the bits are those of nearest_code() and dynamic_map() everywhere.
template <bool kSigned>
VF dequantise(const uint8_t* codes, const QuantisationTables& tables, VF scale) {
  VI index = hn::PromoteTo(DI(), hn::LoadU(DBytes(), codes));
  const auto negative = hn::Gt(index, hn::Set(DI(), 128));
  if (kSigned) index = hn::IfThenElse(negative, hn::Sub(hn::Set(DI(), 256), index), index);
  const VF x = hn::Add(hn::ConvertTo(DF(), index), set(tables.shift));
  const VI bits = hn::BitCast(DI(), x), exponent = hn::ShiftRight<23>(bits);
  const VF power = hn::BitCast(DF(), hn::And(bits, hn::Set(DI(), 0x7f800000)));
  const VF inside = hn::Mul(exponent_entry(tables.width, exponent), hn::Sub(x, power));
  const VF value = hn::Mul(scale, hn::Add(exponent_entry(tables.base, exponent), inside));
  return kSigned ? hn::IfThenElse(hn::RebindMask(DF(), negative), hn::Neg(value), value) : value;
}

// Index of the nearest magnitude, x >= 0.
VI nearest(VF x, const QuantisationTables& tables) {
  const VI bits = hn::BitCast(DI(), hn::Max(x, set(0x1p-23F)));
  VI binade = hn::Sub(hn::ShiftRight<23>(bits), hn::Set(DI(), kFirstBinade));
  const auto above = hn::RebindMask(DI(), hn::Gt(x, binade_entry(tables.border, binade)));
  binade = hn::IfThenElse(above, hn::Add(binade, hn::Set(DI(), 1)), binade);
  const VF scaled = hn::Mul(x, binade_entry(tables.inverse, binade));
  const VF index = hn::Add(scaled, binade_entry(tables.offset, binade));
  return hn::ConvertTo(DI(), hn::Min(index, binade_entry(tables.limit, binade)));
}

template <bool kSigned>
void quantise(const float* values, float largest, const QuantisationTables& tables, uint8_t* codes) {
  const VF inverse = set(1 / largest);
  for (int64_t i = 0; i < kQuantisedBlock; i += kLanes) {
    const VF x = hn::Mul(inverse, load(values + i));
    VI code = nearest(kSigned ? hn::Abs(x) : x, tables);
    if (kSigned) {
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
template <bool kSigned>
float keep_block(const float* values, VF largest, const QuantisationTables& tables, uint8_t* codes) {
  const float scale = hn::GetLane(hn::MaxOfLanes(DF(), largest));
  if (scale < 0x1p-126F) {
    std::memset(codes, 0, kQuantisedBlock);
    return 0;
  }
  quantise<kSigned>(values, scale, tables, codes);
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
    const VF old = dequantise<false>(second_codes + i, f.second, scale2);
    const VF m = f.moments.first(dequantise<true>(first_codes + i, f.first, scale1), g);
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
  a.first_scale[block] = keep_block<true>(first, largest1, f.first, first_codes);
  a.second_scale[block] = keep_block<false>(second, largest2, f.second, second_codes);
  std::memcpy(a.first + begin, first_codes, static_cast<size_t>(n));
  std::memcpy(a.second + begin, second_codes, static_cast<size_t>(n));
}

}  // namespace

void run_quantised_adam(const QuantisedAdam& args, int threads) {
  const int64_t blocks = quantised_blocks(args.n);
  parallel_for(team_for(blocks, 32, threads), blocks, [&](int64_t begin, int64_t end) {
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

constexpr int kDecades = 7;  // from 10^-7 to 1

// What lies between two borders: 0, a decade, or 1.
struct Slot {
  float base = 0, width = 0;
  int first = 0, count = 1;  // indices
  float value(int index) const { return base + width * (static_cast<float>(index - first) + 0.5F); }
};

// The middles of equal parts of each decade, twice as many in each as in the one below.
std::vector<Slot> slots_of(bool is_signed) {
  std::vector<Slot> slots(1);
  int first = 1;
  for (int decade = 0; decade < kDecades; ++decade) {
    const int parts = 1 << (decade + (is_signed ? 0 : 1));
    const double top = std::pow(10.0, decade + 1 - kDecades);
    slots.push_back({static_cast<float>(0.1 * top), static_cast<float>(0.9 * top / parts),
                     std::exchange(first, first + parts), parts});
  }
  slots.push_back({1, 0, first, 1});
  return slots;
}

// How a magnitude in or above binade `b` finds its index.
void fill_binade(QuantisationTables& tables, const std::vector<Slot>& slots, size_t b) {
  const float least = b == 0 ? 0 : std::ldexp(1.0F, static_cast<int>(b) - kBinades + 1);
  const auto border = [&](size_t s) {
    const int next = slots[s].first + slots[s].count;
    return (slots[s].value(next - 1) + slots[s + 1].value(next)) / 2;
  };
  size_t s = 0;
  while (s + 1 < slots.size() && border(s) <= least) ++s;
  const Slot& slot = slots[s];
  tables.border[b] = s + 1 < slots.size() ? border(s) : 2;
  tables.inverse[b] = slot.width > 0 ? 1 / slot.width : 0;
  tables.offset[b] = static_cast<float>(slot.first - (slot.width > 0 ? double{slot.base} / slot.width : 0));
  tables.limit[b] = static_cast<float>(slot.first + slot.count - 1);
}

QuantisationTables make_tables(bool is_signed) {
  const std::vector<Slot> slots = slots_of(is_signed);
  QuantisationTables tables;
  tables.shift = is_signed ? 0.5F : 1.5F;
  for (const Slot& slot : slots) {
    const auto exponent = std::bit_cast<uint32_t>(static_cast<float>(slot.first) + tables.shift) >> 23;
    tables.base[exponent % 16] = slot.base;
    tables.width[exponent % 16] = slot.width;
    for (int i = slot.first; i < slot.first + slot.count; ++i) {
      tables.values[static_cast<size_t>(i)] = slot.value(i);
      if (is_signed && i > 0 && i < 128) tables.values[static_cast<size_t>(256 - i)] = -slot.value(i);
    }
  }
  for (size_t b = 0; b < static_cast<size_t>(kBinades); ++b) fill_binade(tables, slots, b);
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
  const float magnitude = std::fabs(x);
  const auto bits = std::bit_cast<uint32_t>(std::max(magnitude, 0x1p-23F));
  size_t binade = (bits >> 23) - kFirstBinade;
  binade += magnitude > tables.border[binade] ? 1 : 0;
  const float index = magnitude * tables.inverse[binade] + tables.offset[binade];
  const int code = static_cast<int>(std::min(index, tables.limit[binade]));
  return static_cast<uint8_t>(x < 0 ? -std::min(code, 127) : code);
}

HWY_EXPORT(run_quantised_adam);
void quantised_adam_step(const QuantisedAdam& args, int threads) {
  HWY_DYNAMIC_DISPATCH(run_quantised_adam)(args, threads);
}

}  // namespace furrow::tensor::kernels
#endif
