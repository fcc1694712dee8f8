// resnet20 and resnet18 (He et al., "Deep residual learning for image recognition", 2016).
//
// resnet20: the network for CIFAR, section 4.2: a 3x3 convolution of 16 channels, three groups of three basic
// blocks with 16, 32 and 64, shortcuts of option A (identity, padded with zeros), 0.27 M parameters.
// resnet18: the network for ImageNet, table 1, as torchvision has it: a 7x7 convolution and a max pool, four
// groups of two blocks with 64 to 512 channels, projections (option B).
#include <fmt/format.h>

#include <span>

#include "furrow/models/chains.h"
#include "furrow/models/kinds.h"

namespace furrow::models {
namespace {

constexpr double kMomentum = 0.1;
constexpr double kEps = 1e-5;

struct Stem {
  int64_t channels, kernel, stride, padding;
  bool pool;
};

struct Groups {
  std::span<const int64_t> channels;
  int64_t blocks;
  std::string shortcut;
};

plan::ModelSpec residual_network(const config::Model& model, const DataShape& data, const Stem& stem,
                                 const Groups& groups) {
  const plan::TensorSpec& input = data.input;
  if (input.dtype != DType::kF32 || input.shape.size() != 4) {
    model_error(model, fmt::format("it reads images, float32 [-1, channels, height, width], not {} {}",
                                   to_string(input.dtype), to_string(input.shape)));
  }
  plan::ModelSpec spec;
  const std::string no_prefix;
  spec.units.push_back(make_unit("stem", "conv_norm",
                                 {{"in_channels", input.shape[1]},
                                  {"out_channels", stem.channels},
                                  {"kernel", stem.kernel},
                                  {"stride", stem.stride},
                                  {"padding", stem.padding},
                                  {"pool", stem.pool},
                                  {"momentum", kMomentum},
                                  {"eps", kEps},
                                  {"prefix", no_prefix}},
                                 input));
  int64_t before = stem.channels;
  for (size_t group = 0; group < groups.channels.size(); ++group) {
    for (int64_t block = 0; block < groups.blocks; ++block) {
      const int64_t stride = group > 0 && block == 0 ? 2 : 1;
      append(&spec, fmt::format("layer{}.{}", group + 1, block), "residual_block",
             {{"in_channels", before},
              {"out_channels", groups.channels[group]},
              {"stride", stride},
              {"shortcut", groups.shortcut},
              {"momentum", kMomentum},
              {"eps", kEps}});
      before = groups.channels[group];
    }
  }
  append(&spec, "fc", "pool_linear", {{"channels", before}, {"out", data.classes}});
  return spec;
}

}  // namespace

plan::ModelSpec describe_resnet20(const config::Model& model, const DataShape& data) {
  constexpr int64_t kChannels[] = {16, 32, 64};
  return residual_network(model, data, {16, 3, 1, 1, false}, {kChannels, 3, "pad"});
}

plan::ModelSpec describe_resnet18(const config::Model& model, const DataShape& data) {
  constexpr int64_t kChannels[] = {64, 128, 256, 512};
  return residual_network(model, data, {64, 7, 2, 3, true}, {kChannels, 2, "projection"});
}

}  // namespace furrow::models
