// What of a model's flat buffers lives on a rank, and in which memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "furrow/base/memory.h"
#include "furrow/plan/flat_layout.h"
#include "furrow/plan/placement.h"
#include "furrow/train/model_state_torch.h"
#include "furrow/train/rank_context.h"

namespace furrow::train {

// What a rank of this placement keeps of the model: slices of parameters and optimizer state by ZeRO stage.
// Parameters lie in memory that peers read; the communicator outlives nothing of it (comm/memory.h).
Residence residence_of(const plan::FlatLayout& flat, const plan::Placement& placement,
                       const RankContext& rank);

// The rank's own pieces of every unit's flat buffer, which no other rank writes to a checkpoint.
std::vector<plan::Slice> own_slices(const plan::FlatLayout& flat, const plan::Placement& placement);

// A flat buffer of zeros in memory that peers read in place; in a world of one, or without a communicator,
// memory like any other (tensor/flat_buffer_torch.h).
at::Tensor rank_buffer(comm::Communicator* communicator, int64_t elements, MemoryKind kind,
                       at::ScalarType type = at::kFloat);

// The same on the rank's device: where that is not the CPU, memory of the device, which no peer reads.
at::Tensor rank_buffer(const RankContext& rank, int64_t elements, MemoryKind kind,
                       at::ScalarType type = at::kFloat);

}  // namespace furrow::train
