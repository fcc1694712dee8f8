// "token_embedding": token and learned position vectors, summed, then dropout.
#include "furrow/nn/kinds_torch.h"
#include "furrow/nn/parameters_torch.h"
#include "furrow/tensor/ops_torch.h"

namespace furrow::nn {
namespace {

class TokenEmbedding final : public Block {
 public:
  explicit TokenEmbedding(const plan::Unit& unit)
      : tokens_(ParameterSlot::find(unit, "wte.weight")),
        positions_(ParameterSlot::find(unit, "wpe.weight")),
        replicated_(unit),
        vocabulary_(plan::attribute<int64_t>(unit, "vocab")),
        dropout_(plan::attribute<double>(unit, "dropout")),
        stream_(layer_name(unit, "wte.weight", "drop")) {}

  at::Tensor forward(const at::Tensor& input, std::span<const tensor::Param> params,
                     tensor::OpContext& context) const override {
    replicated_.sum_gradients(params, context);
    const at::Tensor sum =
        tensor::embedding_cut(input, tokens_(params), positions_(params), vocabulary_, context);
    return tensor::dropout(sum, dropout_, stream_, context);
  }

 private:
  ParameterSlot tokens_, positions_;
  ReplicatedParameters replicated_;
  int64_t vocabulary_;  // of all ranks
  double dropout_;
  std::string stream_;  // the layer name of the mask
};

}  // namespace

std::unique_ptr<Block> make_token_embedding(const plan::Unit& unit) {
  return std::make_unique<TokenEmbedding>(unit);
}

}  // namespace furrow::nn
