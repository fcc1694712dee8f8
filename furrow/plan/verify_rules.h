// The rule groups of verify(), one file each.  Internal to plan.
//
// A rule throws by facts.fail(i, ...), which names instruction i.  Later groups may rely on earlier ones:
//   header, purpose (what has a place in a program of this name) -> operands (shape, kinds, operands of each
//   operation) -> values (written, read, dropped) -> gradients (the tree)
//   -> coverage (what a program of this name must do) -> slots (homes) -> memory (the report).
#pragma once

#include <string>
#include <vector>

#include "furrow/plan/gradient_tree.h"
#include "furrow/plan/unit_facts.h"
#include "furrow/plan/value_index.h"
#include "furrow/plan/verify.h"

namespace furrow::plan::rules {

inline constexpr int32_t kBefore = -1;  // an input: written before the first instruction
inline constexpr int32_t kNever = -2;

struct Facts {
  Facts(const Program& program, const ModelSpec& spec);

  const Program& program;
  const ModelSpec& spec;
  ModelFacts model;
  ValueIndex values;  // inputs, then everything read, written or dropped
  // By value number.
  std::vector<int32_t> writer;   // instruction, kBefore or kNever
  std::vector<int32_t> dropped;  // instruction or kNever
  bool with_state = false;       // some optimizer state is an input
  GradientTree tree;

  int32_t microbatches() const { return static_cast<int32_t>(program.microbatch_sizes.size()); }
  int32_t last_unit() const { return static_cast<int32_t>(spec.units.size()) - 1; }
  Value last_sums(int32_t phase) const {
    return sums_value(group_ranks(program.placement, program.placement.parts_axis()).size() > 1 ? 1 : 0,
                      phase);
  }
  // Of the named program: one but for training.
  int32_t phases() const { return program.name == "train" ? model.phases : 1; }
  bool holds(int32_t unit) const { return program.placement.holds(unit); }
  bool owns(int32_t unit) const { return model.units[unit].owns && holds(unit); }
  bool steps(int32_t unit) const { return model.units[unit].steps && holds(unit); }
  Value final_of(int32_t unit, Part part) const {
    return final_gradient(model.units[unit], unit, microbatches(), part);
  }
  bool finished() const { return !program.slots.empty(); }  // assign_buffers has run

  // Error{failed_precondition}: "#12 add u3: message".  An index past the last instruction reads "end".
  [[noreturn]] void fail(size_t instruction, const std::string& message) const;
};

// One instruction, for the rules that look at one at a time.
class InstructionRule {
 public:
  // REQUIRES: facts outlive it.
  InstructionRule(const Facts& facts, size_t index)
      : facts_(facts),
        index_(index),
        instruction_(facts.program.instructions[index]),
        u_(instruction_.unit),
        m_(instruction_.microbatch) {}

 protected:
  [[noreturn]] void fail(const std::string& message) const { facts_.fail(index_, message); }
  const Placement& place() const { return facts_.program.placement; }

  const Facts& facts_;
  const size_t index_;
  const Instruction& instruction_;
  const int32_t u_;
  const int32_t m_;
};

void check_placement(const Program& program);  // before Facts are made of it
void check_header(const Facts& facts);
void check_purpose(const Facts& facts);
void check_place(const Facts& facts, size_t instruction);  // before its operands
void check_operands(const Facts& facts);
void check_values(Facts* facts);  // fills writer and dropped
void check_gathers(const Facts& facts);
void check_copies(const Facts& facts);
void check_gradients(const Facts& facts);
void check_coverage(const Facts& facts);
void check_slots(const Facts& facts);
VerifyReport report(const Facts& facts);

}  // namespace furrow::plan::rules
