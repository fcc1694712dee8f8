// Rule: a program does all that its name promises, and nothing that has no place in it.
//   train     exact sums over every microbatch, one clip, a step of every unit with parameters
//   evaluate  exact sums over every microbatch; changes nothing
//   save      a snapshot of every unit with parameters; changes nothing
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "furrow/plan/verify_rules.h"

namespace furrow::plan::rules {
namespace {

bool allowed(std::string_view program, Op op) {
  if (program == "train") return op != Op::kEvaluate && op != Op::kSnapshot;
  if (program == "evaluate")
    return op == Op::kLoad || op == Op::kForward || op == Op::kEvaluate || op == Op::kMeasure;
  return op == Op::kSnapshot;
}

// What must come out, and the operation that makes it.
struct Due {
  Value value;
  Op op;
};

void add_due_units(const Facts& facts, int32_t version, Op op, std::vector<Due>* due) {
  for (int32_t u = 0; u <= facts.last_unit(); ++u) {
    if (!facts.model.units[u].owns) continue;
    due->push_back({params_value(u, version), op});
    if (facts.with_state) due->push_back({state_value(u, version), op});
  }
}

std::vector<Due> due_outputs(const Facts& facts) {
  std::vector<Due> due;
  const std::string& name = facts.program.name;
  if (name != "save") due.push_back({sums_value(0), Op::kMeasure});
  if (name == "train") due.push_back({scale_value(), Op::kClip});
  if (name == "save") {
    for (int32_t u = 0; u <= facts.last_unit(); ++u) {
      if (facts.model.units[u].owns) due.push_back({snapshot_value(u), Op::kSnapshot});
    }
  }
  add_due_units(facts, name == "train" ? 1 : 0, Op::kStep, &due);
  return due;
}

void check_inputs(const Facts& facts, size_t end) {
  for (int32_t u = 0; u <= facts.last_unit(); ++u) {
    if (!facts.model.units[u].owns) continue;
    const auto& inputs = facts.program.inputs;
    auto given = [&](const Value& value) {
      return std::find(inputs.begin(), inputs.end(), value) != inputs.end();
    };
    if (!given(params_value(u, 0)))
      facts.fail(end, fmt::format("{} is no input", to_string(params_value(u, 0))));
    if (facts.with_state && !given(state_value(u, 0))) {
      facts.fail(end,
                 fmt::format("{} is no input, though other units have state", to_string(state_value(u, 0))));
    }
  }
}

}  // namespace

void check_purpose(const Facts& facts) {
  const Program& program = facts.program;
  const size_t end = program.instructions.size();
  constexpr std::array<std::string_view, 3> kNames = {"train", "evaluate", "save"};
  if (std::find(kNames.begin(), kNames.end(), program.name) == kNames.end()) {
    facts.fail(end, fmt::format("no program is named '{}': known are train, evaluate, save", program.name));
  }
  for (size_t i = 0; i < end; ++i) {
    const Op op = program.instructions[i].op;
    if (!allowed(program.name, op)) {
      facts.fail(i, fmt::format("{} has no place in a program '{}'", op_info(op).name, program.name));
    }
  }
  if (program.microbatch_sizes.empty() != (program.name == "save")) {
    facts.fail(end, program.name == "save" ? "a save has no microbatches" : "there are no microbatches");
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
