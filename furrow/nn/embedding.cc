// "embedding": token vectors alone.
#include "furrow/nn/kinds_torch.h"
#include "furrow/nn/parameters_torch.h"
#include "furrow/tensor/ops_torch.h"

namespace furrow::nn {
namespace {

class Embedding final : public Block {
 public:
  explicit Embedding(const plan::Unit& unit)
      : weight_(ParameterSlot::find(unit, "weight")),
        replicated_(unit),
        vocabulary_(plan::attribute<int64_t>(unit, "vocab")) {}

  at::Tensor forward(const at::Tensor& input, std::span<const tensor::Param> params,
                     tensor::OpContext& context) const override {
    replicated_.sum_gradients(params, context);
    return tensor::embedding_cut(input, weight_(params), {}, vocabulary_, context);
  }

 private:
  ParameterSlot weight_;
  ReplicatedParameters replicated_;
  int64_t vocabulary_;
};

}  // namespace

std::unique_ptr<Block> make_embedding(const plan::Unit& unit) { return std::make_unique<Embedding>(unit); }

}  // namespace furrow::nn
