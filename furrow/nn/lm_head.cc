// "lm_head": the last layer norm and the projection to the vocabulary, whose weight may be tied to the
// embedding's.
#include "furrow/nn/kinds_torch.h"
#include "furrow/nn/parameters_torch.h"
#include "furrow/tensor/ops_torch.h"

namespace furrow::nn {
namespace {

class LmHead final : public Block {
 public:
  explicit LmHead(const plan::Unit& unit)
      : norm_weight_(ParameterSlot::find(unit, "ln_f.weight")),
        norm_bias_(ParameterSlot::find_optional(unit, "ln_f.bias")),
        weight_(ParameterSlot::find(unit, "lm_head.weight")),
        replicated_(unit) {}

  at::Tensor forward(const at::Tensor& input, std::span<const tensor::Param> params,
                     tensor::OpContext& context) const override {
    replicated_.sum_gradients(params, context);
    const at::Tensor x =
        tensor::layer_norm(input, norm_weight_(params), norm_bias_(params), kEpsilon, context);
    return tensor::linear(
        x, {weight_(params), {}, tensor::Activation::kNone, tensor::Cut::kPositionsToColumns}, context);
  }

 private:
  static constexpr double kEpsilon = 1e-5;
  ParameterSlot norm_weight_, norm_bias_, weight_;
  ReplicatedParameters replicated_;
};

}  // namespace

std::unique_ptr<Block> make_lm_head(const plan::Unit& unit) { return std::make_unique<LmHead>(unit); }

}  // namespace furrow::nn
