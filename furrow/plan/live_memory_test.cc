#include "furrow/plan/live_memory.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

#include "furrow/base/error.h"
#include "furrow/plan/compile.h"
#include "furrow/plan/testing/specs.h"
#include "furrow/plan/verify.h"

namespace furrow::plan {
namespace {

constexpr auto kActivations = static_cast<size_t>(MemoryKind::kActivations);

// Two units of 32 bytes in and out, 12 saved, 20 deferred, a sample; one microbatch of one sample.
struct Walk {
  explicit Walk(const ModelSpec& spec, bool recompute = false)
      : program(compile_train(spec, Layout(), {{1}, {recompute, false}, 1})) {
    LiveMemory memory(program, spec, [&](const Value& value) -> const Slot& {
      return program.slots[static_cast<size_t>(program.slot_of(value))];
    });
    int64_t live = 0;
    for (const Instruction& instruction : program.instructions) {
      const LiveMemory::Change change = memory.apply(instruction);
      const std::string name = std::string(op_info(instruction.op).name) + std::to_string(instruction.unit);
      during[name] = live += change.written[kActivations];
      after[name] = live -= change.dropped[kActivations];
    }
  }
  Program program;
  std::map<std::string, int64_t> during, after;
};

TEST(LiveMemory, SavedHoldsTheOutputUntilBackward) {
  const Walk walk(testing::chain(2));
  EXPECT_EQ(walk.after.at("forward0"), 32 + 12);
  EXPECT_EQ(walk.after.at("forward1"), 2 * (32 + 12));
  EXPECT_EQ(walk.after.at("loss-1"), 2 * (32 + 12) + 32);  // act 1 has gone, and is held
  EXPECT_EQ(walk.during.at("backward_input1"), 2 * (32 + 12) + 32 + 20 + 32);
  EXPECT_EQ(walk.after.at("backward_input1"), 32 + 12 + 20 + 32);
  EXPECT_EQ(walk.after.at("backward_weight1"), 32 + 12 + 32);
  EXPECT_EQ(walk.after.at("backward_weight0"), 0);
}

TEST(LiveMemory, ARecomputationHasAnOutputOfItsOwn) {
  const Walk walk(testing::chain(2), true);
  EXPECT_EQ(walk.after.at("forward0"), 32);
  EXPECT_EQ(walk.during.at("recompute0") - walk.after.at("backward_weight1"), 12 + 32);
  EXPECT_EQ(walk.after.at("backward_weight0"), 0);
}

TEST(LiveMemory, DeferredTakesOverWhatItKeeps) {
  ModelSpec spec = testing::chain(2);
  for (Unit& unit : spec.units) unit.kept_saved_bytes = 10, unit.kept_grad_bytes = 6;
  const Walk walk(spec);
  EXPECT_EQ(walk.during.at("backward_input1"), 2 * (32 + 12) + 32 + (20 - 16) + 32);
  EXPECT_EQ(walk.after.at("backward_input1"), 32 + 12 + 20 + 32);
  EXPECT_EQ(walk.after.at("backward_weight0"), 0);
  spec.units[0].kept_saved_bytes = 13;
  EXPECT_THROW(validate(spec), Error);
}

// Memory inside a call raises the peak of its instruction, and nothing after it.
TEST(LiveMemory, ScratchComesAndGoesWithItsInstruction) {
  const Walk plain(testing::chain(2), true);
  ModelSpec spec = testing::chain(2);
  spec.units[0].forward_scratch = {100, 1000};
  spec.units[1].backward_scratch = {0, 7};
  spec.units[1].loss_scratch = {50, 0};
  const Walk walk(spec, true);
  EXPECT_EQ(walk.after, plain.after);
  for (const auto& [name, bytes] : plain.during) {
    const int64_t more = name == "forward0" || name == "recompute0" ? 1100
                         : name == "backward_input1"                ? 7
                         : name == "loss-1"                         ? 50
                                                                    : 0;
    EXPECT_EQ(walk.during.at(name), bytes + more) << name;
  }
  const Program program = compile_train(spec, Layout(), {{2}, {}, 1});
  const auto peak = [&](const ModelSpec& of) { return verify(program, of).peak_bytes[kActivations]; };
  EXPECT_EQ(peak(spec), 2 * (32 + 12) + 2 * 100 + 1000);
  const auto workspace = [&](const ModelSpec& of) {
    return verify(program, of).peak_bytes[static_cast<size_t>(MemoryKind::kOther)];
  };
  const int64_t without = workspace(spec);
  spec.units[1].weight_scratch = {5000, 600};
  EXPECT_GT(workspace(spec), without + 5000) << "of weights it is no activation";
  spec.units[0].forward_scratch = {};
  EXPECT_EQ(peak(spec), 2 * (2 * (32 + 12) + 32 + 20 + 32) + 7);
  spec.units[1].loss_scratch = {};
  spec.units[1].backward_scratch = {-20, 0};  // it lets go of so much before it has made the rest
  EXPECT_EQ(peak(spec), 2 * (2 * (32 + 12) + 32 + 20 + 32) - 2 * 20);
  spec.units[1].backward_scratch = {-(int64_t{1} << 41), 0};
  EXPECT_THROW(validate(spec), Error);
}

TEST(LiveMemory, EverythingGoesWithTheStep) {
  for (const int stages : {1, 2}) {
    for (const int turns : {1, 3}) {
      const ModelSpec spec = testing::chain(4);
      TrainOptions options;
      options.microbatch_sizes.assign(static_cast<size_t>(turns), 2);
      options.recompute = {true, false, true, false};
      options.optimizer_states = 1;
      const Program program = compile_train(spec, Layout({stages, 1, 1, 1, 1, 1}, stages), options);
      LiveMemory memory(program, spec, [&](const Value& value) -> const Slot& {
        return program.slots[static_cast<size_t>(program.slot_of(value))];
      });
      MemoryByKind live{};
      for (const Instruction& instruction : program.instructions) {
        const LiveMemory::Change change = memory.apply(instruction);
        for (size_t k = 0; k < kMemoryKinds; ++k) live[k] += change.written[k] - change.dropped[k];
      }
      EXPECT_EQ(live[kActivations], 0);
    }
  }
}

}  // namespace
}  // namespace furrow::plan
