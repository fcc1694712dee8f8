#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/composed/dropout_factors_torch.h"
#include "furrow/tensor/dropout_mask.h"
#include "furrow/tensor/operations_torch.h"
#include "furrow/tensor/tensor_axis_torch.h"

namespace furrow::tensor {
namespace {

constexpr int64_t kWord = 0xFFFFFFFF;

// 32-bit words in int64.  The product of two may have its 64th bit set, which the shift spreads and the mask
// takes away.
struct HighLow {
  at::Tensor high, low;
};
HighLow wide_product(const at::Tensor& x, int64_t factor) {
  const at::Tensor product = x * factor;
  return {product.bitwise_right_shift(32).bitwise_and_(kWord), product.bitwise_and(kWord)};
}

// Philox4x32-10 (base/rng.h) of broadcastable counters.
std::array<at::Tensor, 4> philox(std::array<at::Tensor, 4> c, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const HighLow p0 = wide_product(c[0], 0xD2511F53), p1 = wide_product(c[2], 0xCD9E8D57);
    c = {p1.high.bitwise_xor(c[1]).bitwise_xor(static_cast<int64_t>(key[0])), p1.low,
         p0.high.bitwise_xor(c[3]).bitwise_xor(static_cast<int64_t>(key[1])), p0.low};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return c;
}

// The counters' words that depend on sample and step alone, [3, samples], as philox_counter has them.
at::Tensor sample_words(const kernels::DropoutMask& mask, int64_t samples) {
  const at::Tensor words = at::empty({3, samples}, at::kLong);
  auto* const w = words.data_ptr<int64_t>();
  for (int64_t s = 0; s < samples; ++s) {
    const uint64_t sample = mask.samples[s];
    w[s] = static_cast<int64_t>(sample) & kWord;
    w[samples + s] = static_cast<int64_t>((sample >> 32 << 16 | mask.step >> 32) & kWord);
    w[2 * samples + s] = static_cast<int64_t>(mask.step) & kWord;
  }
  return words;
}

}  // namespace

at::Tensor dropout_factors(double p, std::string_view stream, int64_t per_sample, const OpContext& context,
                           const at::Device& device) {
  const kernels::DropoutMask mask = dropout_mask(p, stream, per_sample, context);
  const auto samples = static_cast<int64_t>(context.sample_ids.size());
  const at::Tensor words =
      sample_words(mask, samples).to(device, at::kLong, /*non_blocking=*/true).unsqueeze(2);
  const int64_t first = mask.first / 4, blocks = (mask.first % 4 + per_sample + 3) / 4;
  const at::Tensor block = at::arange(first, first + blocks, words.options()).unsqueeze(0);
  const auto drawn = philox({block, words[0], words[1], words[2]}, mask.key);
  const at::Tensor all =
      at::stack(drawn, 2).view({samples, 4 * blocks}).narrow(1, mask.first % 4, per_sample);
  const int64_t threshold = std::lround(static_cast<double>(mask.p) * 0x1p24);
  return all.bitwise_right_shift(8).ge(threshold).to(at::kFloat).mul_(1.0F / (1.0F - mask.p));
}

namespace by_composition {
namespace {

at::Tensor kept(const at::Tensor& x, double p, std::string_view stream, const OpContext& context) {
  FURROW_CHECK(x.size(0) == static_cast<int64_t>(context.sample_ids.size()),
               "dropout needs a sample id for every row");
  const at::Tensor factors = dropout_factors(p, stream, x.numel() / x.size(0), context, x.device());
  return x.to(at::kFloat) * factors.view(x.sizes());
}

}  // namespace

at::Tensor dropout(const at::Tensor& x, double p, std::string_view stream, OpContext& context) {
  if (!context.training || p == 0) return x;
  return kept(x, p, stream, context).to(x.scalar_type());
}

at::Tensor dropout_of_columns(const at::Tensor& x, int64_t columns, double p, std::string_view stream,
                              OpContext& context) {
  if (!context.training || p == 0) return x;
  OpContext whole = context;
  whole.axis = nullptr;
  const int64_t part = x.size(-1), first = shared(context) ? context.axis->rank() * part : 0;
  const int64_t per_sample = x.numel() / x.size(0) / part * columns;
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes.back() = columns;
  const at::Tensor all = dropout_factors(p, stream, per_sample, whole, x.device()).view(sizes);
  const int64_t begin = std::min(first, columns), there = std::min(part, columns - begin);
  const at::Tensor own = at::constant_pad_nd(all.narrow(-1, begin, there), {0, part - there});
  return (x.to(at::kFloat) * own).to(x.scalar_type());
}

at::Tensor add_dropout(const at::Tensor& residual, const at::Tensor& x, double p, std::string_view stream,
                       OpContext& context) {
  FURROW_CHECK(residual.sizes() == x.sizes(), "residual and branch differ in shape");
  if (!context.training || p == 0) return residual + x;
  return (residual.to(at::kFloat) + kept(x, p, stream, context)).to(x.scalar_type());
}

}  // namespace by_composition
}  // namespace furrow::tensor
