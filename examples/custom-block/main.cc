// A program outside furrow's tree that adds a block of its own and trains it.
//
//   custom_block CONFIG RUN_FOLDER [--section.key value ...]
//
// The block is a gated linear unit (Dauphin et al., "Language modeling with gated convolutional networks",
// 2017), y = (x V^T) * sigmoid(x G^T), written in plain libtorch; checkpoints, resume, recompute,
// accumulation and records come with train::train.  The network: flatten -> linear 128 -> gated 128 -> linear
// classes.
#include <ATen/ATen.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/config/config.h"
#include "furrow/models/kinds.h"
#include "furrow/nn/block_torch.h"
#include "furrow/train/extensions_torch.h"
#include "furrow/train/session.h"

namespace {

using furrow::DType;
namespace models = furrow::models;
namespace nn = furrow::nn;
namespace plan = furrow::plan;
namespace tensor = furrow::tensor;
namespace train = furrow::train;

constexpr int64_t kWidth = 128;

// What the unit needs and costs, as data.
void describe_gated(plan::Unit& unit) {
  const int64_t in = unit.input.shape.back();
  const plan::Init init{plan::Init::Kind::kUniform, 1 / std::sqrt(static_cast<double>(in))};
  for (const char* name : {".value", ".gate"}) {
    unit.parameters.push_back({.name = unit.name + name, .shape = {kWidth, in}, .init = init});
  }
  unit.output = {DType::kF32, {-1, kWidth}};
  const double flops = 2 * 2.0 * static_cast<double>(in * kWidth);
  unit.flops = {flops, flops, flops};
  unit.saved_bytes = 3 * kWidth * static_cast<int64_t>(sizeof(float));
}

// What it computes.  Plain libtorch code uses the leaves; autograd does the rest.
class Gated final : public nn::Block {
 public:
  at::Tensor forward(const at::Tensor& input, std::span<const tensor::Param> params,
                     tensor::OpContext&) const override {
    return at::linear(input, params[0].leaf) * at::sigmoid(at::linear(input, params[1].leaf));
  }
};

std::unique_ptr<nn::Block> make_gated(const plan::Unit&) { return std::make_unique<Gated>(); }

constexpr models::Kind kGated{"gated", &describe_gated};

plan::Attributes linear(int64_t in, int64_t out, const char* activation, bool flatten) {
  return {{"in", in},
          {"out", out},
          {"bias", true},
          {"flatten", flatten},
          {"activation", std::string(activation)}};
}

plan::ModelSpec describe(const furrow::config::Model&, const models::DataShape& data) {
  int64_t pixels = 1;
  for (size_t dim = 1; dim < data.input.shape.size(); ++dim) pixels *= data.input.shape[dim];
  plan::ModelSpec spec{.architecture = "gated", .units = {}};
  spec.units.push_back(models::make_unit("fc1", "linear", linear(pixels, kWidth, "relu", true), data.input));
  spec.units.push_back(models::make_unit("gated", kGated, {}, spec.units.back().output));
  spec.units.push_back(models::make_unit("fc2", "linear", linear(kWidth, data.classes, "none", false),
                                         spec.units.back().output));
  return spec;
}

int run(const std::string& path, const std::string& folder, const std::vector<std::string>& overrides) {
  train::Extensions extensions;
  extensions.architectures.push_back({"gated", &describe});
  extensions.blocks.push_back({"gated", &make_gated});

  train::TrainRequest request;
  request.config = furrow::config::load(path, overrides);
  request.config.model.name = "gated";
  request.run_folder = folder;
  request.extensions = &extensions;
  train::train(request);
  std::printf("trained, see %s/summary.json\n", folder.c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: custom_block CONFIG RUN_FOLDER [--section.key value ...]\n");
    return furrow::exit_status(furrow::ErrorCode::kInvalidArgument);
  }
  try {
    return run(argv[1], argv[2], std::vector<std::string>(argv + 3, argv + argc));
  } catch (const furrow::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return furrow::exit_status(error.code());
  }
}
