// Rule: a program does all that its name promises, and nothing that has no place in it.
//   train     exact sums over every microbatch, one clip, a step of every unit with parameters
//   evaluate  exact sums over every microbatch; changes nothing
//   predict   the output of every microbatch, beside it; changes nothing
//   save      a snapshot of every unit with parameters; changes nothing
//   average   the trained parameters of every unit change places with their average
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "furrow/plan/verify_rules.h"

namespace furrow::plan::rules {
namespace {

bool allowed(std::string_view program, Op op) {
  constexpr std::array kEvaluation = {Op::kLoad,         Op::kForward,      Op::kEvaluate, Op::kMeasure,
                                      Op::kGatherParams, Op::kReduceScalar, Op::kSend,     Op::kRecv};
  constexpr std::array kAverage = {Op::kSwapAverage, Op::kGatherUpdated, Op::kSend, Op::kRecv};
  if (program == "train") return op != Op::kEvaluate && op != Op::kSnapshot && op != Op::kSwapAverage;
  if (program == "predict") return op == Op::kLoad || op == Op::kForward;
  if (program == "average") return std::find(kAverage.begin(), kAverage.end(), op) != kAverage.end();
  if (program == "evaluate")
    return std::find(kEvaluation.begin(), kEvaluation.end(), op) != kEvaluation.end();
  return op == Op::kSnapshot;
}

// What must come out, and the operation that makes it.
struct Due {
  Value value;
  Op op;
};

void add_due_units(const Facts& facts, int32_t version, Op op, std::vector<Due>* due) {
  const Placement& place = facts.program.placement;
  for (int32_t u = 0; u <= facts.last_unit(); ++u) {
    if (!keeps_params(facts.model, place, u)) continue;
    const bool steps = facts.model.units[u].steps;  // else the parameters stay as they are
    const bool copied = op == Op::kStep && facts.model.flat.units[u].offload;
    const Op writer = copied ? Op::kCopyUp : op;
    due->push_back(
        {params_value(u, steps ? version : 0, place.params_part()), facts.holds(u) ? writer : Op::kRecv});
    if (!facts.holds(u)) continue;
    if (facts.with_state && steps) due->push_back({state_value(u, version, place.step_part()), op});
    const bool swaps = op == Op::kSwapAverage;
    const bool moved = swaps ? facts.model.flat.units[u].averages_statistics
                             : facts.program.name == "train" && facts.model.units[u].folds;
    if (facts.model.units[u].has_statistics)
      due->push_back({stats_value(u, moved ? version : 0), swaps ? op : Op::kFoldStats});
  }
}

std::vector<Due> due_outputs(const Facts& facts) {
  std::vector<Due> due;
  const std::string& name = facts.program.name;
  const bool samples = name == "train" || name == "evaluate";
  for (int32_t p = 0; samples && p < facts.phases(); ++p) {
    due.push_back({facts.last_sums(p), Op::kMeasure});
    if (name == "train") due.push_back({scale_value(p), Op::kClip});
    if (name == "train" && facts.model.scales_loss) due.push_back({loss_scale_value(1, p), Op::kUpdateScale});
  }
  for (int32_t m = 0; name == "predict" && m < facts.microbatches(); ++m) {
    due.push_back({batch_value(m), Op::kLoad});
    due.push_back({act_value(facts.model.prediction, m), Op::kForward});
  }
  if (name == "save") {
    for (int32_t u = 0; u <= facts.last_unit(); ++u) {
      if (!facts.owns(u)) continue;
      due.push_back({snapshot_value(u, facts.program.placement.own_part()), Op::kSnapshot});
    }
  }
  const bool changes = name == "train" || name == "average";
  add_due_units(facts, changes ? 1 : 0, name == "average" ? Op::kSwapAverage : Op::kStep, &due);
  return due;
}

void check_inputs(const Facts& facts, size_t end) {
  std::vector<Due> due;
  add_due_units(facts, 0, Op::kStep, &due);
  const bool scales = facts.program.name == "train" && facts.model.scales_loss;
  for (int32_t p = 0; scales && p < facts.phases(); ++p)
    due.push_back({loss_scale_value(0, p), Op::kUpdateScale});
  const auto& inputs = facts.program.inputs;
  for (const Due& each : due) {
    if (std::find(inputs.begin(), inputs.end(), each.value) != inputs.end()) continue;
    const bool state = each.value.kind == ValueKind::kState;
    facts.fail(end, fmt::format("{} is no input{}", to_string(each.value),
                                state ? ", though other units have state" : ""));
  }
}

}  // namespace

void check_purpose(const Facts& facts) {
  const Program& program = facts.program;
  const size_t end = program.instructions.size();
  constexpr std::array<std::string_view, 5> kNames = {"train", "evaluate", "predict", "save", "average"};
  if (std::find(kNames.begin(), kNames.end(), program.name) == kNames.end()) {
    facts.fail(end,
               fmt::format("no program is named '{}': known are {}", program.name, fmt::join(kNames, ", ")));
  }
  for (size_t i = 0; i < end; ++i) {
    const Op op = program.instructions[i].op;
    if (!allowed(program.name, op)) {
      facts.fail(i, fmt::format("{} has no place in a program '{}'", op_info(op).name, program.name));
    }
  }
  const bool without = program.name == "save" || program.name == "average";
  if (program.microbatch_sizes.empty() != without) {
    facts.fail(end, without ? fmt::format("a program '{}' has no microbatches", program.name)
                            : std::string("there are no microbatches"));
  }
}

void check_coverage(const Facts& facts) {
  const Program& program = facts.program;
  const size_t end = program.instructions.size();
  check_inputs(facts, end);
  std::vector<Value> outputs = program.outputs;
  std::sort(outputs.begin(), outputs.end());
  for (const Due& due : due_outputs(facts)) {
    if (std::binary_search(outputs.begin(), outputs.end(), due.value)) continue;
    facts.fail(end, fmt::format("{} is missing among the outputs (written by {})", to_string(due.value),
                                op_info(due.op).name));
  }
}

}  // namespace furrow::plan::rules
