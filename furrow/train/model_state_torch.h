// The live state of a model on one rank: flat parameters and optimizer state of every unit, and its blocks.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "furrow/nn/block_torch.h"
#include "furrow/plan/flat_layout.h"
#include "furrow/plan/model_spec.h"
#include "furrow/tensor/gradient_sink_torch.h"

namespace furrow::train {

struct UnitState {
  at::Tensor params;               // flat, float32, UnitLayout::elements; undefined when the unit has none
  std::vector<at::Tensor> states;  // flat, one per state of the optimizer, in its order
};

// A logical tensor as checkpoints and exports name it, and where it lies now.
struct NamedTensor {
  std::string name;  // "conv1.weight"; states are "optimizer.<state>/conv1.weight"
  at::Tensor view;   // into the flat buffer, with the parameter's shape
};

class ModelState {
 public:
  // Parameters are initialised from `seed`; states are zeros named by `state_names` (none: inference only).
  ModelState(plan::ModelSpec spec, std::vector<std::string> state_names, uint64_t seed,
             std::span<const nn::BlockKind> extra_kinds = {});

  const plan::ModelSpec& spec() const { return spec_; }
  const plan::FlatLayout& flat() const { return flat_; }
  const nn::Block& block(int unit) const { return *blocks_[unit]; }
  UnitState& unit(int index) { return units_[index]; }
  const UnitState& unit(int index) const { return units_[index]; }
  const std::vector<std::string>& state_names() const { return state_names_; }

  // Indexed as Unit::parameters; tied ones are views of their owner's buffer.  Views see every later step.
  std::span<const tensor::Param> params(int unit) const { return params_[unit]; }

  std::vector<NamedTensor> parameters() const;  // owned ones, in unit order
  std::vector<NamedTensor> optimizer_states() const;

  // The same names over other flat buffers of this layout (a snapshot).
  std::vector<NamedTensor> parameters_of(std::span<const UnitState> units) const;
  std::vector<NamedTensor> optimizer_states_of(std::span<const UnitState> units) const;

  // Copies of a unit's flat buffers.  With `alias` the live buffers themselves.
  UnitState snapshot(int unit, bool alias) const;
  std::vector<UnitState> snapshot_parameters() const;  // copies, by unit, without states
  void load_snapshot(std::span<const UnitState> parameters);

 private:
  plan::ModelSpec spec_;
  plan::FlatLayout flat_;
  std::vector<std::string> state_names_;
  std::vector<std::unique_ptr<nn::Block>> blocks_;
  std::vector<UnitState> units_;
  std::vector<std::vector<tensor::Param>> params_;
};

}  // namespace furrow::train
