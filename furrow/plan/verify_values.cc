// Rule: every value is written exactly once, before it is read; nothing touches it after it is dropped; what
// is written is read or handed out; once buffers are assigned, everything that is not handed out is dropped.
#include <fmt/format.h>

#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/plan/verify_rules.h"

namespace furrow::plan::rules {
namespace {

class ValueRule {
 public:
  explicit ValueRule(Facts* facts)
      : facts_(*facts), read_(facts->values.size(), false), sent_(read_), output_(read_) {}

  void check() {
    facts_.writer.assign(facts_.values.size(), kNever);
    facts_.dropped.assign(facts_.values.size(), kNever);
    check_inputs();
    find_outputs();
    for (size_t i = 0; i < facts_.program.instructions.size(); ++i) check_instruction(i);
    check_end();
  }

 private:
  void check_inputs() {
    for (const Value& value : facts_.program.inputs) {
      int32_t& writer = facts_.writer[number(value)];
      if (writer == kBefore) fail_at_end(fmt::format("{} is an input twice", to_string(value)));
      writer = kBefore;
    }
  }

  void find_outputs() {
    for (const Value& value : facts_.program.outputs) {
      const int32_t v = number(value);
      if (v < 0) fail_at_end(fmt::format("output {} is never written", to_string(value)));
      if (output_[v]) fail_at_end(fmt::format("{} is an output twice", to_string(value)));
      output_[v] = true;
    }
  }

  void check_instruction(size_t i) {
    const Instruction& instruction = facts_.program.instructions[i];
    for (const Value& value : instruction.reads) check_read(i, value);
    for (const Value& value : instruction.writes) check_write(i, value);
    for (const Value& value : instruction.drops) check_drop(i, value);
  }

  void check_read(size_t i, const Value& value) {
    const int32_t v = number(value);
    if (facts_.writer[v] == kNever) {
      facts_.fail(i, fmt::format("reads {}, which nothing has written before", to_string(value)));
    }
    if (facts_.dropped[v] != kNever) {
      facts_.fail(i, fmt::format("reads {}, which #{} has dropped", to_string(value), facts_.dropped[v]));
    }
    read_[v] = true;
    // What was sent may be kept until it is known to have arrived.
    if (facts_.program.instructions[i].op == Op::kSend) sent_[v] = true;
  }

  void check_write(size_t i, const Value& value) {
    const int32_t v = number(value);
    if (facts_.writer[v] == kBefore) facts_.fail(i, fmt::format("writes the input {}", to_string(value)));
    if (facts_.writer[v] != kNever) {
      facts_.fail(
          i, fmt::format("writes {}, which #{} has written already", to_string(value), facts_.writer[v]));
    }
    facts_.writer[v] = static_cast<int32_t>(i);
  }

  void check_drop(size_t i, const Value& value) {
    const int32_t v = number(value);
    const Instruction& instruction = facts_.program.instructions[i];
    auto holds = [&](const std::vector<Value>& values) {
      return std::find(values.begin(), values.end(), value) != values.end();
    };
    if (output_[v]) facts_.fail(i, fmt::format("drops {}, an output of the program", to_string(value)));
    if (facts_.dropped[v] != kNever) facts_.fail(i, fmt::format("drops {} a second time", to_string(value)));
    if (!holds(instruction.reads) && !holds(instruction.writes) && !sent_[v]) {
      facts_.fail(i, fmt::format("drops {}, which it does not use", to_string(value)));
    }
    facts_.dropped[v] = static_cast<int32_t>(i);
  }

  void check_end() {
    for (int32_t v = 0; v < facts_.values.size(); ++v) {
      const Value& value = facts_.values.value(v);
      const int32_t writer = facts_.writer[v];
      if (output_[v] && writer == kNever)
        fail_at_end(fmt::format("output {} is never written", to_string(value)));
      if (output_[v]) continue;
      const size_t place =
          writer == kBefore ? facts_.program.instructions.size() : static_cast<size_t>(writer);
      if (!read_[v] && value.kind != ValueKind::kGathered)
        facts_.fail(place, fmt::format("nothing reads {}, and it is no output", to_string(value)));
      if (facts_.finished() && facts_.dropped[v] == kNever) {
        facts_.fail(place, fmt::format("{} is never dropped, and it is no output", to_string(value)));
      }
    }
  }

  int32_t number(const Value& value) const { return facts_.values.find(value); }

  [[noreturn]] void fail_at_end(const std::string& message) const {
    facts_.fail(facts_.program.instructions.size(), message);
  }

  Facts& facts_;
  std::vector<bool> read_;
  std::vector<bool> sent_;
  std::vector<bool> output_;
};

}  // namespace

void check_values(Facts* facts) { ValueRule(facts).check(); }

}  // namespace furrow::plan::rules
