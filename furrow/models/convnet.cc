// convnet: LeNet-5's layout (LeCun et al., "Gradient-based learning applied to document recognition", 1998)
// with ReLU and max pools: convolutions of 6 and 16 channels, 5x5 without padding, each with a 2x2 pool, then
// 120, 84 and the classes.
#include <fmt/format.h>

#include "furrow/models/chains.h"
#include "furrow/models/kinds.h"

namespace furrow::models {
namespace {

constexpr int64_t kKernel = 5;

plan::Attributes convolution(int64_t in, int64_t out) {
  return {{"in_channels", in}, {"out_channels", out},   {"kernel", kKernel},
          {"relu", true},      {"padding", int64_t{0}}, {"pool", true}};
}

plan::Attributes layer(int64_t in, int64_t out, const std::string& activation) {
  return {{"in", in}, {"out", out}, {"bias", true}, {"activation", activation}, {"flatten", true}};
}

}  // namespace

plan::ModelSpec describe_convnet(const config::Model& model, const DataShape& data) {
  const plan::TensorSpec& input = data.input;
  if (input.dtype != DType::kF32 || input.shape.size() != 4) {
    model_error(model, fmt::format("it reads images, float32 [-1, channels, height, width], not {} {}",
                                   to_string(input.dtype), to_string(input.shape)));
  }
  plan::ModelSpec spec;
  spec.units.push_back(make_unit("conv1", "conv_relu_pool", convolution(input.shape[1], 6), input));
  append(&spec, "conv2", "conv_relu_pool", convolution(6, 16));
  const Shape& image = spec.units.back().output.shape;
  const int64_t features = image[1] * image[2] * image[3];
  append(&spec, "fc1", "linear", layer(features, 120, "relu"));
  append(&spec, "fc2", "linear", layer(120, 84, "relu"));
  append(&spec, "fc3", "linear", layer(84, data.classes, "none"));
  return spec;
}

}  // namespace furrow::models
