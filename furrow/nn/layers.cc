// Single layers: "conv", "activation", "dropout", pools and norms.
#include <ATen/ATen.h>

#include <array>
#include <string>
#include <tuple>
#include <vector>

#include "furrow/nn/attributes_torch.h"
#include "furrow/nn/kinds_torch.h"
#include "furrow/nn/parameters_torch.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/ops_torch.h"

namespace furrow::nn {
namespace {

class Conv final : public Block {
 public:
  explicit Conv(const plan::Unit& unit)
      : weight_(ParameterSlot::find(unit, "weight")),
        bias_(ParameterSlot::find_optional(unit, "bias")),
        convolution_{plan::attribute<int64_t>(unit, "stride"), plan::attribute<int64_t>(unit, "padding")},
        activation_(unit) {}

  at::Tensor forward(const at::Tensor& input, std::span<const tensor::Param> params,
                     tensor::OpContext& context) const override {
    const at::Tensor y = tensor::strided_conv2d(input, weight_(params), convolution_, context);
    return activation_.apply(y, bias_(params), context);
  }

 private:
  ParameterSlot weight_, bias_;
  tensor::StridedConvolution convolution_;
  UnitActivation activation_;
};

class ActivationLayer final : public Block {
 public:
  explicit ActivationLayer(const plan::Unit& unit) : activation_(unit) {}

  at::Tensor forward(const at::Tensor& input, std::span<const tensor::Param>,
                     tensor::OpContext& context) const override {
    return activation_.apply(input, {}, context);
  }

 private:
  UnitActivation activation_;
};

// It has no parameter to be called after: its masks go by the name of the unit, which the user gave.
class Dropout final : public Block {
 public:
  explicit Dropout(const plan::Unit& unit) : name_(unit.name), p_(plan::attribute<double>(unit, "p")) {}

  at::Tensor forward(const at::Tensor& input, std::span<const tensor::Param>,
                     tensor::OpContext& context) const override {
    return tensor::dropout(input, p_, name_, context);
  }

 private:
  std::string name_;
  double p_;
};

tensor::Pool pool_of(const plan::Unit& unit) {
  const auto kernel = plan::attribute<int64_t>(unit, "kernel"),
             stride = plan::attribute<int64_t>(unit, "stride");
  return {kernel, stride == 0 ? kernel : stride, plan::attribute<int64_t>(unit, "padding")};
}

class Pool final : public Block {
 public:
  using Operation = at::Tensor (*)(const at::Tensor&, const tensor::Pool&, tensor::OpContext&);
  Pool(const plan::Unit& unit, Operation operation) : pool_(pool_of(unit)), operation_(operation) {}

  at::Tensor forward(const at::Tensor& input, std::span<const tensor::Param>,
                     tensor::OpContext& context) const override {
    return operation_(input, pool_, context);
  }

 private:
  tensor::Pool pool_;
  Operation operation_;
};

class GlobalAveragePool final : public Block {
 public:
  at::Tensor forward(const at::Tensor& input, std::span<const tensor::Param>,
                     tensor::OpContext& context) const override {
    return tensor::global_average_pool(input, context);
  }
};

class LayerNorm final : public Block {
 public:
  explicit LayerNorm(const plan::Unit& unit)
      : weight_(ParameterSlot::find(unit, "weight")),
        bias_(ParameterSlot::find_optional(unit, "bias")),
        eps_(plan::attribute<double>(unit, "eps")) {}

  at::Tensor forward(const at::Tensor& input, std::span<const tensor::Param> params,
                     tensor::OpContext& context) const override {
    return tensor::layer_norm(input, weight_(params), bias_(params), eps_, context);
  }

 private:
  ParameterSlot weight_, bias_;
  double eps_;
};

// libtorch's, float32 inside.
class GroupNorm final : public Block {
 public:
  explicit GroupNorm(const plan::Unit& unit)
      : weight_(ParameterSlot::find(unit, "weight")),
        bias_(ParameterSlot::find(unit, "bias")),
        groups_(plan::attribute<int64_t>(unit, "groups")),
        eps_(plan::attribute<double>(unit, "eps")) {}

  at::Tensor forward(const at::Tensor& input, std::span<const tensor::Param> params,
                     tensor::OpContext& context) const override {
    const tensor::Param weight = weight_(params), bias = bias_(params);
    const bool apart = input.is_contiguous(at::MemoryFormat::ChannelsLast) && input.size(1) > 1;
    const auto format = apart ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
    Call call{input.detach().contiguous(format),
              weight.leaf.detach().to(at::kFloat),
              {},
              {},
              groups_,
              weight.index,
              bias.index,
              context.sink};
    const at::Tensor x = call.x.to(at::kFloat);
    at::Tensor y;
    std::tie(y, call.mean, call.rstd) =
        at::native_group_norm(x, call.weight, bias.leaf.detach().to(at::kFloat), x.size(0), x.size(1),
                              x.size(2) * x.size(3), groups_, eps_);
    return tensor::with_backward(
        y.to(input.scalar_type()).contiguous(format), {input, weight.leaf},
        [call](const at::Tensor& dy) { return backward(call, dy); }, format);
  }

 private:
  // Kept from forward to backward.
  struct Call {
    at::Tensor x, weight, mean, rstd;
    int64_t groups;
    int weight_index, bias_index;
    tensor::GradientSink* sink;
  };

  static std::vector<at::Tensor> backward(const Call& call, const at::Tensor& dy) {
    const at::Tensor x = call.x.to(at::kFloat);
    const auto [dx, dweight, dbias] = at::native_group_norm_backward(
        dy.to(at::kFloat), x, call.mean, call.rstd, call.weight, x.size(0), x.size(1), x.size(2) * x.size(3),
        call.groups, std::array<bool, 3>{true, true, true});
    if (call.sink != nullptr) {
      call.sink->put(call.weight_index, dweight);
      call.sink->put(call.bias_index, dbias);
    }
    return {dx.to(dy.scalar_type())};
  }

  ParameterSlot weight_, bias_;
  int64_t groups_;
  double eps_;
};

// Of an image, or of rows as images of one pixel; a ReLU in the same pass.
class BatchNorm final : public Block {
 public:
  explicit BatchNorm(const plan::Unit& unit)
      : weight_(ParameterSlot::find(unit, "weight")),
        bias_(ParameterSlot::find(unit, "bias")),
        activation_(unit) {
    norm_.eps = plan::attribute<double>(unit, "eps");
    norm_.relu = plan::attribute<std::string>(unit, "activation") == "relu";
    norm_.mean_offset = statistic_offset(unit, "running_mean");
    norm_.variance_offset = statistic_offset(unit, "running_var");
  }

  at::Tensor forward(const at::Tensor& input, std::span<const tensor::Param> params,
                     tensor::OpContext& context) const override {
    const bool rows = input.dim() == 2;
    const at::Tensor x = rows ? input.unsqueeze(2).unsqueeze(3) : input;
    at::Tensor y = tensor::batch_norm(x, weight_(params), bias_(params), norm_, context);
    if (rows) y = y.flatten(1);
    return norm_.relu ? y : activation_.apply(y, {}, context);
  }

 private:
  ParameterSlot weight_, bias_;
  tensor::BatchNorm norm_;
  UnitActivation activation_;
};

}  // namespace

std::unique_ptr<Block> make_conv(const plan::Unit& unit) { return std::make_unique<Conv>(unit); }
std::unique_ptr<Block> make_activation(const plan::Unit& unit) {
  return std::make_unique<ActivationLayer>(unit);
}
std::unique_ptr<Block> make_dropout(const plan::Unit& unit) { return std::make_unique<Dropout>(unit); }
std::unique_ptr<Block> make_max_pool(const plan::Unit& unit) {
  return std::make_unique<Pool>(unit, &tensor::max_pool);
}
std::unique_ptr<Block> make_avg_pool(const plan::Unit& unit) {
  return std::make_unique<Pool>(unit, &tensor::average_pool);
}
std::unique_ptr<Block> make_global_avg_pool(const plan::Unit& /*unit*/) {
  return std::make_unique<GlobalAveragePool>();
}
std::unique_ptr<Block> make_layer_norm(const plan::Unit& unit) { return std::make_unique<LayerNorm>(unit); }
std::unique_ptr<Block> make_group_norm(const plan::Unit& unit) { return std::make_unique<GroupNorm>(unit); }
std::unique_ptr<Block> make_batch_norm(const plan::Unit& unit) { return std::make_unique<BatchNorm>(unit); }

}  // namespace furrow::nn
