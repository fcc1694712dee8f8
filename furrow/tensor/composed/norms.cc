// Norms and gates as compositions: float32 inside, whatever comes and goes.
#include <ATen/ATen.h>
#if __has_include(<torch/headeronly/version.h>)
#include <torch/headeronly/version.h>
#else
#include <torch/csrc/api/include/torch/version.h>
#endif
#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 9
#define FURROW_HAS_FUSED_RMS_NORM 1
#endif

#include <array>
#include <tuple>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/operations_torch.h"

namespace furrow::tensor::by_composition {
namespace {

// Whether libtorch's kernels read and give the type themselves: CUDA's, with statistics in float32 (the CPU's
// are rounded).  Gradients of scale and shift come rounded too, so not in float16, where they overflow.
bool read_as_it_is(const at::Tensor& x, const Param& weight) {
  return x.is_cuda() && x.scalar_type() != at::kHalf && x.scalar_type() == weight.leaf.scalar_type();
}

#ifdef FURROW_HAS_FUSED_RMS_NORM
// One kernel each way.
at::Tensor fused_rms_norm(const at::Tensor& input, const Param& weight, double eps, OpContext& context) {
  const int64_t width = input.size(-1);
  const at::Tensor x = input.detach().contiguous(), scale = weight.leaf.detach();
  const auto [y, rrms] = at::_fused_rms_norm(x, {width}, scale, eps);
  return with_backward(
      y, {input, weight.leaf},
      [x, rrms = rrms, scale, width, index = weight.index, sink = context.sink](const at::Tensor& dy) {
        auto [dx, dscale] =
            at::_fused_rms_norm_backward(dy.contiguous(), x, {width}, rrms, scale, {true, sink != nullptr});
        if (sink != nullptr) sink->put(index, dscale.to(at::kFloat));
        return std::vector{dx};
      });
}
#endif

}  // namespace

at::Tensor layer_norm(const at::Tensor& x, const Param& weight, const Param& bias, double eps,
                      OpContext& context) {
  FURROW_CHECK(x.dim() >= 1 && is_number(x) && x.size(-1) == weight.leaf.numel(),
               "layer_norm reads numbers [..., width]");
  const int64_t width = x.size(-1);
  const auto read = [narrow = read_as_it_is(x, weight)](const at::Tensor& t) {
    return narrow ? t.detach().contiguous() : widened(t, 1);
  };
  const at::Tensor scale = read(weight.leaf), shift = bias.defined() ? read(bias.leaf) : at::Tensor();
  auto [y, mean, rstd] = at::native_layer_norm(read(x), {width}, scale, shift, eps);
  return with_backward(
      y.to(x.scalar_type()), {x, weight.leaf},
      [x = x.detach(), mean = mean, rstd = rstd, scale, shift, width, read, weight_index = weight.index,
       bias_index = bias.index, sink = context.sink](const at::Tensor& dy) {
        auto [dx, dscale, dshift] =
            at::native_layer_norm_backward(read(dy), read(x), {width}, mean, rstd, scale, shift,
                                           {true, sink != nullptr, sink != nullptr && bias_index >= 0});
        if (sink != nullptr) sink->put(weight_index, dscale.to(at::kFloat));
        if (sink != nullptr && bias_index >= 0) sink->put(bias_index, dshift.to(at::kFloat));
        return std::vector{dx.to(dy.scalar_type())};
      });
}

at::Tensor rms_norm(const at::Tensor& x, const Param& weight, double eps, OpContext& context) {
  FURROW_CHECK(x.dim() >= 1 && is_number(x) && x.size(-1) == weight.leaf.numel(),
               "rms_norm reads numbers [..., width]");
#ifdef FURROW_HAS_FUSED_RMS_NORM
  if (read_as_it_is(x, weight)) return fused_rms_norm(x, weight, eps, context);
#endif
  const at::Tensor wide = widened(x, 1), scale = widened(weight.leaf, 1);
  const at::Tensor rrms = at::rsqrt(at::mean(at::square(wide), {-1}, true) + eps);
  return with_backward(
      narrowed(wide * rrms * scale, x.scalar_type(), 1), {x, weight.leaf},
      [x = x.detach(), rrms, scale, index = weight.index, sink = context.sink](const at::Tensor& gradient) {
        const at::Tensor dy = widened(gradient, 1), unit = widened(x, 1) * rrms;
        const at::Tensor g = dy * scale;
        const at::Tensor dx = (g - unit * at::mean(g * unit, {-1}, true)) * rrms;
        if (sink != nullptr) sink->put(index, (dy * unit).reshape({-1, dy.size(-1)}).sum(0));
        return std::vector{narrowed(dx, gradient.scalar_type(), 1)};
      });
}

at::Tensor swiglu(const at::Tensor& gate_up, OpContext& /*context*/) {
  FURROW_CHECK(gate_up.dim() >= 1 && is_number(gate_up) && gate_up.size(-1) % 2 == 0,
               "swiglu reads numbers [..., 2 * width]");
  const auto wide_parts = [read = gate_up.detach()] { return read.to(at::kFloat).chunk(2, -1); };
  const std::vector<at::Tensor> parts = wide_parts();
  return with_backward((at::silu(parts[0]) * parts[1]).to(gate_up.scalar_type()), {gate_up},
                       [wide_parts](const at::Tensor& gradient) {
                         const std::vector<at::Tensor> halves = wide_parts();
                         const at::Tensor &gate = halves[0], &up = halves[1], dy = gradient.to(at::kFloat);
                         const at::Tensor both =
                             at::cat({at::silu_backward(dy * up, gate), dy * at::silu(gate)}, -1);
                         return std::vector{both.to(gradient.scalar_type())};
                       });
}

}  // namespace furrow::tensor::by_composition
