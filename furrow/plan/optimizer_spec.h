// Optimizers as data: which states each keeps, and what it needs of the buffers that it works on.
// tensor/optimizer.cc has exactly one loop for every row (a test of train holds them together).
#pragma once

#include <array>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/config/config.h"
#include "furrow/plan/model_spec.h"
#include "furrow/plan/state_form.h"

namespace furrow::plan {

// What a step of a part of a flat buffer has to be at least.  Under ZeRO slices are cut by it.
enum class StepNeeds : uint8_t {
  kElements,    // an element
  kBlocks,      // a block of kStateBlock elements of one parameter
  kParameters,  // a parameter: it forms norms, or sums of rows and columns
  kMatrices,    // a hidden matrix, where it has one; an element of what is none
};

struct StateRow {
  std::string_view name;  // "exp_avg"
  StateForm form = StateForm::kElements;
};

struct OptimizerSpec {
  std::string_view name;           // "adamw"
  std::array<StateRow, 4> states;  // without names where fewer
  StepNeeds needs = StepNeeds::kElements;
  std::string_view keys = {};  // of [optimizer] groups, beside those of every row: "beta1 beta2 eps"
  bool stateless_without_momentum = false;

  size_t state_count() const;
};

std::span<const OptimizerSpec> optimizer_specs();
const OptimizerSpec& find_optimizer_spec(std::string_view name);  // Error{invalid_argument}, lists the known

// The state that [ema] decay adds behind the optimizer's own: it starts as the parameters.
inline constexpr std::string_view kAverageState = "ema";

// The run's optimizer, and behind it those that `groups` names for parameters of their own, each once.
// Error{invalid_argument}: one that is unknown.
std::vector<std::string> optimizers_of(const config::Optimizer& optimizer);

// The states that a run of this config keeps, in the order of its flat buffers.  SGD keeps its buffer only
// where a momentum is set, of a group too, or the schedule moves it.
std::vector<StateSpec> optimizer_states(const config::Optimizer& optimizer,
                                        const config::LrScheduler& schedule, const config::Ema& ema = {});
StateForms forms_of(const std::vector<StateSpec>& states);

// The parameters that Muon orthogonalises: of two dims or more (a convolution is one row for each output), in
// units that read numbers, but for the last unit: no embedding, and not the head.
bool is_hidden_matrix(const ModelSpec& spec, size_t unit, const Parameter& parameter);

// Puts what [optimizer] says of single parameters into the spec: groups, frozen ones (their FLOPs and what
// backward keeps for them go), whole ones.  Error{invalid_argument}: a pattern that matches no parameter, an
// unknown key, a value out of range.
void apply_optimizer(const config::Optimizer& optimizer, ModelSpec* spec);

}  // namespace furrow::plan
