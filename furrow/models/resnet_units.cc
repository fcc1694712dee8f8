// The units of residual networks (He et al., "Deep residual learning for image recognition", 2016): a
// convolution with batch norm and ReLU, a basic and a bottleneck block, and the classifier behind a global
// average pool.
// Convolutions have no bias; parameters are named as torchvision's.
#include <fmt/format.h>

#include <cmath>

#include "furrow/models/image_sizes.h"
#include "furrow/models/specs.h"
#include "furrow/models/unit_builder.h"

namespace furrow::models {
namespace {

// torchvision's start: normal, sqrt(2 / fan_out).  Returns the FLOPs per sample.
double add_convolution(plan::Unit& unit, std::string_view suffix, const Image& in, const Image& out,
                       const Window& window) {
  const int64_t fan_out = out.channels * window.kernel * window.kernel;
  add_parameter(unit, suffix, {out.channels, in.channels, window.kernel, window.kernel},
                normal(std::sqrt(2.0 / static_cast<double>(fan_out))));
  return 2.0 * static_cast<double>(out.pixels() * fan_out) * static_cast<double>(in.channels);
}

// A block between an input and an output, and what goes past it.
struct Branches {
  Image in, out;
  int64_t stride;
  bool projects;
};

// Throws where the attributes do not fit; the output is that of a window of 3 with padding 1.
Branches branches_of(const plan::Unit& unit) {
  const Image in = input_image(unit);
  require_channels(unit, "in_channels");
  const int64_t channels = size_of(unit, "out_channels"), stride = size_of(unit, "stride");
  const std::string shortcut = text(unit, "shortcut");
  if (shortcut != "pad" && shortcut != "projection")
    unit_error(unit, fmt::format("unknown shortcut '{}': known: pad, projection", shortcut));
  if (channels < in.channels && shortcut == "pad")
    unit_error(unit, fmt::format("the shortcut pads {} channels, but out_channels is {}: use a projection",
                                 in.channels, channels));
  positive(unit, "eps");
  const bool changes = stride != 1 || channels != in.channels;
  return {in, slide(unit, in, {3, stride, 1}, channels), stride, changes && shortcut == "projection"};
}

double add_projection(plan::Unit& unit, const Branches& branches) {
  if (!branches.projects) return 0;
  const double flops =
      add_convolution(unit, "downsample.0.weight", branches.in, branches.out, {1, branches.stride, 0});
  add_batch_norm(unit, "downsample.1", branches.out.channels);
  return flops;
}

}  // namespace

void describe_conv_norm(plan::Unit& unit) {
  const Image in = input_image(unit);
  require_channels(unit, "in_channels");
  const Window window{size_of(unit, "kernel"), size_of(unit, "stride"), count_of(unit, "padding")};
  if (window.padding >= window.kernel)
    unit_error(unit, fmt::format("padding {} must be below the kernel's {}", window.padding, window.kernel));
  positive(unit, "eps");
  const Image middle = slide(unit, in, window, size_of(unit, "out_channels"));
  const double flops = add_convolution(unit, "conv1.weight", in, middle, window);
  add_batch_norm(unit, "bn1", middle.channels);
  const bool pool = flag(unit, "pool");
  const Image out = pool ? slide(unit, middle, {3, 2, 1}, middle.channels) : middle;
  unit.output = out.spec();
  unit.flops = {flops, flops, flops};
  // The convolution's output, and where each maximum of a pool was.
  const int64_t bytes = number_bytes(unit);
  unit.saved_bytes = bytes * middle.elements() + (pool ? out.elements() : 0);
  unit.deferred_bytes = bytes * middle.elements();
}

void describe_residual_block(plan::Unit& unit) {
  const Branches branches = branches_of(unit);
  const auto& [in, out, stride, projects] = branches;
  double flops = add_convolution(unit, "conv1.weight", in, out, {3, stride, 1});
  add_batch_norm(unit, "bn1", out.channels);
  flops += add_convolution(unit, "conv2.weight", out, out, {3, 1, 1});
  add_batch_norm(unit, "bn2", out.channels);
  flops += add_projection(unit, branches);
  unit.output = out.spec();
  unit.flops = {flops, flops, flops};
  // Outputs of the convolutions, and of the norm between them.
  const int64_t bytes = number_bytes(unit) * out.elements();
  unit.saved_bytes = bytes * (projects ? 4 : 3);
  // The gradients of the convolutions, and what the second one read.
  unit.deferred_bytes = bytes * (projects ? 4 : 3);
  unit.kept_saved_bytes = bytes;
}

// The stride is the middle convolution's, as torchvision has it.
void describe_bottleneck_block(plan::Unit& unit) {
  const Branches branches = branches_of(unit);
  const auto& [in, out, stride, projects] = branches;
  const int64_t width = size_of(unit, "width");
  const Image before{width, in.height, in.width}, behind{width, out.height, out.width};
  double flops = add_convolution(unit, "conv1.weight", in, before, {1, 1, 0});
  add_batch_norm(unit, "bn1", width);
  flops += add_convolution(unit, "conv2.weight", before, behind, {3, stride, 1});
  add_batch_norm(unit, "bn2", width);
  flops += add_convolution(unit, "conv3.weight", behind, out, {1, 1, 0});
  add_batch_norm(unit, "bn3", out.channels);
  flops += add_projection(unit, branches);
  unit.output = out.spec();
  unit.flops = {flops, flops, flops};
  // Outputs of the convolutions, and of the norms between them, which the next one reads.
  const int64_t bytes = number_bytes(unit), between = bytes * (before.elements() + behind.elements());
  const int64_t last = bytes * out.elements() * (projects ? 2 : 1);
  unit.saved_bytes = 2 * between + last;
  unit.deferred_bytes = 2 * between + last;
  unit.kept_saved_bytes = between;
}

void describe_pool_linear(plan::Unit& unit) {
  const Image in = input_image(unit);
  require_channels(unit, "channels");
  const int64_t out = size_of(unit, "out");
  add_parameter(unit, "weight", {out, in.channels}, uniform_fan_in(in.channels));
  add_parameter(unit, "bias", {out}, uniform_fan_in(in.channels));
  unit.output = {DType::kF32, {-1, out}};
  const double flops = 2.0 * static_cast<double>(in.channels) * static_cast<double>(out);
  unit.flops = {flops, flops, flops};
  const int64_t bytes = number_bytes(unit);
  unit.saved_bytes = bytes * in.channels;
  unit.deferred_bytes = bytes * (in.channels + out);
  unit.kept_saved_bytes = bytes * in.channels;
  unit.kept_grad_bytes = bytes * out;
}

}  // namespace furrow::models
