// Nothing here waits for the device: norms and rates stay there.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/composed/steps_torch.h"
#include "furrow/tensor/kernels/quantised_adam.h"

namespace furrow::tensor {
namespace {

void sgd(const StepOperands& o, const StepParameters& p) {
  const bool with_momentum = o.states[0].defined() && p.momentum != 0;
  if (o.states[0].defined() && !with_momentum)  // a schedule passes through 0: the buffer is kept up
    o.states[0].copy_(o.gradient).add_(o.params, p.weight_decay);
  const at::TensorList buffers = with_momentum ? at::TensorList(o.states[0]) : at::TensorList();
  at::_fused_sgd_(o.params, o.gradient, buffers, p.weight_decay, with_momentum ? p.momentum : 0, p.lr,
                  /*dampening=*/0, p.nesterov && with_momentum, /*maximize=*/false, p.step == 1);
}

at::Tensor steps_of(const StepOperands& o, const StepParameters& p) {
  return at::full({}, static_cast<double>(p.step), o.params.options());
}

void adam(const StepOperands& o, const StepParameters& p) {
  at::_fused_adam_(o.params, o.gradient, o.states[0], o.states[1], {}, steps_of(o, p), p.lr, p.beta1, p.beta2,
                   p.weight_decay, p.eps, /*amsgrad=*/false, /*maximize=*/false);
}

void adamw(const StepOperands& o, const StepParameters& p) {
  at::_fused_adamw_(o.params, o.gradient, o.states[0], o.states[1], {}, steps_of(o, p), p.lr, p.beta1,
                    p.beta2, p.weight_decay, p.eps, /*amsgrad=*/false, /*maximize=*/false);
}

void lion(const StepOperands& o, const StepParameters& p) {
  o.params.mul_(1 - p.lr * p.weight_decay);
  o.params.sub_(at::sign(o.states[0] * p.beta1 + o.gradient * (1 - p.beta1)), p.lr);
  o.states[0].mul_(p.beta2).add_(o.gradient, 1 - p.beta2);
}

at::Tensor length_of(const at::Tensor& x) { return at::linalg_vector_norm(x, 2, {}, false, at::kDouble); }

at::Tensor root_mean_square(const at::Tensor& x) {
  return length_of(x).div_(std::sqrt(static_cast<double>(x.numel())));
}

// m / (1 - beta1^t) / (sqrt(v) / sqrt(1 - beta2^t) + eps) of moments that have moved.
at::Tensor adam_direction(const at::Tensor& m, const at::Tensor& root, const StepParameters& p) {
  const auto t = static_cast<double>(p.step);
  const at::Tensor scale = root.div(std::sqrt(1 - std::pow(p.beta2, t))).add_(p.eps);
  return m.div(scale).div_(1 - std::pow(p.beta1, t));
}

void lamb(const StepOperands& o, const StepParameters& p) {
  FURROW_CHECK(o.whole, "LAMB steps whole parameters");
  o.states[0].mul_(p.beta1).add_(o.gradient, 1 - p.beta1);
  o.states[1].mul_(p.beta2).addcmul_(o.gradient, o.gradient, 1 - p.beta2);
  at::Tensor direction = adam_direction(o.states[0], o.states[1].sqrt(), p);
  if (p.weight_decay > 0) {  // else it is not adapted
    direction.add_(o.params, p.weight_decay);
    const at::Tensor size = length_of(o.params), length = length_of(direction);
    const at::Tensor ratio = at::where(size.gt(0).logical_and(length.gt(0)), size / length, 1.0);
    direction.mul_(ratio.to(at::kFloat));
  }
  o.params.sub_(direction, p.lr);
}

// old += share * (the mean of squares over `dim` - old).
void lerp_means(const at::Tensor& squares, int64_t dim, double share, const at::Tensor& old) {
  const at::Tensor mean = at::mean(squares, {dim}, false, at::kDouble);
  old.copy_(old.to(at::kDouble).lerp_(mean, share));
}

// What the squares of a gradient are estimated as; moves the states.
at::Tensor adafactor_estimate(const StepOperands& o, const at::Tensor& squares, double share) {
  if (o.rows == 0) {
    o.states[2].lerp_(squares, share);
    return o.states[2];
  }
  const at::Tensor &rows = o.states[0], &columns = o.states[1];
  const at::Tensor matrix = squares.view({o.rows, -1});
  lerp_means(matrix, 1, share, rows);
  lerp_means(matrix, 0, share, columns);
  const at::Tensor mean = at::mean(rows, at::kDouble).clamp_min_(1e-30);
  return at::outer(rows.to(at::kDouble).div_(mean).to(at::kFloat), columns).view(-1);
}

void adafactor(const StepOperands& o, const StepParameters& p) {
  constexpr double kLeastScale = 1e-3, kLeastSquare = 1e-30;
  FURROW_CHECK(o.whole, "Adafactor steps whole parameters");
  const auto step = static_cast<double>(p.step);
  const at::Tensor estimate = adafactor_estimate(o, o.gradient.square(), std::pow(step, p.beta2_decay));
  const at::Tensor direction = o.gradient / estimate.clamp_min(kLeastSquare).sqrt_();
  const at::Tensor size = root_mean_square(o.params).clamp_min_(kLeastScale);
  const at::Tensor rate =
      size.mul_(std::min(p.lr, 1 / std::sqrt(step))).div_(root_mean_square(direction).clamp_min_(1));
  o.params.mul_(1 - p.lr * p.weight_decay).sub_(direction * rate.to(at::kFloat));
}

// Singular values of x [m, n], m <= n, go near 1: five steps of Muon's quintic iteration.
at::Tensor orthogonal(const at::Tensor& matrix) {
  constexpr double kA = 3.4445, kB = -4.7750, kC = 2.0315;
  at::Tensor x = matrix / length_of(matrix).clamp_min_(1e-7).to(at::kFloat);
  for (int i = 0; i < 5; ++i) {
    const at::Tensor gram = at::mm(x, x.t());
    x = at::addmm(x, at::addmm(gram, gram, gram, kB, kC), x, kA, 1);
  }
  return x;
}

void muon(const StepOperands& o, const StepParameters& p) {
  if (!o.whole) return adamw(o, p);
  FURROW_CHECK(o.rows > 0, "Muon makes steps of matrices orthogonal");
  const at::Tensor& buffer = o.states[0];
  buffer.mul_(p.momentum).add_(o.gradient, 1 - p.momentum);
  const at::Tensor moved = p.nesterov ? buffer * p.momentum + o.gradient * (1 - p.momentum) : buffer;
  const at::Tensor matrix = moved.view({o.rows, -1});
  const int64_t columns = matrix.size(1);
  const at::Tensor x = o.rows > columns ? orthogonal(matrix.t()).t() : orthogonal(matrix);
  const double rate = p.lr * 0.2 * std::sqrt(static_cast<double>(std::max(o.rows, columns)));
  o.params.mul_(1 - p.lr * p.weight_decay).sub_(x.reshape({-1}), rate);
}

// The codes' values times their blocks' scales: [blocks, kQuantisedBlock], zeros behind the last element.
at::Tensor dequantised(const at::Tensor& codes, const at::Tensor& scales, const at::Tensor& values) {
  const int64_t blocks = scales.numel();
  const at::Tensor all =
      at::constant_pad_nd(codes, {0, blocks * kernels::kQuantisedBlock - codes.numel()}, 0);
  return values.index_select(0, all.to(at::kInt)).view({blocks, -1}).mul_(scales.unsqueeze(1));
}

// Which magnitude lies nearest, by `borders`; a block whose largest cannot be divided by is zero.
void quantise(const at::Tensor& x, const at::Tensor& borders, bool is_signed, const at::Tensor& codes,
              const at::Tensor& scales) {
  const at::Tensor largest = at::amax(x.abs(), {1}), lost = largest.lt(0x1p-126F);
  scales.copy_(largest.masked_fill(lost, 0));
  const at::Tensor share = x * largest.reciprocal().masked_fill_(lost, 0).unsqueeze(1);
  at::Tensor code = at::bucketize(share.abs(), borders, /*out_int32=*/true);
  if (is_signed) code = at::where(share.lt(0), code.clamp_max(127).neg(), code).bitwise_and(255);
  codes.copy_(code.view(-1).narrow(0, 0, codes.numel()));
}

void adamw8bit(const StepOperands& o, const StepParameters& p) {
  const QuantisationMaps& maps = *o.maps;
  const int64_t size = o.params.numel(), blocks = o.states[1].numel();
  const auto in_blocks = [&](const at::Tensor& x) {
    return at::constant_pad_nd(x, {0, blocks * kernels::kQuantisedBlock - size}).view({blocks, -1});
  };
  const at::Tensor g = in_blocks(o.gradient);
  const at::Tensor m = dequantised(o.states[0], o.states[1], maps.signed_values);
  const at::Tensor old = dequantised(o.states[2], o.states[3], maps.unsigned_values);
  m.mul_(p.beta1).add_(g, 1 - p.beta1);
  const at::Tensor root = old.square_().mul_(p.beta2).addcmul_(g, g, 1 - p.beta2).sqrt_();
  const at::Tensor direction = adam_direction(m, root, p).view(-1).narrow(0, 0, size);
  o.params.mul_(1 - p.lr * p.weight_decay).sub_(direction, p.lr);
  quantise(m, maps.signed_borders, true, o.states[0], o.states[1]);
  quantise(root, maps.unsigned_borders, false, o.states[2], o.states[3]);
}

constexpr ComposedStep kSteps[] = {
    {"adafactor", &adafactor}, {"adam", &adam},
    {"adamw", &adamw},         {"adamw8bit", &adamw8bit, {true, false, true, false}},
    {"lamb", &lamb},           {"lion", &lion},
    {"muon", &muon},           {"sgd", &sgd}};

}  // namespace

QuantisationMaps::QuantisationMaps(const at::Device& device) {
  const auto fill = [&device](bool is_signed, at::Tensor* values, at::Tensor* borders) {
    const std::array<float, 256>& map = kernels::dynamic_map(is_signed);
    std::vector<float> middles(is_signed ? 128 : 255);
    for (size_t i = 0; i < middles.size(); ++i) middles[i] = (map[i] + map[i + 1]) / 2;
    *values = at::tensor(c10::ArrayRef<float>(map.data(), map.size())).to(device);
    *borders = at::tensor(c10::ArrayRef<float>(middles)).to(device);
  };
  fill(true, &signed_values, &signed_borders);
  fill(false, &unsigned_values, &unsigned_borders);
}

const ComposedStep& composed_step(std::string_view optimizer) {
  const auto found = std::ranges::find(kSteps, optimizer, &ComposedStep::optimizer);
  FURROW_CHECK(found != std::end(kSteps), "no composed step of " + std::string(optimizer));
  return *found;
}

}  // namespace furrow::tensor
