// Rule: the gradient nodes of each use are added along the canonical binary tree, so that every microbatch
// enters the total exactly once, and always in the same order.
//
// A node other than the root feeds exactly one add or one exchange over ranks.  With values written once, the
// split fixed by the range, and an exchange fixed by its result, that makes the adds of a use the one tree
// over [0, k).
#include <fmt/format.h>

#include "furrow/plan/verify_rules.h"

namespace furrow::plan::rules {
namespace {

void check_add(const Facts& facts, size_t i) {
  const Instruction& add = facts.program.instructions[i];
  if (add.reads.size() != 2 || add.writes.size() != 1)
    facts.fail(i, "an add reads two gradients and writes one");
  const Value& left = add.reads[0];
  const Value& right = add.reads[1];
  const Value& sum = add.writes[0];
  for (const Value* value : {&left, &right, &sum}) {
    if (value->unit != add.unit || value->index != sum.index || value->part != sum.part) {
      facts.fail(i, fmt::format("{} belongs to another unit, use or part", to_string(*value)));
    }
  }
  if (sum.end - sum.begin < 2 || !facts.tree.is_node({sum.begin, sum.end})) {
    facts.fail(i, fmt::format("{} is no sum in the tree of this program", to_string(sum)));
  }
  const int32_t split = facts.tree.split({sum.begin, sum.end});
  const Value expected_left = gradient_value(sum.unit, sum.index, sum.begin, split, sum.part);
  const Value expected_right = gradient_value(sum.unit, sum.index, split, sum.end, sum.part);
  if (left == expected_left && right == expected_right) return;
  facts.fail(i, fmt::format("adds {} and {}, but in the {} tree {} is {} plus {}", to_string(left),
                            to_string(right), kTreeNames[static_cast<size_t>(facts.program.placement.tree)],
                            to_string(sum), to_string(expected_left), to_string(expected_right)));
}

}  // namespace

void check_gradients(const Facts& facts) {
  std::vector<int32_t> added_by(facts.values.size(), kNever);
  const auto& list = facts.program.instructions;
  for (size_t i = 0; i < list.size(); ++i) {
    if (list[i].op != Op::kAdd && list[i].op != Op::kReduceGrads) continue;
    if (list[i].op == Op::kAdd) check_add(facts, i);
    for (const Value& value : list[i].reads) {
      int32_t& user = added_by[facts.values.find(value)];
      if (user != kNever) {
        facts.fail(i, fmt::format("adds {}, which #{} has added already", to_string(value), user));
      }
      user = static_cast<int32_t>(i);
    }
  }
}

}  // namespace furrow::plan::rules
