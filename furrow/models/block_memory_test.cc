// What descriptions say of a block's memory, beside the block run on sizes.  (Beside the block itself:
// nn/call_memory_test.cc.)
#include "furrow/models/block_memory.h"

#include <gtest/gtest.h>

#include "furrow/models/lora.h"
#include "furrow/models/memory_tape.h"
#include "furrow/models/precision.h"
#include "furrow/models/test_specs.h"
#include "furrow/plan/optimizer_spec.h"

namespace furrow::models {
namespace {

TEST(MemoryTape, CountsWhatLivesAndItsMost) {
  MemoryTape tape;
  MemoryTape::Memory a = tape.make(100), same = a;
  {
    const MemoryTape::Memory b = tape.make(10);
    EXPECT_EQ(tape.live(), 110);
  }
  a.reset();
  EXPECT_EQ(tape.live(), 100) << "it has another name";
  EXPECT_EQ(tape.peak(), 110);
  same.reset();
  tape.reset_peak();
  EXPECT_EQ(tape.live() + tape.peak(), 0);
}

// x -> two operations -> their sum: what is kept goes when its operation has run, and the second gradient of
// x needs memory of its own, as somebody else holds the first.
TEST(MemoryTape, LetsGoAsBackwardGoesOn) {
  MemoryTape tape;
  const MemoryTape::Tensor x = tape.leaf(tape.make(100));
  MemoryTape::Memory shared;
  const auto passes = [](const MemoryTape::Memory& dy) { return std::vector{dy}; };
  MemoryTape::Tensor left =
      tape.record(tape.make(100), {x}, false,
                  [kept = tape.make(7), &passes](const MemoryTape::Memory& dy) { return passes(dy); });
  MemoryTape::Tensor sum = tape.record(tape.make(100), {x, left}, false,
                                       [](const MemoryTape::Memory& dy) { return std::vector{dy, dy}; });
  left.memory.reset();
  EXPECT_EQ(tape.live(), 100 + 7 + 100);
  const MemoryTape::Memory gradient = tape.make(100);
  const MemoryTape::Memory passed = tape.backward(sum, gradient, x);
  EXPECT_NE(passed, gradient);
  EXPECT_EQ(tape.live(), 100 + 100 + 100 + 100);
}

plan::ModelSpec network(const std::string& name, DType type, const std::vector<std::string>& targets) {
  config::Model model;
  model.name = name;
  model.layers = 2;
  model.heads = 4;
  model.kv_heads = name == "llama" ? 2 : 0;
  model.width = 32;
  plan::ModelSpec spec = describe(model, {{DType::kI64, {-1, 8}}, 13});
  compute_in(type, &spec);
  config::Lora lora;
  lora.rank = targets.empty() ? 0 : 4;
  lora.target_modules = targets;
  apply_lora(lora, &spec);
  plan::apply_optimizer({}, &spec);
  return spec;
}

TEST(BlockMemory, IsWhatDescriptionsSayIsKept) {
  for (const std::string name : {"gpt", "llama"}) {
    for (const DType type : {DType::kF32, DType::kBF16}) {
      for (const std::vector<std::string>& targets :
           {std::vector<std::string>{}, {"*"}, {name == "gpt" ? "c_attn" : "q_proj"}}) {
        const plan::ModelSpec spec = network(name, type, targets);
        for (const plan::Unit& unit : spec.units) {
          const CallMemory call = call_memory(unit, true);
          if (call.forward_peak == 0) continue;
          EXPECT_EQ(call.saved_bytes, unit.saved_bytes) << name << " " << to_string(type) << " " << unit.name;
          EXPECT_EQ(call.deferred_bytes, unit.deferred_bytes)
              << name << " " << to_string(type) << " " << unit.name;
          EXPECT_EQ(call.kept_saved_bytes, unit.kept_saved_bytes)
              << name << " " << to_string(type) << " " << unit.name;
        }
      }
    }
  }
}

TEST(BlockMemory, OfABottleneckIsWhatItsDescriptionSays) {
  for (const std::string more : {" stride=2", " shortcut=pad", " out_channels=6", " stride=2 shortcut=pad"}) {
    const bool same = more == " out_channels=6";
    config::Model model;
    model.name = "blocks";
    model.units = {"c: conv out_channels=6 kernel=1",
                   "b: bottleneck_block width=4" + more + (same ? "" : " out_channels=9"),
                   "fc: linear out=classes"};
    for (const DType type : {DType::kF32, DType::kBF16}) {
      plan::ModelSpec spec = describe(model, {{DType::kF32, {-1, 3, 7, 6}}, 10});
      compute_in(type, &spec);
      const plan::Unit& unit = spec.units[1];
      const CallMemory call = call_memory(unit, true);
      EXPECT_EQ(call.saved_bytes, unit.saved_bytes) << more;
      EXPECT_EQ(call.deferred_bytes, unit.deferred_bytes) << more;
      EXPECT_EQ(call.kept_saved_bytes, unit.kept_saved_bytes) << more;
      EXPECT_GE(call.backward_peak, unit.deferred_bytes - unit.kept_saved_bytes) << more;
    }
  }
}

// A batch has planes, blocks of images give pixels with their channels side by side: what comes otherwise is
// copied, and the copy is kept for the weight's gradient.
TEST(BlockMemory, OfImagesInTheOtherFormHasACopy) {
  const auto declared = [](int64_t channels, const std::string& first) {
    config::Model model;
    model.name = "blocks";
    model.units = {"c: " + first + " out_channels=6 kernel=3", "p: max_pool kernel=2",
                   "fc: linear out=classes"};
    plan::ModelSpec spec = describe(model, {{DType::kF32, {-1, channels, 8, 8}}, 10}), whole = spec;
    declare_scratch(&whole);
    std::vector<int64_t> more;
    for (size_t u = 0; u < spec.units.size(); ++u) {
      more.push_back(whole.units[u].saved_bytes - spec.units[u].saved_bytes);
      EXPECT_EQ(whole.units[u].deferred_bytes - spec.units[u].deferred_bytes, more.back()) << u;
      EXPECT_EQ(whole.units[u].kept_saved_bytes - spec.units[u].kept_saved_bytes, more.back()) << u;
    }
    return more;
  };
  const int64_t pooled = 4 * 6 * 3 * 3, batch = 4 * 3 * 8 * 8;
  for (const std::string first : {"conv", "conv_norm"}) {
    EXPECT_EQ(declared(3, first), (std::vector<int64_t>{batch, 0, pooled})) << first;
    EXPECT_EQ(declared(1, first), (std::vector<int64_t>{0, 0, pooled})) << "one plane is both, " << first;
  }
}

TEST(BlockMemory, IsNoneOfOtherKinds) {
  const plan::ModelSpec spec = testing::gpt();
  EXPECT_EQ(call_memory(spec.units[0], true).forward_peak, 0);
}

}  // namespace
}  // namespace furrow::models
