// Ranges of logical tensors in checkpoints: whatever part of a tensor a rank holds.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "furrow/storage/checkpoint.h"
#include "furrow/train/model_state_torch.h"

namespace furrow::train {

// The range as boxes of the whole tensor, which view its elements.
std::vector<storage::CheckpointPiece> pieces_of(const NamedRange& range, const std::string& prefix = "");

// `fill` gets a range of host memory in place of one on a device, whose elements become its.
void through_host(const NamedRange& range, const std::function<void(const NamedRange& here)>& fill);

// Fills it.  Errors as CheckpointReader's.
void read_range(const storage::CheckpointReader& reader, const NamedRange& range,
                const std::string& prefix = "");

// Fills it from the elements of the whole tensor, row-major.
void copy_range(std::span<const std::byte> whole, const NamedRange& range);

}  // namespace furrow::train
