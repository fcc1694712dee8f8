// Single layers, as users of PyTorch list them: a convolution, pools, norms, an activation, dropout.
#include <fmt/format.h>

#include "furrow/models/image_sizes.h"
#include "furrow/models/specs.h"
#include "furrow/models/unit_builder.h"

namespace furrow::models {
namespace {

constexpr double kLeakySlope = 0.01;  // PyTorch's

// Numbers of any shape, whole on every rank.
void read_numbers(plan::Unit& unit) {
  if (unit.input.dtype != DType::kF32 || unit.input.shape.size() < 2)
    require_input(unit, DType::kF32, 2, "[-1, features]");
  unit.input.tensor_axis = -1;
}

Window window_of(const plan::Unit& unit) {
  const int64_t kernel = size_of(unit, "kernel"), stride = count_of(unit, "stride");
  return {kernel, stride == 0 ? kernel : stride, count_of(unit, "padding")};
}

Image pooled(plan::Unit& unit) {
  constexpr int64_t kLargest = 15;
  const Image in = input_image(unit);
  unit.input.tensor_axis = -1;
  const Window window = window_of(unit);
  if (window.kernel > kLargest)
    unit_error(unit, fmt::format("kernel is {}: it must be 1 to {}", window.kernel, kLargest));
  if (window.padding > window.kernel / 2) {
    unit_error(unit, fmt::format("padding {} must be at most half of the kernel's {}", window.padding,
                                 window.kernel));
  }
  const Image out = slide(unit, in, window, in.channels);
  unit.output = out.spec();
  return out;
}

}  // namespace

// torch.nn.Conv2d of a square kernel and an activation.  Parameters weight [out_channels, in_channels,
// kernel, kernel] and, with `bias`, bias.
void describe_conv(plan::Unit& unit) {
  const Image in = input_image(unit);
  require_channels(unit, "in_channels");
  unit.input.tensor_axis = -1;
  const Window window{size_of(unit, "kernel"), size_of(unit, "stride"), count_of(unit, "padding")};
  if (window.padding >= window.kernel)
    unit_error(unit, fmt::format("padding {} must be below the kernel's {}", window.padding, window.kernel));
  const Image out = slide(unit, in, window, size_of(unit, "out_channels"));
  const int64_t fan_in = in.channels * window.kernel * window.kernel;
  add_parameter(unit, "weight", {out.channels, in.channels, window.kernel, window.kernel},
                uniform_fan_in(fan_in));
  if (flag(unit, "bias")) add_parameter(unit, "bias", {out.channels}, uniform_fan_in(fan_in));
  unit.output = out.spec();
  const double flops = 2.0 * static_cast<double>(out.elements()) * static_cast<double>(fan_in);
  unit.flops = {flops, flops, flops};
  const std::string act = activation(unit);
  const int64_t output = out.elements() * number_bytes(unit);
  unit.saved_bytes = keeps_slope(act) ? output : 0;
  unit.deferred_bytes = output;
  // The gradient that comes is the convolution's where nothing lies between.
  if (act == "none") unit.kept_grad_bytes = output;
}

// activation(x), of numbers of any shape.
void describe_activation(plan::Unit& unit) {
  read_numbers(unit);
  if (activation(unit) == "none") unit_error(unit, "activation 'none' does nothing: leave the unit out");
  if (const double slope = positive(unit, "slope"); slope != kLeakySlope && activation(unit) != "leaky_relu")
    unit_error(unit,
               fmt::format("slope {} is leaky_relu's, not {}'s: leave it out", slope, activation(unit)));
  unit.output = {DType::kF32, unit.input.shape};
  if (keeps_slope(activation(unit))) unit.saved_bytes = border_bytes(unit, unit.output);
}

// torch.nn.Dropout; in training alone, by the sample.
void describe_dropout(plan::Unit& unit) {
  read_numbers(unit);
  probability(unit, "p");
  unit.output = {DType::kF32, unit.input.shape};
}

// torch.nn.MaxPool2d: a byte of each output says where its gradient goes.
void describe_max_pool(plan::Unit& unit) { unit.saved_bytes = pooled(unit).elements(); }

// torch.nn.AvgPool2d, which counts what lies beyond the border as zeros.
void describe_avg_pool(plan::Unit& unit) { pooled(unit); }

// The mean over height and width: [-1, channels].
void describe_global_avg_pool(plan::Unit& unit) {
  const Image in = input_image(unit);
  unit.input.tensor_axis = -1;
  unit.output = {DType::kF32, {-1, in.channels}};
}

// torch.nn.LayerNorm over the last dim.  Parameters weight and, with `bias`, bias.
void describe_layer_norm(plan::Unit& unit) {
  read_numbers(unit);
  positive(unit, "eps");
  const int64_t width = unit.input.shape.back();
  add_parameter(unit, "weight", {width}, ones());
  if (flag(unit, "bias")) add_parameter(unit, "bias", {width}, zeros());
  unit.output = {DType::kF32, unit.input.shape};
  unit.saved_bytes = numbers_of(unit.input) / width * 2 * kFloatBytes;
}

// torch.nn.GroupNorm over the channels of an image.  Parameters weight and bias.
void describe_group_norm(plan::Unit& unit) {
  const Image in = input_image(unit);
  unit.input.tensor_axis = -1;
  positive(unit, "eps");
  const int64_t groups = size_of(unit, "groups");
  if (in.channels % groups != 0) {
    unit_error(unit,
               fmt::format("groups {} does not divide the {} channels of its input", groups, in.channels));
  }
  add_parameter(unit, "weight", {in.channels}, ones());
  add_parameter(unit, "bias", {in.channels}, zeros());
  unit.output = in.spec();
  unit.saved_bytes = groups * 2 * kFloatBytes;
}

// torch.nn.BatchNorm2d over the channels of an image, or BatchNorm1d over those of a row, and an activation.
// Parameters weight and bias.
void describe_batch_norm(plan::Unit& unit) {
  if (unit.input.shape.size() != 2)
    require_input(unit, DType::kF32, 4, "[-1, channels] or [-1, channels, height, width]");
  read_numbers(unit);
  positive(unit, "eps");
  add_batch_norm(unit, "", unit.input.shape[1]);
  unit.output = {DType::kF32, unit.input.shape};
  unit.saved_bytes = keeps_slope(activation(unit)) ? border_bytes(unit, unit.output) : 0;
}

}  // namespace furrow::models
