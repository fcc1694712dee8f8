// What an adapter costs its unit: FLOPs and bytes, of the whole and over a tensor axis.  Internal to models.
#pragma once

#include <cstdint>

#include "furrow/plan/model_spec.h"

namespace furrow::models {

// What a layer does with its weight, and so the shapes of what stands beside it.
enum class AdapterForm : uint8_t {
  kLinear,
  kConvolution,
  kRecurrent,  // a linear layer that reads what it said one step before
  kTable,      // its rows are looked up
};

// Rows of a recurrent layer's weight, or of what it reads, that are float32 at once where it is of 16 bits
// (tensor/adapter.cc).
inline constexpr int64_t kWidenedRows = 64;

// Of an adapter: how often it multiplies and by how much, and what it reads, elements of a sample.
struct AdapterSizes {
  int64_t rows = 0, rank = 0, in = 0, out = 0;
  int64_t read = 0;
};

// Where it stands: whether it reads the unit's input or what another adapter has read already, whether what
// it says is the last before the unit's output, and which dim of its weight a tensor axis cuts, -1: none.
struct AdapterSurroundings {
  AdapterForm form = AdapterForm::kLinear;
  bool reads_input = false, read_already = false, last = false;
  int axis = -1;

  bool looks_up() const { return form == AdapterForm::kTable; }
  bool cuts_outputs() const { return axis == 0 && !looks_up(); }
  // Inputs, or rows of a table: what B says is summed over the ranks.
  bool cuts_inputs() const { return axis == 1 || (axis == 0 && looks_up()); }
};

// Products with the two thin matrices, and what the block keeps for their backward: what A reads where it is
// neither the unit's input nor kept anyway, A's output, and the gradients behind both.
void add_adapter_costs(const AdapterSizes& s, const AdapterSurroundings& where, plan::Adapter* adapter,
                       plan::Unit* unit);

}  // namespace furrow::models
