#include "furrow/models/sized_layers.h"

#include <string>

namespace furrow::models {
namespace {

using Layer = SizedLayer;
using Activation = KeptByActivation;
using Cut = SizedCut;
using Operations = SizedOperations;

Activation kept_by(const plan::Unit& unit) {
  const std::string name = activation(unit);
  if (name == "none") return Activation::kNone;
  return keeps_slope(name) ? Activation::kSlope : Activation::kOutput;
}

// nn/attributes.cc: leaky_relu comes behind the bias.
MemoryTape::Tensor activated(const plan::Unit& unit, const MemoryTape::Tensor& x, const SizedVector& bias,
                             Operations* ops) {
  const int64_t columns = numbers_of(unit.output);
  if (activation(unit) != "leaky_relu") return ops->biased_activation(x, columns, kept_by(unit), bias);
  const MemoryTape::Tensor y = ops->biased_activation(x, columns, Activation::kNone, bias);
  return ops->biased_activation(y, columns, Activation::kOutput);
}

}  // namespace

bool drops(const plan::Unit& unit, const char* probability) {
  return unit.attributes.contains(probability) && models::probability(unit, probability) > 0 &&
         !unit.inference;
}

namespace sized_layers {

// nn/linear.cc
Tensor linear(const plan::Unit& unit, const Tensor& input, Operations* ops) {
  const int64_t in = size_of(unit, "in"), out = size_of(unit, "out");
  const bool product = in_product(activation(unit));
  const Activation kept = kept_by(unit);
  const bool rows_cut = unit.parameters.front().tensor_axis == 1;
  const Layer layer = ops->layer("weight", out, rows_cut ? Cut::kRows : Cut::kColumns);
  const Tensor x = ops->copies(input) ? ops->flattened(input, in) : input;
  const Tensor y = ops->linear(x, in, layer, product ? kept : Activation::kNone);
  return product ? y : ops->biased_activation(y, layer.out, kept);
}

// nn/conv_relu_pool.cc
Tensor conv_relu_pool(const plan::Unit& unit, const Tensor& input, Operations* ops) {
  const Shape& in = unit.input.shape;
  const int64_t border = 2 * count_of(unit, "padding") + 1 - size_of(unit, "kernel");
  const int64_t pixels = (in[2] + border) * (in[3] + border);
  const int64_t read = in[1] * in[2] * in[3], out = border_bytes(unit, unit.output) / number_bytes(unit);
  const Layer layer = ops->layer("weight", size_of(unit, "out_channels") * pixels, Cut::kNone);
  if (layer.adapter == nullptr)
    return ops->plain_convolution(
        input, {read, out, layer.weight, layer.trains, flag(unit, "relu") || flag(unit, "pool") ? out : 0});
  const Tensor y = ops->convolution(input, read, layer, layer.rank * pixels);
  const Tensor through =
      ops->activated(y, layer.out, flag(unit, "relu") ? Activation::kOutput : Activation::kNone);
  return flag(unit, "pool") ? ops->pooled(through, layer.out, out) : through;
}

// nn/residual.cc
Tensor pool_linear(const plan::Unit& unit, const Tensor& input, Operations* ops) {
  const int64_t channels = unit.input.shape[1];
  const Tensor means = ops->resampled(input, numbers_of(unit.input), channels);
  return ops->linear(means, channels, ops->layer("weight", size_of(unit, "out"), Cut::kNone));
}

// nn/layers.cc
Tensor conv(const plan::Unit& unit, const Tensor& input, Operations* ops) {
  const int64_t out = numbers_of(unit.output), pixels = out / size_of(unit, "out_channels");
  const Layer layer = ops->layer("weight", out, Cut::kNone);
  const Tensor y = ops->strided_convolution(input, numbers_of(unit.input), layer, layer.rank * pixels);
  return activated(unit, y, layer.bias, ops);
}

// nn/recurrent.cc
Tensor rnn(const plan::Unit& unit, const Tensor& input, Operations* ops) {
  const int64_t in = size_of(unit, "in"), hidden = size_of(unit, "hidden"), out = size_of(unit, "out");
  const Tensor both = ops->recurrent_concatenation(input, in, ops->layer("i2h.weight", hidden, Cut::kNone));
  const Tensor y = ops->linear(both, in + hidden, ops->layer("i2o.weight", out, Cut::kNone));
  return drops(unit) ? ops->dropout(y, out) : y;
}

Tensor lstm(const plan::Unit& unit, const Tensor& input, Operations* ops) {
  const int64_t hidden = size_of(unit, "hidden");
  const Tensor h = ops->lstm(input, size_of(unit, "in"), ops->layer("i2h.weight", hidden, Cut::kNone));
  return drops(unit) ? ops->dropout(h, hidden) : h;
}

// nn/layers.cc
Tensor activation_layer(const plan::Unit& unit, const Tensor& input, Operations* ops) {
  return activated(unit, input, {}, ops);
}

Tensor dropout(const plan::Unit& unit, const Tensor& input, Operations* ops) {
  return drops(unit, "p") ? ops->dropout(input, numbers_of(unit.output)) : input;
}

Tensor max_pool(const plan::Unit& unit, const Tensor& input, Operations* ops) {
  return ops->max_pooled(input, numbers_of(unit.input), numbers_of(unit.output));
}

Tensor resampled(const plan::Unit& unit, const Tensor& input, Operations* ops) {
  return ops->resampled(input, numbers_of(unit.input), numbers_of(unit.output));
}

Tensor layer_norm(const plan::Unit& unit, const Tensor& input, Operations* ops) {
  return ops->norm(input, unit.input.shape.back(), 2, ops->norm_parameters(""));
}

Tensor group_norm(const plan::Unit& unit, const Tensor& input, Operations* ops) {
  return ops->group_norm(input, numbers_of(unit.input), size_of(unit, "groups"), ops->norm_parameters(""));
}

Tensor batch_norm(const plan::Unit& unit, const Tensor& input, Operations* ops) {
  const bool relu = activation(unit) == "relu";
  const Tensor y = ops->batch_norm(input, numbers_of(unit.input), ops->norm_parameters(""), relu);
  return relu ? y : activated(unit, y, {}, ops);
}

}  // namespace sized_layers
}  // namespace furrow::models
