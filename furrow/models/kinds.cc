#include "furrow/models/kinds.h"

#include <array>
#include <string>
#include <utility>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/models/specs.h"

namespace furrow::models {
namespace {

constexpr std::array<Kind, 25> kKinds = {{
    {"conv_relu_pool", &describe_conv_relu_pool, true, true},
    {"linear", &describe_linear, true},
    {"token_embedding", &describe_token_embedding, true},
    {"transformer_block", &describe_transformer_block, true},
    {"lm_head", &describe_lm_head, true},
    {"embedding", &describe_embedding, true},
    {"llama_block", &describe_llama_block, true},
    {"llama_head", &describe_llama_head, true},
    {"rnn", &describe_rnn, true},
    {"lstm", &describe_lstm, true},
    {"delay", &describe_delay, false},
    {"conv_norm", &describe_conv_norm, true, false, true},
    {"residual_block", &describe_residual_block, true, false, true},
    {"bottleneck_block", &describe_bottleneck_block, true, false, true},
    {"pool_linear", &describe_pool_linear, true},
    {"latent", &describe_latent, false},
    {"conv", &describe_conv, true, false, true},
    {"activation", &describe_activation, true},
    {"dropout", &describe_dropout, true},
    {"max_pool", &describe_max_pool, true},
    {"avg_pool", &describe_avg_pool, true},
    {"global_avg_pool", &describe_global_avg_pool, true},
    {"layer_norm", &describe_layer_norm, true},
    {"group_norm", &describe_group_norm, true},
    {"batch_norm", &describe_batch_norm, true},
}};

}  // namespace

std::span<const Kind> kinds() { return kKinds; }

const Kind& find_kind(std::string_view name) {
  std::vector<std::string> known;
  for (const Kind& kind : kKinds) {
    if (kind.name == name) return kind;
    known.emplace_back(kind.name);
  }
  throw Error(ErrorCode::kInvalidArgument, unknown_name_message("unit kind", name, known));
}

plan::Unit make_unit(std::string name, std::string_view kind, plan::Attributes attributes,
                     plan::TensorSpec input) {
  return make_unit(std::move(name), find_kind(kind), std::move(attributes), std::move(input));
}

plan::Unit make_unit(std::string name, const Kind& kind, plan::Attributes attributes,
                     plan::TensorSpec input) {
  plan::Unit unit;
  unit.name = std::move(name);
  unit.kind = std::string(kind.name);
  unit.attributes = std::move(attributes);
  unit.input = std::move(input);
  kind.describe(unit);
  return unit;
}

}  // namespace furrow::models
