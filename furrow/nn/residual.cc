// "conv_norm", "residual_block", "bottleneck_block" and "pool_linear": the units of residual networks.
#include <optional>
#include <string>

#include "furrow/nn/kinds_torch.h"
#include "furrow/nn/parameters_torch.h"
#include "furrow/tensor/ops_torch.h"

namespace furrow::nn {
namespace {

// A convolution and the batch norm behind it, by the names of their parameters.
class ConvolutionAndNorm {
 public:
  ConvolutionAndNorm(const plan::Unit& unit, std::string_view weight, const std::string& norm,
                     const tensor::StridedConvolution& convolution)
      : weight_(ParameterSlot::find(unit, weight)),
        norm_weight_(ParameterSlot::find(unit, norm + ".weight")),
        norm_bias_(ParameterSlot::find(unit, norm + ".bias")),
        convolution_(convolution) {
    options_.eps = plan::attribute<double>(unit, "eps");
    options_.mean_offset = statistic_offset(unit, norm + ".running_mean");
    options_.variance_offset = statistic_offset(unit, norm + ".running_var");
  }

  at::Tensor forward(const at::Tensor& x, std::span<const tensor::Param> params, bool relu,
                     const at::Tensor& residual, tensor::OpContext& context) const {
    tensor::BatchNorm norm = options_;
    norm.relu = relu;
    norm.residual = residual;
    const at::Tensor y = tensor::strided_conv2d(x, weight_(params), convolution_, context);
    return tensor::batch_norm(y, norm_weight_(params), norm_bias_(params), norm, context);
  }

 private:
  ParameterSlot weight_, norm_weight_, norm_bias_;
  tensor::StridedConvolution convolution_;
  tensor::BatchNorm options_;
};

class ConvNorm final : public Block {
 public:
  explicit ConvNorm(const plan::Unit& unit)
      : layer_(unit, "conv1.weight", "bn1",
               {plan::attribute<int64_t>(unit, "stride"), plan::attribute<int64_t>(unit, "padding")}),
        pool_(plan::attribute<bool>(unit, "pool")) {}

  at::Tensor forward(const at::Tensor& input, std::span<const tensor::Param> params,
                     tensor::OpContext& context) const override {
    const at::Tensor y = layer_.forward(input, params, /*relu=*/true, {}, context);
    return pool_ ? tensor::max_pool(y, {3, 2, 1}, context) : y;
  }

 private:
  ConvolutionAndNorm layer_;
  bool pool_;
};

// What goes past a block: its input, where the shape changes subsampled and padded or projected.
class Shortcut {
 public:
  explicit Shortcut(const plan::Unit& unit)
      : stride_(plan::attribute<int64_t>(unit, "stride")),
        channels_(plan::attribute<int64_t>(unit, "out_channels")),
        changes_(stride_ != 1 || channels_ != plan::attribute<int64_t>(unit, "in_channels")) {
    if (changes_ && plan::attribute<std::string>(unit, "shortcut") == "projection")
      projection_.emplace(unit, "downsample.0.weight", "downsample.1",
                          tensor::StridedConvolution{stride_, 0});
  }

  at::Tensor forward(const at::Tensor& input, std::span<const tensor::Param> params,
                     tensor::OpContext& context) const {
    if (projection_) return projection_->forward(input, params, /*relu=*/false, {}, context);
    return changes_ ? tensor::subsample_and_pad(input, stride_, channels_, context) : input;
  }
  int64_t stride() const { return stride_; }

 private:
  int64_t stride_, channels_;
  bool changes_;
  std::optional<ConvolutionAndNorm> projection_;
};

// relu(norm(conv(relu(norm(conv(x))))) + shortcut(x)).
class ResidualBlock final : public Block {
 public:
  explicit ResidualBlock(const plan::Unit& unit)
      : shortcut_(unit),
        first_(unit, "conv1.weight", "bn1", {shortcut_.stride(), 1}),
        second_(unit, "conv2.weight", "bn2", {1, 1}) {}

  at::Tensor forward(const at::Tensor& input, std::span<const tensor::Param> params,
                     tensor::OpContext& context) const override {
    const at::Tensor past = shortcut_.forward(input, params, context);
    const at::Tensor middle = first_.forward(input, params, /*relu=*/true, {}, context);
    return second_.forward(middle, params, /*relu=*/true, past, context);
  }

 private:
  Shortcut shortcut_;
  ConvolutionAndNorm first_, second_;
};

// The same with three convolutions, of 1 x 1, 3 x 3 and 1 x 1, the middle one of fewer channels.
class BottleneckBlock final : public Block {
 public:
  explicit BottleneckBlock(const plan::Unit& unit)
      : shortcut_(unit),
        first_(unit, "conv1.weight", "bn1", {1, 0}),
        second_(unit, "conv2.weight", "bn2", {shortcut_.stride(), 1}),
        third_(unit, "conv3.weight", "bn3", {1, 0}) {}

  at::Tensor forward(const at::Tensor& input, std::span<const tensor::Param> params,
                     tensor::OpContext& context) const override {
    const at::Tensor past = shortcut_.forward(input, params, context);
    at::Tensor middle = first_.forward(input, params, /*relu=*/true, {}, context);
    middle = second_.forward(middle, params, /*relu=*/true, {}, context);
    return third_.forward(middle, params, /*relu=*/true, past, context);
  }

 private:
  Shortcut shortcut_;
  ConvolutionAndNorm first_, second_, third_;
};

class PoolLinear final : public Block {
 public:
  explicit PoolLinear(const plan::Unit& unit)
      : weight_(ParameterSlot::find(unit, "weight")), bias_(ParameterSlot::find(unit, "bias")) {}

  at::Tensor forward(const at::Tensor& input, std::span<const tensor::Param> params,
                     tensor::OpContext& context) const override {
    return tensor::linear(tensor::global_average_pool(input, context), weight_(params), bias_(params),
                          tensor::Activation::kNone, context);
  }

 private:
  ParameterSlot weight_, bias_;
};

}  // namespace

std::unique_ptr<Block> make_conv_norm(const plan::Unit& unit) { return std::make_unique<ConvNorm>(unit); }
std::unique_ptr<Block> make_residual_block(const plan::Unit& unit) {
  return std::make_unique<ResidualBlock>(unit);
}
std::unique_ptr<Block> make_bottleneck_block(const plan::Unit& unit) {
  return std::make_unique<BottleneckBlock>(unit);
}
std::unique_ptr<Block> make_pool_linear(const plan::Unit& unit) { return std::make_unique<PoolLinear>(unit); }

}  // namespace furrow::nn
