#include "furrow/plan/draft.h"

#include <utility>

namespace furrow::plan {

Draft::Draft(const ModelSpec& spec_in, const Placement& placement, std::string name,
             std::vector<int64_t> sizes, StateForms states)
    : spec(spec_in) {
  validate(spec);
  facts = model_facts(spec);
  gathers.resize(spec.units.size(), 0);
  program.name = std::move(name);
  program.placement = placement;
  program.states = std::move(states);
  program.microbatch_sizes = std::move(sizes);
  for (const Unit& unit : spec.units) program.units.push_back(unit.name);
}

Instruction& Draft::emit(Op op, int32_t unit) {
  Instruction& instruction = list.emplace_back().instruction;
  instruction.op = op;
  instruction.unit = unit;
  return instruction;
}

Instruction& Draft::emit_comm(Op op, int32_t unit, GroupAxis axis) {
  Instruction& instruction = emit(op, unit);
  instruction.stream = Stream::kComm;
  instruction.axis = axis;
  return instruction;
}

std::vector<Value> Draft::kept(int32_t version, bool with_state) const {
  std::vector<Value> values;
  for (int32_t u = 0; u < units(); ++u) {
    if (!keeps_params(facts, placement(), u)) continue;
    const bool steps = facts.units[u].steps;
    values.push_back(params_value(u, steps ? version : 0, placement().params_part()));
    if (!placement().holds(u)) continue;
    if (with_state && steps && has_state())
      values.push_back(state_value(u, version, placement().step_part()));
    const bool moved = program.name == "train"     ? facts.units[u].folds
                       : program.name == "average" ? facts.flat.units[u].averages_statistics
                                                   : false;
    if (facts.units[u].has_statistics) values.push_back(stats_value(u, moved ? version : 0));
  }
  for (int32_t p = 0; scales_loss() && p < facts.phases; ++p) values.push_back(loss_scale_value(version, p));
  return values;
}

Value Draft::final_of(int32_t unit, Part part) const {
  return final_gradient(facts.units[unit], unit, microbatches(), part);
}

}  // namespace furrow::plan
