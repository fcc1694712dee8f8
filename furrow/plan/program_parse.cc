// Text -> program.
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <span>
#include <string>

#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/base/text.h"
#include "furrow/plan/optimizer_spec.h"
#include "furrow/plan/program.h"

namespace furrow::plan {
namespace {

using Words = std::vector<std::string_view>;

[[noreturn]] void fail(const std::string& message) { throw Error(ErrorCode::kInvalidArgument, message); }

Words words_of(std::string_view line) {
  Words words;
  while (!line.empty()) {
    const size_t start = line.find_first_not_of(" \t\r");
    if (start == std::string_view::npos) break;
    line.remove_prefix(start);
    const size_t end = std::min(line.find_first_of(" \t\r"), line.size());
    words.push_back(line.substr(0, end));
    line.remove_prefix(end);
  }
  return words;
}

int64_t number(std::string_view text, int64_t most) {
  int64_t value = 0;
  if (!parse_int(text, value) || value < 0 || value > most || text.starts_with('+') ||
      text.starts_with('-')) {
    fail(fmt::format("'{}' is no number from 0 to {}", text, most));
  }
  return value;
}

// The number of "u12", "m3", "s4" or "#5".
int32_t marked(char mark, std::string_view word) {
  if (!word.starts_with(mark)) fail(fmt::format("expected {} and a number, found '{}'", mark, word));
  return static_cast<int32_t>(number(word.substr(1), std::numeric_limits<int32_t>::max()));
}

MemoryKind memory_kind_of(std::string_view name) {
  std::vector<std::string> known;
  for (size_t i = 0; i < kMemoryKinds; ++i) {
    const auto kind = static_cast<MemoryKind>(i);
    if (to_string(kind) == name) return kind;
    known.emplace_back(to_string(kind));
  }
  fail(unknown_name_message("memory kind", name, known));
}

Op op_of(std::string_view name) {
  if (const OpInfo* info = find_op(name)) return info->op;
  std::vector<std::string> known;
  for (Op op : all_ops()) known.emplace_back(op_info(op).name);
  fail(unknown_name_message("operation", name, known));
}

std::vector<Value> values_of(const Words& words, size_t begin) {
  std::vector<Value> values;
  for (size_t i = begin; i < words.size(); ++i) values.push_back(parse_value(words[i]));
  return values;
}

// One instruction: "#1 forward u0/fc1 m0 on copy if finite reads... -> writes... drop drops...".
class InstructionReader {
 public:
  InstructionReader(const Program& program, const Words& words) : program_(program), words_(words) {}

  Instruction read() {
    const int32_t index = marked('#', words_[0]);
    if (static_cast<size_t>(index) != program_.instructions.size()) {
      fail(fmt::format("instruction #{} stands where #{} is due", index, program_.instructions.size()));
    }
    Instruction instruction;
    next_ = 1;
    if (words_.size() < 2) fail("expected an operation after the number of the instruction");
    instruction.op = op_of(words_[next_++]);
    read_place(&instruction);
    read_axis(&instruction);
    if (take("on", "copy")) instruction.stream = Stream::kCopy;
    if (take("on", "comm")) instruction.stream = Stream::kComm;
    if (take("if", "finite")) instruction.predicate = Predicate::kFinite;
    instruction.reads = read_values();
    if (next_ == words_.size() || words_[next_] != "->")
      fail("expected '->' between what is read and written");
    ++next_;
    instruction.writes = read_values();
    if (next_ < words_.size() && words_[next_] == "drop") {
      ++next_;
      instruction.drops = read_values();
      if (instruction.drops.empty()) fail("expected values after 'drop'");
    }
    if (next_ != words_.size()) fail(fmt::format("unexpected '{}' at the end", words_[next_]));
    return instruction;
  }

 private:
  void read_place(Instruction* instruction) {
    const OpInfo& info = op_info(instruction->op);
    if (info.has_unit) instruction->unit = unit_of(take_word("u and the number of a unit"));
    const bool given = info.has_peer && next_ < words_.size() && words_[next_].starts_with('m');
    if (info.has_microbatch || given)
      instruction->microbatch = marked('m', take_word("m and the number of a microbatch"));
  }

  void read_axis(Instruction* instruction) {
    for (size_t axis = 1; axis < kGroupAxisNames.size(); ++axis) {
      if (take("over", kGroupAxisNames[axis])) instruction->axis = static_cast<GroupAxis>(axis);
    }
    if (!op_info(instruction->op).has_peer) return;
    const std::string_view word = instruction->op == Op::kSend ? "to" : "from";
    if (next_ + 1 >= words_.size() || words_[next_] != word) {
      fail(fmt::format("expected '{}' and the pp coordinate of the other end", word));
    }
    instruction->peer = static_cast<int32_t>(number(words_[next_ + 1], 1 << 20));
    next_ += 2;
  }

  int32_t unit_of(std::string_view word) const {
    const size_t slash = word.find('/');
    const int32_t unit = marked('u', word.substr(0, slash));
    if (slash == std::string_view::npos) return unit;
    const std::string_view name = word.substr(slash + 1);
    if (static_cast<size_t>(unit) >= program_.units.size() || program_.units[unit] != name) {
      fail(fmt::format("unit {} is not named '{}'", unit, name));
    }
    return unit;
  }

  std::string_view take_word(std::string_view what) {
    if (next_ == words_.size()) fail(fmt::format("expected {}", what));
    return words_[next_++];
  }

  bool take(std::string_view first, std::string_view second) {
    if (next_ + 1 >= words_.size() || words_[next_] != first || words_[next_ + 1] != second) return false;
    next_ += 2;
    return true;
  }

  std::vector<Value> read_values() {
    std::vector<Value> values;
    while (next_ < words_.size() && words_[next_] != "->" && words_[next_] != "drop") {
      values.push_back(parse_value(words_[next_++]));
    }
    return values;
  }

  const Program& program_;
  const Words& words_;
  size_t next_ = 0;
};

// "gradient(0,0,[0,1))" or "gradient(0,0,[0,1))/shard+4096".
SlotAssignment assignment_of(std::string_view word, int32_t slot) {
  const size_t plus = word.find('+');
  SlotAssignment assignment{parse_value(word.substr(0, plus)), slot, 0};
  if (plus == std::string_view::npos) return assignment;
  assignment.offset = number(word.substr(plus + 1), std::numeric_limits<int64_t>::max());
  if (assignment.offset == 0) fail(fmt::format("'{}': an offset of 0 is left out", word));
  return assignment;
}

// "0-4@1": units 0 to 3 on pp coordinate 1.
Stage stage_of(std::string_view word) {
  const size_t dash = word.find('-'), at = word.find('@');
  if (dash == std::string_view::npos || at == std::string_view::npos || at < dash) {
    fail(fmt::format("'{}' is no stage: it is written like 0-4@1", word));
  }
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  return {static_cast<int32_t>(number(word.substr(0, dash), kMost)),
          static_cast<int32_t>(number(word.substr(dash + 1, at - dash - 1), kMost)),
          static_cast<int>(number(word.substr(at + 1), kMost))};
}

// "4-6": the units 4 and 5, which are the next ones of `buckets`.
void add_bucket(std::string_view word, std::vector<int32_t>* buckets) {
  constexpr int64_t kMost = 1 << 20;
  const size_t dash = word.find('-');
  const bool range = dash != std::string_view::npos;
  const auto begin = static_cast<int64_t>(buckets->size());
  if (!range || number(word.substr(0, dash), kMost) != begin || number(word.substr(dash + 1), kMost) <= begin)
    fail(fmt::format("'{}' is no bucket: the next one is written like {}-{}", word, begin, begin + 2));
  buckets->resize(static_cast<size_t>(number(word.substr(dash + 1), kMost)), static_cast<int32_t>(begin));
}

// Behind the tree: "stages 0-2@0 2-4@1" where pp is above 1, "buckets 0-3 3-4" where units share collectives.
void read_runs(std::span<const std::string_view> words, Placement* placement) {
  std::string_view what;
  for (const std::string_view word : words) {
    const bool opens = (word == "stages" && what.empty()) || (word == "buckets" && what != "buckets");
    if (opens) {
      what = word;
    } else if (what == "stages") {
      placement->stages.push_back(stage_of(word));
    } else if (what == "buckets") {
      add_bucket(word, &placement->buckets);
    } else {
      fail(fmt::format("expected 'stages' or 'buckets', found '{}'", word));
    }
  }
  const std::vector<int32_t>& buckets = placement->buckets;
  const bool shared = std::adjacent_find(buckets.begin(), buckets.end()) != buckets.end();
  const bool empty = what == "stages" && placement->stages.empty();
  if (empty || (what == "buckets" && !shared))
    fail(fmt::format("'{}' without any that is one is left out", what));
}

// "placement pp1 dp_replicate2 ... ep1 rank 3 zero_stage 2 tree canonical", and read_runs().
Placement placement_of_words(const Words& words) {
  constexpr size_t kAxes = kAxisNames.size();
  if (words.size() < kAxes + 7 || words[kAxes + 1] != "rank" || words[kAxes + 3] != "zero_stage" ||
      words[kAxes + 5] != "tree") {
    fail(
        "expected 'placement pp1 dp_replicate1 ... rank N zero_stage N tree NAME [stages B-E@P...] "
        "[buckets B-E...]'");
  }
  std::array<int, kAxes> degrees{};
  int64_t world = 1;
  for (size_t i = 0; i < kAxes; ++i) {
    const std::string_view word = words[i + 1];
    if (!word.starts_with(kAxisNames[i]))
      fail(fmt::format("expected {} and a number, found '{}'", kAxisNames[i], word));
    degrees[i] = static_cast<int>(number(word.substr(kAxisNames[i].size()), 1 << 20));
    world = std::min<int64_t>(world * std::max(1, degrees[i]), 1 << 30);
  }
  Placement placement;
  placement.layout = Layout(degrees, static_cast<int>(world));
  placement.rank = static_cast<int>(number(words[kAxes + 2], world - 1));
  placement.zero_stage = static_cast<int>(number(words[kAxes + 4], 3));
  const auto tree = std::find(kTreeNames.begin(), kTreeNames.end(), words[kAxes + 6]);
  if (tree == kTreeNames.end())
    fail(fmt::format("unknown tree '{}': known are canonical, by_ranks", words[kAxes + 6]));
  placement.tree = static_cast<TreeKind>(tree - kTreeNames.begin());
  read_runs(std::span(words).subspan(kAxes + 7), &placement);
  if (placement == Placement()) fail("the placement of a world of one is left out");
  return placement;
}

// "states elements scales", "states elements:sgd" where parameters have several optimizers.
StateForms states_of_words(const Words& words) {
  StateForms states;
  for (size_t i = 1; i < words.size(); ++i) {
    const size_t colon = std::min(words[i].find(':'), words[i].size());
    const auto form = words[i].substr(0, colon);
    const auto name = std::find(kStateFormNames.begin(), kStateFormNames.end(), form);
    if (name == kStateFormNames.end()) {
      const std::vector<std::string> known(kStateFormNames.begin(), kStateFormNames.end());
      fail(unknown_name_message("form of a state", form, known));
    }
    StateKind kind = static_cast<StateForm>(name - kStateFormNames.begin());
    if (colon < words[i].size()) kind.optimizer = find_optimizer_spec(words[i].substr(colon + 1)).name;
    states.push_back(std::move(kind));
  }
  if (states.empty()) fail("expected 'states' and their forms; without any the line is left out");
  return states;
}

// Sections come in one order, each once.
class Parser {
 public:
  Program parse(std::string_view text) {
    size_t line_number = 0;
    while (!text.empty()) {
      const size_t end = std::min(text.find('\n'), text.size());
      const Words words = words_of(text.substr(0, end));
      text.remove_prefix(std::min(end + 1, text.size()));
      ++line_number;
      if (words.empty()) continue;
      try {
        parse_line(words);
      } catch (const Error& error) {
        throw error.with_context(fmt::format("line {}", line_number));
      }
    }
    if (section_ != kSectionCount) fail(fmt::format("the text ends before '{}'", kSections[section_]));
    std::sort(program_.assignments.begin(), program_.assignments.end(),
              [](const SlotAssignment& a, const SlotAssignment& b) { return a.value < b.value; });
    return std::move(program_);
  }

 private:
  static constexpr size_t kSectionCount = 7;
  static constexpr std::array<std::string_view, kSectionCount> kSections = {
      "furrow-program", "microbatches", "units", "inputs", "outputs", "instructions", "slots"};

  void parse_line(const Words& words) {
    if (section_ < kSectionCount && words[0] == kSections[section_]) {
      start_section(words);
      ++section_;
      return;
    }
    const std::string_view open = section_ == 0 ? "" : kSections[section_ - 1];
    if (open == "furrow-program" && words[0] == "placement" && program_.placement == Placement()) {
      program_.placement = placement_of_words(words);
      return;
    }
    if (open == "furrow-program" && words[0] == "states" && program_.states.empty()) {
      program_.states = states_of_words(words);
      return;
    }
    if (open == "units" && words[0].starts_with('u')) return add_unit(words);
    if (open == "instructions" && words[0].starts_with('#')) {
      program_.instructions.push_back(InstructionReader(program_, words).read());
      return;
    }
    if (open == "slots") return add_slot(words);
    fail(fmt::format("expected '{}', found '{}'", kSections[section_], words[0]));
  }

  void start_section(const Words& words) {
    const std::string_view name = words[0];
    if (name == "furrow-program") {
      if (words.size() != 3) fail("expected 'furrow-program 1 NAME'");
      if (words[1] != "1")
        fail(fmt::format("version {} of the text form: this furrow reads version 1", words[1]));
      program_.name = words[2];
    } else if (name == "microbatches") {
      for (size_t i = 1; i < words.size(); ++i) {
        program_.microbatch_sizes.push_back(number(words[i], std::numeric_limits<int64_t>::max()));
      }
    } else if (name == "inputs") {
      program_.inputs = values_of(words, 1);
    } else if (name == "outputs") {
      program_.outputs = values_of(words, 1);
    } else if (words.size() != 1) {
      fail(fmt::format("unexpected '{}' after '{}'", words[1], name));
    }
  }

  void add_unit(const Words& words) {
    if (words.size() != 2) fail("expected 'uN NAME'");
    const int32_t unit = marked('u', words[0]);
    if (static_cast<size_t>(unit) != program_.units.size()) {
      fail(fmt::format("unit u{} stands where u{} is due", unit, program_.units.size()));
    }
    program_.units.emplace_back(words[1]);
  }

  void add_slot(const Words& words) {
    if (words.size() < 3) fail("expected 'sN KIND BYTES VALUES...'");
    const int32_t slot = marked('s', words[0]);
    if (static_cast<size_t>(slot) != program_.slots.size()) {
      fail(fmt::format("slot s{} stands where s{} is due", slot, program_.slots.size()));
    }
    program_.slots.push_back(
        {memory_kind_of(words[1]), number(words[2], std::numeric_limits<int64_t>::max())});
    for (size_t i = 3; i < words.size(); ++i) program_.assignments.push_back(assignment_of(words[i], slot));
  }

  Program program_;
  size_t section_ = 0;  // the next one to come
};

}  // namespace

Program parse_program(std::string_view text) { return Parser().parse(text); }

}  // namespace furrow::plan
