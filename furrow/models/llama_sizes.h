// What the attributes of a llama_block say of its heads and of its rotary positions, for what describes it
// and for the block that computes it.
#pragma once

#include <cstdint>
#include <vector>

#include "furrow/plan/model_spec.h"

namespace furrow::models {

struct LlamaSizes {
  int64_t width = 0, heads = 0, kv_heads = 0, head_dim = 0, ffn = 0;
  int64_t query_width() const { return heads * head_dim; }
  int64_t kv_width() const { return kv_heads * head_dim; }
};

// Error{invalid_argument}: sizes that do not fit one another.
LlamaSizes llama_sizes(const plan::Unit& unit);

// How far a position turns each of the head_dim / 2 pairs of columns, radians: theta^(-2 d / head_dim),
// scaled as the attribute "rope_scaling" says.  Position interpolation: Chen et al., "Extending context
// window of large language models via positional interpolation", 2023; Llama 3.1's: Grattafiori et al., "The
// Llama 3 herd of models", 2024, as its published code has it.  Error{invalid_argument}: a scaling or a
// factor that cannot be.
std::vector<double> rotary_frequencies(const plan::Unit& unit);

}  // namespace furrow::models
