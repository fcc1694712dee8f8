// What compile and verify both need to know about the units of a model: who owns parameters, who ties whose.
#pragma once

#include <cstdint>
#include <vector>

#include "furrow/plan/flat_layout.h"
#include "furrow/plan/model_spec.h"
#include "furrow/plan/program.h"

namespace furrow::plan {

struct UnitFacts {
  bool owns = false;   // has parameters of its own
  bool steps = false;  // has trained parameters of its own
  bool has_statistics = false;
  bool folds = false;                   // training moves its statistics
  int32_t source = -1;                  // the unit whose output it reads; -1: the batch
  int32_t forward_phase = 0;            // of a training step: when its output is first needed
  int32_t backward_phase = -1;          // of its backward, and of its step; -1: it has none
  bool passes = false;                  // its backward gives a gradient to its source
  bool evaluated = false;               // it runs where a loss is taken and nothing trained
  bool predicted = false;               // the prediction needs it
  std::vector<Value> weights;           // params values that its forward reads: its own, then those it ties
  std::vector<TiedUse> uses_by_others;  // of its trained parameters, in use order
  std::vector<TiedUse> ties;            // its uses of trained parameters of earlier units
  bool trains() const { return steps || !ties.empty(); }  // it has a weight gradient
};

struct ModelFacts {
  FlatLayout flat;
  std::vector<UnitFacts> units;
  std::vector<Head> heads;      // one at least
  int32_t phases = 1;           // of a training step
  int32_t prediction = 0;       // the unit whose output the model gives for samples
  bool has_statistics = false;  // some unit
  bool scales_loss = false;     // something is float16, whose small gradients would be lost
  int32_t first_trained = 0;    // the first unit that trains; the number of units when there is none

  // Heads of a phase, by their place in `heads`.
  std::vector<int32_t> heads_in(int32_t phase) const;
};

// REQUIRES: a validated spec.
ModelFacts model_facts(const ModelSpec& spec);

// Whether the rank holds parameters of unit u: its own units', and those that its own units tie.
bool keeps_params(const ModelFacts& facts, const Placement& placement, int32_t unit);

// The pp coordinates, besides the owner's, that use parameters of the unit, in ascending order; none where it
// never changes.
std::vector<int> foreign_users(const ModelFacts& facts, const Placement& placement, int32_t unit);

// What a unit reads besides weights: act(source,m), or batch(m).
Value input_value(const UnitFacts& facts, int32_t microbatch);

// The gradient that is stepped with, over k microbatches, cut to a part.  REQUIRES: the unit steps.
Value final_gradient(const UnitFacts& facts, int32_t unit, int32_t k, Part part);

}  // namespace furrow::plan
