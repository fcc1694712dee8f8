#include <string>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/nn/kinds_torch.h"

namespace furrow::nn {
namespace {

constexpr BlockKind kBlockKinds[] = {
    {"linear", &make_linear},
    {"conv_relu_pool", &make_conv_relu_pool},
    {"token_embedding", &make_token_embedding},
    {"transformer_block", &make_transformer_block},
    {"lm_head", &make_lm_head},
    {"embedding", &make_embedding},
    {"llama_block", &make_llama_block},
    {"llama_head", &make_llama_head},
    {"rnn", &make_rnn},
    {"lstm", &make_lstm},
    {"delay", &make_delay},
    {"conv_norm", &make_conv_norm},
    {"residual_block", &make_residual_block},
    {"bottleneck_block", &make_bottleneck_block},
    {"pool_linear", &make_pool_linear},
    {"latent", &make_latent},
    {"conv", &make_conv},
    {"activation", &make_activation},
    {"dropout", &make_dropout},
    {"max_pool", &make_max_pool},
    {"avg_pool", &make_avg_pool},
    {"global_avg_pool", &make_global_avg_pool},
    {"layer_norm", &make_layer_norm},
    {"group_norm", &make_group_norm},
    {"batch_norm", &make_batch_norm},
};

}  // namespace

std::span<const BlockKind> block_kinds() { return kBlockKinds; }

std::unique_ptr<Block> make_block(const plan::Unit& unit, std::span<const BlockKind> extra) {
  std::vector<std::string> known;
  for (const std::span<const BlockKind> rows : {extra, block_kinds()}) {
    for (const BlockKind& kind : rows) {
      if (kind.name == unit.kind) return kind.make(unit);
      known.emplace_back(kind.name);
    }
  }
  throw Error(ErrorCode::kInvalidArgument, unknown_name_message("unit kind", unit.kind, known));
}

}  // namespace furrow::nn
