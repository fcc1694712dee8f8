// What descriptions say of a block's memory, beside the block run on sizes.  (Beside the block itself:
// nn/call_memory_test.cc.)
#include "furrow/models/block_memory.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "furrow/base/text.h"
#include "furrow/models/lora.h"
#include "furrow/models/memory_tape.h"
#include "furrow/models/precision.h"
#include "furrow/models/test_specs.h"
#include "furrow/plan/compile.h"
#include "furrow/plan/live_memory.h"
#include "furrow/plan/optimizer_spec.h"
#include "furrow/plan/unit_facts.h"

namespace furrow::models {
namespace {

TEST(MemoryTape, CountsWhatLivesAndItsMost) {
  MemoryTape tape(kManySamples);
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

// What is of any microbatch counts apart, where a sample's most is.
TEST(MemoryTape, CountsWhatIsFixedAtTheMostOfASample) {
  MemoryTape tape(kManySamples);
  {
    const MemoryTape::Memory alone = tape.make(0, 1000);
    EXPECT_EQ(tape.peak_fixed(), 1000);
  }
  const MemoryTape::Memory a = tape.make(10);
  EXPECT_EQ(tape.peak_fixed(), 0) << "the sample's most is later";
  const MemoryTape::Memory fixed = tape.make(0, 7);
  EXPECT_EQ(tape.peak_fixed(), 7);
  EXPECT_EQ(tape.live_fixed(), 7);
  EXPECT_EQ(tape.peak(), 10);
  EXPECT_EQ(MemoryTape::bytes_of(fixed), 0);

  MemoryTape few(2);
  const MemoryTape::Memory sample = few.make(10);
  few.make(0, 100);
  few.make(49);
  EXPECT_EQ(few.peak(), 10) << "2 * 10 + 100 is more than 2 * (10 + 49)";
  EXPECT_EQ(few.peak_fixed(), 100);
  few.make(51);
  EXPECT_EQ(few.peak(), 61);
}

// x -> two operations -> their sum: what is kept goes when its operation has run, and the second gradient of
// x needs memory of its own, as somebody else holds the first.
TEST(MemoryTape, LetsGoAsBackwardGoesOn) {
  MemoryTape tape(kManySamples);
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

constexpr DType kTypes[] = {DType::kF32, DType::kBF16, DType::kF16};

plan::ModelSpec network(const std::string& name, DType type, const std::vector<std::string>& targets,
                        double dropout = 0) {
  config::Model model;
  model.name = name;
  model.layers = 2;
  model.heads = 4;
  model.kv_heads = name == "llama" ? 2 : 0;
  model.width = 32;
  model.dropout = dropout;
  plan::ModelSpec spec = describe(model, {{DType::kI64, {-1, 8}}, 13});
  compute_in(type, &spec);
  config::Lora lora;
  lora.rank = targets.empty() ? 0 : 4;
  lora.dropout = dropout;
  lora.target_modules = targets;
  apply_lora(lora, &spec);
  plan::apply_optimizer({}, &spec);
  return spec;
}

plan::ModelSpec layers(const std::string& name, DType type, const std::string& activation = "relu") {
  config::Model model;
  model.name = name;
  model.activation = activation;
  model.hidden = {48, 32};
  if (name == "blocks")
    model.units = {"c: conv_norm out_channels=8 kernel=3 pool=true", "r: residual_block out_channels=8",
                   "p: residual_block out_channels=16 stride=2 shortcut=projection",
                   "b: bottleneck_block width=4 out_channels=16", "fc: pool_linear out=classes"};
  plan::ModelSpec spec = describe(model, {{DType::kF32, {-1, 1, 28, 28}}, 10});
  compute_in(type, &spec);
  plan::apply_optimizer({}, &spec);
  return spec;
}

// Units that stand alone.
plan::ModelSpec listed(std::vector<std::string> units, const plan::TensorSpec& input, DType type) {
  config::Model model;
  model.name = "blocks";
  model.units = std::move(units);
  plan::ModelSpec spec = describe(model, {input, 10});
  compute_in(type, &spec);
  plan::apply_optimizer({}, &spec);
  return spec;
}

plan::ModelSpec images(DType type) {
  std::vector<std::string> units = {"n: batch_norm", "q: conv_relu_pool out_channels=8 kernel=3 padding=1"};
  for (const char* act : {"none", "relu", "silu", "leaky_relu"}) {
    units.push_back(fmt::format("c_{0}: conv out_channels=8 kernel=3 padding=1 activation={0}", act));
    units.push_back(fmt::format("p_{0}: conv out_channels=8 kernel=1 bias=false activation={0}", act));
    units.push_back(fmt::format("n_{0}: batch_norm activation={0}", act));
    if (act != std::string("none")) units.push_back(fmt::format("a_{0}: activation activation={0}", act));
  }
  for (const char* unit : {"g: group_norm groups=2", "p: max_pool kernel=2", "l: layer_norm",
                           "d: dropout p=0.1", "r: avg_pool kernel=2", "fc: pool_linear out=classes"})
    units.emplace_back(unit);
  return listed(std::move(units), {DType::kF32, {-1, 1, 16, 16}}, type);
}

plan::ModelSpec recurrent(DType type) {
  return listed(
      {"e: embedding width=16", "r: rnn hidden=12 out=20", "m: rnn hidden=12 out=20 dropout=0.1",
       "l: lstm hidden=12", "k: lstm hidden=16 dropout=0.1", "fc: linear out=classes flatten=false"},
      {DType::kI64, {-1, 8}}, type);
}

void expect_as_described(const plan::ModelSpec& spec, const std::string& name) {
  int known = 0;
  for (const plan::Unit& unit : spec.units) {
    const CallMemory call = call_memory(unit, true);
    if (call.forward_peak == 0) continue;
    const std::string what = fmt::format("{}, {}, {}", name, to_string(unit.compute), unit.name);
    ++known;
    EXPECT_EQ(call.saved_bytes, unit.saved_bytes) << what;
    EXPECT_EQ(call.deferred_bytes, unit.deferred_bytes) << what;
    EXPECT_EQ(call.kept_saved_bytes, unit.kept_saved_bytes) << what;
    EXPECT_EQ(call.kept_grad_bytes, unit.kept_grad_bytes) << what;
  }
  EXPECT_GT(known, 0) << name;
}

TEST(BlockMemory, IsWhatDescriptionsSayIsKept) {
  for (const DType type : kTypes) {
    for (const double dropout : {0.0, .1}) {
      for (const std::vector<std::string>& targets :
           {std::vector<std::string>{}, {"*"}, {"c_attn"}, {"mlp.c_proj"}, {"lm_head"}})
        expect_as_described(network("gpt", type, targets, dropout),
                            fmt::format("gpt {}", join(targets, " ")));
    }
    for (const std::vector<std::string>& targets :
         {std::vector<std::string>{}, {"*"}, {"q_proj"}, {"o_proj", "down_proj"}})
      expect_as_described(network("llama", type, targets), fmt::format("llama {}", join(targets, " ")));
    for (const std::string activation : {"none", "relu", "gelu", "silu", "tanh"})
      expect_as_described(layers("mlp", type, activation), fmt::format("mlp {}", activation));
    for (const std::string name : {"convnet", "resnet20", "blocks"})
      expect_as_described(layers(name, type), name);
    expect_as_described(images(type), "images");
    expect_as_described(recurrent(type), "recurrent");
  }
}

// Of a unit that trains a part of its parameters less is kept than of the whole, and of one that trains none
// and passes nothing on, nothing.
TEST(BlockMemory, OfWhatIsFrozenIsLessThanDescribed) {
  config::Optimizer optimizer;
  optimizer.groups = {"h.0.* frozen=true", "wte.* frozen=true", "wpe.* frozen=true", "h.1.mlp.* frozen=true"};
  plan::ModelSpec spec = network("gpt", DType::kBF16, {});
  plan::apply_optimizer(optimizer, &spec);
  declare_scratch(&spec);
  const plan::Unit &below = spec.units[1], &partly = spec.units[2];
  const int64_t number = 8 * 32 * 2;  // time, width, bytes
  EXPECT_EQ(below.saved_bytes, 0);
  EXPECT_EQ(below.deferred_bytes, 0);
  EXPECT_EQ(partly.deferred_bytes, (1 + 1 + 3 + 1) * number);  // of attention's two projections
  EXPECT_EQ(partly.kept_saved_bytes, 2 * number);
  EXPECT_EQ(partly.kept_grad_bytes, 0) << "it goes on through the feed-forward layers";

  plan::ModelSpec mlp = layers("mlp", DType::kBF16);
  optimizer.groups = {"fc1.* frozen=true"};
  plan::apply_optimizer(optimizer, &mlp);
  declare_scratch(&mlp);
  const plan::Unit& first = mlp.units[0];
  EXPECT_EQ(first.saved_bytes, 0) << "not even the copy of its input";
  EXPECT_EQ(first.forward_scratch.sample_bytes, 28 * 28 * 2) << "which is there while it runs";
}

// Instruction by instruction a plan holds what the run on sizes does, whichever units run again.
class Walk {
 public:
  Walk(const plan::ModelSpec& spec, const std::vector<bool>& recompute, const std::string& name)
      : spec_(spec), name_(name), facts_(plan::model_facts(spec)) {
    const plan::Program program = plan::compile_train(spec, plan::Layout(), {{kSamples}, recompute, 1});
    plan::LiveMemory memory(program, spec, [&](const plan::Value& value) -> const plan::Slot& {
      return program.slots[static_cast<size_t>(program.slot_of(value))];
    });
    for (const plan::Instruction& each : program.instructions) compare(each, memory.apply(each));
  }

  int compared() const { return compared_; }

 private:
  static constexpr int64_t kSamples = 3;
  static constexpr auto kActivations = static_cast<size_t>(MemoryKind::kActivations);

  void compare(const plan::Instruction& each, const plan::LiveMemory::Change& change) {
    const auto u = static_cast<size_t>(each.unit);
    if (each.unit < 0) return;
    const plan::Unit& unit = spec_.units[u];
    const CallMemory call = call_memory(unit, facts_.units[u].passes, image_borders(spec_, facts_, u));
    if (call.forward_peak == 0) return;
    const std::string what = fmt::format("{}, {} of {}", name_, op_info(each.op).name, unit.name);
    const int64_t written = change.written[kActivations], dropped = change.dropped[kActivations];
    const int64_t out = unit.output.bytes_per_sample();
    if (each.op == plan::Op::kForward || each.op == plan::Op::kRecompute) {
      const bool kept = std::ranges::any_of(
          each.writes, [](const plan::Value& value) { return value.kind == plan::ValueKind::kSaved; });
      const int64_t during = call.forward_peak - (kept ? 0 : call.saved_bytes);
      EXPECT_EQ(written, kSamples * during + unit.forward_scratch.fixed_bytes) << what;
    } else if (each.op == plan::Op::kBackwardInput) {
      const int64_t passed = facts_.units[u].passes ? unit.input.bytes_per_sample() : 0;
      EXPECT_EQ(written, kSamples * call.backward_peak + unit.backward_scratch.fixed_bytes) << what;
      if (call.deferred_bytes > 0) {  // else its input goes too
        EXPECT_EQ(written - dropped, kSamples * (call.deferred_bytes + passed - call.saved_bytes - 2 * out))
            << what << ": its output and the gradient of that go";
      }
    } else {
      return;
    }
    ++compared_;
  }

  const plan::ModelSpec& spec_;
  const std::string name_;
  const plan::ModelFacts facts_;
  int compared_ = 0;
};

TEST(BlockMemory, IsWhatAPlanHolds) {
  for (const DType type : kTypes) {
    std::vector<std::pair<std::string, plan::ModelSpec>> networks;
    for (const std::vector<std::string>& targets : {std::vector<std::string>{}, {"*"}}) {
      for (const double dropout : {0.0, .1})
        networks.emplace_back("gpt", network("gpt", type, targets, dropout));
      networks.emplace_back("llama", network("llama", type, targets));
    }
    for (const std::string name : {"mlp", "convnet", "resnet20", "blocks"})
      networks.emplace_back(name, layers(name, type));
    networks.emplace_back("images", images(type));
    networks.emplace_back("recurrent", recurrent(type));
    for (auto& [name, spec] : networks) {
      declare_scratch(&spec);
      for (const int every : {0, 1, 2}) {  // units that run again
        std::vector<bool> recompute;
        for (size_t u = 0; u < spec.units.size(); ++u) recompute.push_back(every > 0 && u % every == 0);
        const Walk walk(spec, recompute, fmt::format("{} {} every {}", name, to_string(type), every));
        EXPECT_GE(walk.compared(), 6);
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
      EXPECT_EQ(call.kept_grad_bytes, unit.kept_grad_bytes) << more;
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
  const int64_t batch = 4 * 3 * 8 * 8;
  for (const std::string first : {"conv", "conv_norm"}) {
    const int64_t side = first == "conv" ? 3 : 4, pooled = 4 * 6 * side * side;  // conv_norm pads by itself
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
