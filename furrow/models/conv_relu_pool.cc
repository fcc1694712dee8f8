// Convolution with stride 1, then ReLU if `relu`, then a 2x2 max pool of stride 2 if `pool`.  Parameters
// weight [out_channels, in_channels, kernel, kernel] and bias.
#include <fmt/format.h>

#include "furrow/models/specs.h"
#include "furrow/models/unit_builder.h"

namespace furrow::models {
namespace {

struct ConvSizes {
  int64_t in_channels, out_channels, kernel, padding;
  int64_t height, width;          // behind the convolution
  int64_t out_height, out_width;  // behind the pool
};

ConvSizes sizes_of(const plan::Unit& unit) {
  ConvSizes s{};
  s.in_channels = size_of(unit, "in_channels");
  s.out_channels = size_of(unit, "out_channels");
  s.kernel = size_of(unit, "kernel");
  s.padding = count_of(unit, "padding");
  const Shape& input = unit.input.shape;
  if (input[1] != s.in_channels) {
    unit_error(unit, fmt::format("in_channels is {}, but the input {} has {}", s.in_channels,
                                 to_string(input), input[1]));
  }
  if (s.padding >= s.kernel) {
    unit_error(unit, fmt::format("padding {} must be below the kernel's {}", s.padding, s.kernel));
  }
  const int64_t pool = flag(unit, "pool") ? 2 : 1;
  s.height = input[2] + 2 * s.padding - s.kernel + 1;
  s.width = input[3] + 2 * s.padding - s.kernel + 1;
  s.out_height = s.height / pool;
  s.out_width = s.width / pool;
  if (s.height < pool || s.width < pool) {
    unit_error(
        unit,
        fmt::format("an image of {} x {} is too small for a {} x {} convolution with padding {}{}: use "
                    "larger images",
                    input[2], input[3], s.kernel, s.kernel, s.padding, pool == 2 ? " and a 2 x 2 pool" : ""));
  }
  return s;
}

}  // namespace

void describe_conv_relu_pool(plan::Unit& unit) {
  require_input(unit, DType::kF32, 4, "[-1, channels, height, width]");
  const ConvSizes s = sizes_of(unit);
  const int64_t fan_in = s.in_channels * s.kernel * s.kernel;
  add_parameter(unit, "weight", {s.out_channels, s.in_channels, s.kernel, s.kernel}, uniform_fan_in(fan_in));
  add_parameter(unit, "bias", {s.out_channels}, uniform_fan_in(fan_in));
  unit.output = {DType::kF32, {-1, s.out_channels, s.out_height, s.out_width}};
  const double flops =
      2.0 * static_cast<double>(s.out_channels * s.height * s.width) * static_cast<double>(fan_in);
  unit.flops = {flops, flops, flops};
  // One code byte per output says where its gradient goes.
  unit.saved_bytes =
      flag(unit, "relu") || flag(unit, "pool") ? s.out_channels * s.out_height * s.out_width : 0;
  // The codes and the gradient of the output, for the weight's.
  unit.deferred_bytes = border_bytes(unit, unit.output) + unit.saved_bytes;
  unit.kept_saved_bytes = unit.saved_bytes;
  unit.kept_grad_bytes = border_bytes(unit, unit.output);
}

}  // namespace furrow::models
