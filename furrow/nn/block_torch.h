// The forward code of a unit kind, over tensor/ operations.  Parallelism, recompute, accumulation and the
// loop are not its business.  The seam for new kinds: nn/blocks.cc holds the table.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "furrow/plan/model_spec.h"
#include "furrow/tensor/gradient_sink_torch.h"
#include "furrow/tensor/op_context.h"

namespace furrow::nn {

// Stateless after construction; forward may be called for several microbatches before any backward.
class Block {
 public:
  virtual ~Block() = default;
  // `params` is indexed as Unit::parameters.  Returns the unit's output, [batch, ...].
  virtual at::Tensor forward(const at::Tensor& input, std::span<const tensor::Param> params,
                             tensor::OpContext& context) const = 0;
};

struct BlockKind {
  std::string_view name;  // as in models/kinds.cc
  std::unique_ptr<Block> (*make)(const plan::Unit& unit);
};

std::span<const BlockKind> block_kinds();
// Error{invalid_argument}, lists the known kinds.  `extra` rows (a program's own kinds) are searched first.
std::unique_ptr<Block> make_block(const plan::Unit& unit, std::span<const BlockKind> extra = {});

}  // namespace furrow::nn
