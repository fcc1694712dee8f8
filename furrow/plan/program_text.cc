// Program -> text.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string>

#include "furrow/base/error.h"
#include "furrow/plan/program.h"

namespace furrow::plan {
namespace {

std::string list(std::string line, const std::vector<Value>& values) {
  for (const Value& value : values) line += ' ' + to_string(value);
  return line;
}

// "u1/fc2", or "u7" where the program has no unit 7.
std::string unit_label(const Program& program, int32_t unit) {
  if (unit < 0) return "";
  if (static_cast<size_t>(unit) >= program.units.size()) return fmt::format("u{}", unit);
  return fmt::format("u{}/{}", unit, program.units[unit]);
}

struct Widths {
  size_t number = 1;
  size_t op = 0;
  size_t unit = 0;
  size_t microbatch = 1;
};

Widths widths_of(const Program& program) {
  Widths widths;
  widths.number = fmt::format("#{}", program.instructions.size()).size();
  widths.microbatch = fmt::format("m{}", program.microbatch_sizes.size()).size();
  for (const Instruction& instruction : program.instructions) {
    widths.op = std::max(widths.op, op_info(instruction.op).name.size());
    widths.unit = std::max(widths.unit, unit_label(program, instruction.unit).size());
  }
  return widths;
}

std::string instruction_line(const Program& program, size_t index, const Widths& widths) {
  const Instruction& instruction = program.instructions[index];
  const std::string microbatch = instruction.microbatch < 0 ? "" : fmt::format("m{}", instruction.microbatch);
  std::string line =
      fmt::format("  {:<{}} {:<{}} {:<{}} {:<{}} ", fmt::format("#{}", index), widths.number,
                  op_info(instruction.op).name, widths.op, unit_label(program, instruction.unit), widths.unit,
                  microbatch, widths.microbatch);
  if (instruction.axis != GroupAxis::kNone)
    line += fmt::format(" over {}", kGroupAxisNames[static_cast<size_t>(instruction.axis)]);
  if (instruction.peer >= 0)
    line += fmt::format(" {} {}", instruction.op == Op::kSend ? "to" : "from", instruction.peer);
  if (instruction.stream == Stream::kCopy) line += " on copy";
  if (instruction.stream == Stream::kComm) line += " on comm";
  if (instruction.predicate == Predicate::kFinite) line += " if finite";
  line = list(std::move(line), instruction.reads);
  line = list(line + " ->", instruction.writes);
  if (!instruction.drops.empty()) line = list(line + " drop", instruction.drops);
  return line + '\n';
}

std::string slot_lines(const Program& program) {
  std::vector<std::string> values(program.slots.size());
  for (const SlotAssignment& assignment : program.assignments) {
    FURROW_CHECK(assignment.slot >= 0 && static_cast<size_t>(assignment.slot) < values.size(),
                 fmt::format("{} is assigned to slot {} of {}", to_string(assignment.value), assignment.slot,
                             values.size()));
    values[assignment.slot] += ' ' + to_string(assignment.value);
    if (assignment.offset != 0) values[assignment.slot] += fmt::format("+{}", assignment.offset);
  }
  std::string text;
  for (size_t s = 0; s < program.slots.size(); ++s) {
    const Slot& slot = program.slots[s];
    text += fmt::format("  s{} {} {}{}\n", s, to_string(slot.kind), slot.bytes, values[s]);
  }
  return text;
}

// Left out in a world of one.
std::string placement_line(const Placement& placement) {
  if (placement == Placement()) return "";
  std::string text =
      fmt::format("placement {} rank {} zero_stage {} tree {}", placement.layout.to_string(), placement.rank,
                  placement.zero_stage, kTreeNames[static_cast<size_t>(placement.tree)]);
  if (!placement.stages.empty()) text += " stages";
  for (const Stage& stage : placement.stages)
    text += fmt::format(" {}-{}@{}", stage.begin, stage.end, stage.rank);
  const auto units = static_cast<int32_t>(placement.buckets.size());
  if (units > 0) text += " buckets";
  for (int32_t u = 0; u < units; u = placement.bucket_end(u))
    text += fmt::format(" {}-{}", u, placement.bucket_end(u));
  return text + '\n';
}

// Left out where there are none.
std::string states_line(const StateForms& states) {
  if (states.empty()) return "";
  std::string line = "states";
  for (const StateKind& kind : states) {
    line += fmt::format(" {}", kStateFormNames[static_cast<size_t>(kind.form)]);
    if (!kind.optimizer.empty()) line += ":" + kind.optimizer;
  }
  return line + '\n';
}

}  // namespace

std::string to_text(const Program& program) {
  std::string text = fmt::format("furrow-program 1 {}\n", program.name);
  text += placement_line(program.placement) + states_line(program.states) + "microbatches";
  for (int64_t size : program.microbatch_sizes) text += fmt::format(" {}", size);
  text += "\nunits\n";
  for (size_t u = 0; u < program.units.size(); ++u) text += fmt::format("  u{} {}\n", u, program.units[u]);
  text += list("inputs", program.inputs) + '\n';
  text += list("outputs", program.outputs) + '\n';
  text += "instructions\n";
  const Widths widths = widths_of(program);
  for (size_t i = 0; i < program.instructions.size(); ++i) text += instruction_line(program, i, widths);
  text += "slots\n";
  return text + slot_lines(program);
}

}  // namespace furrow::plan
