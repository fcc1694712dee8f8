// The blocks of nn/ on sizes, a row for each kind of unit that block_memory.h knows.  Internal to models.
#pragma once

#include <cstdint>
#include <string_view>

#include "furrow/models/sized_operations.h"

namespace furrow::models {

struct SizedBlock {
  using Forward = MemoryTape::Tensor (*)(const plan::Unit& unit, const MemoryTape::Tensor& input,
                                         SizedOperations* ops);
  // How often it does the same for a sample.
  enum class Rows : uint8_t {
    kOnce,
    kPositions,
    kSharedPositions,  // which ranks of a tensor axis share
    kPositionsOfPart,  // the same; what is not cut holds what is described
  };
  std::string_view kind;
  Forward forward;
  Rows rows = Rows::kOnce;

  bool shares_positions() const { return rows >= Rows::kSharedPositions; }
  int64_t rows_of(const plan::Unit& unit) const;
};

const SizedBlock* find_sized_block(const plan::Unit& unit);  // null: of another kind

}  // namespace furrow::models
