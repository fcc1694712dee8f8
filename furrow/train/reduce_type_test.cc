// Gradients that are added and travel in 16 bits ([training] mixed_precision_reduce): what the sums are, on
// one rank as on many; bytes; float16's loss scale.  ranks_test.cc runs its whole list over such trainings
// too.
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <map>
#include <mutex>

#include "furrow/plan/quote.h"
#include "tests/testing/tiny_world_torch.h"

namespace furrow::train {
namespace {

using testing::RankResult;
using testing::run_steps;
using testing::run_world;
using testing::same_bits;
using testing::StepOptions;
using testing::StepResult;
using testing::TinyTraining;
using testing::WorldOptions;

constexpr int kMicrobatches = 6;

// The gradient of each microbatch alone, in float32, by microbatch and unit.
std::vector<std::vector<at::Tensor>> leaves_of(const std::string& float_name) {
  const TinyTraining tiny = testing::tiny(float_name);
  std::vector<std::vector<at::Tensor>> leaves;
  for (int64_t m = 0; m < kMicrobatches; ++m)
    leaves.push_back(run_steps(tiny, {.microbatch_sizes = {2}, .position = 2 * m}).gradients);
  return leaves;
}

// The tree over [begin, end), every node rounded.
at::Tensor tree(const std::vector<std::vector<at::Tensor>>& leaves, size_t unit, size_t begin, size_t end,
                at::ScalarType type) {
  if (end - begin == 1) return leaves[begin][unit].to(type);
  const size_t middle = begin + std::bit_floor(end - begin - 1);
  const at::Tensor left = tree(leaves, unit, begin, middle, type).to(at::kFloat);
  return (left + tree(leaves, unit, middle, end, type).to(at::kFloat)).to(type);
}

// What is stepped with is the tree of rounded nodes, and the norm that of exactly this.
TEST(ReduceType, EveryNodeOfTheTreeIsRounded) {
  for (const std::string name : {"mlp", "convnet", "lstm"}) {
    const auto leaves = leaves_of(name);
    for (const auto& [reduce, type] :
         {std::pair("bfloat16", at::kBFloat16), std::pair("float16", at::kHalf)}) {
      const TinyTraining tiny = testing::tiny(name + "@float32@" + reduce);
      StepOptions options;
      options.microbatch_sizes.assign(kMicrobatches, 2);
      options.loss_scale.factor = 64;
      const StepResult result = run_steps(tiny, options);
      const bool scales = type == at::kHalf;
      const int64_t count = result.outputs.loss.count;
      const double factor = scales ? factor_of_sum(options.loss_scale, count) : 1.0;  // a power of two
      double squares = 0;
      for (size_t u = 0; u < result.gradients.size(); ++u) {
        if (!result.gradients[u].defined()) continue;
        std::vector<std::vector<at::Tensor>> scaled = leaves;
        for (std::vector<at::Tensor>& of_units : scaled) of_units[u] = of_units[u] * factor;
        const at::Tensor expected = tree(scaled, u, 0, kMicrobatches, type);
        EXPECT_TRUE(same_bits({result.gradients[u]}, {expected})) << name << " " << reduce << " unit " << u;
        // Control: rounding the exact sum once is something else.
        at::Tensor once = at::zeros_like(scaled[0][u]);
        for (const std::vector<at::Tensor>& of_units : scaled) once += of_units[u];
        EXPECT_TRUE(once.numel() <= 4096 || !same_bits({result.gradients[u]}, {once.to(type)})) << u;
        squares += (result.gradients[u].to(at::kDouble) / factor).square().sum().item<double>();
      }
      const double norm = std::sqrt(squares) / static_cast<double>(count);
      EXPECT_NEAR(result.outputs.scale.norm, norm, 1e-12 * norm) << name << " " << reduce;
    }
  }
}

// What ranks are quoted: of each collective that moves gradients, exactly half, and half of the bound.
TEST(ReduceType, GradientsTravelInHalfTheBytes) {
  const auto moved = [](const std::string& name, const WorldOptions& world) {
    const TinyTraining tiny = testing::tiny(name);
    StepOptions options;
    options.microbatch_sizes.assign(8, 2);
    std::mutex mutex;
    std::map<std::string, double> quoted;  // of all ranks
    run_world(tiny, options, world, [&](const RankResult& rank) {
      const plan::Quote quote = plan::quote(rank.program, tiny.trained_spec());
      const std::lock_guard lock(mutex);
      for (const plan::CollectiveQuote& each : quote.collectives) {
        const std::string op(plan::op_info(each.op).name);
        quoted[op] += static_cast<double>(each.wire_bytes);
        quoted[op + " bound"] += each.bound_bytes;
      }
    });
    return quoted;
  };
  for (const WorldOptions& world : {WorldOptions{.replicate = 4},
                                    {.shard = 4, .zero_stage = 1},
                                    {.shard = 3, .zero_stage = 2},
                                    {.replicate = 2, .shard = 2, .zero_stage = 3}}) {
    auto wide = moved("gpt-tied", world), narrow = moved("gpt-tied@float32@bfloat16", world);
    for (const std::string op : {"reduce_grads", "gather_grads"}) {
      EXPECT_EQ(2 * narrow[op], wide[op]) << world.name() << " " << op;
      EXPECT_EQ(2 * narrow[op + " bound"], wide[op + " bound"]) << world.name() << " " << op;
    }
    EXPECT_GT(narrow["reduce_grads"], 0) << world.name();
    EXPECT_EQ(narrow["gather_params"], wide["gather_params"]) << world.name();
  }
}

// Parts of a tensor axis, and tied uses that travel between the stages of a pipeline.
TEST(ReduceType, TensorAndPipelineAxesKeepTheBits) {
  StepOptions options;
  options.microbatch_sizes = {2, 2, 2, 2, 2, 1};
  options.steps = 2;
  for (const std::string name : {"gpt-tied@float32@bfloat16", "llama-tied@bfloat16@bfloat16"}) {
    const TinyTraining tiny = testing::tiny(name);
    const StepResult whole = run_steps(tiny, options);
    WorldOptions pipeline{.shard = 2, .zero_stage = 2, .pipeline = 2};
    for (const char* schedule : {"1F1B", "ZBH1"}) {
      pipeline.stages.schedule = schedule;
      run_world(tiny, options, pipeline,
                [&](const RankResult& rank) { EXPECT_EQ(testing::difference(rank, whole), "") << name; });
    }
  }
  const TinyTraining tiny = testing::tiny("gpt-untied@float32@bfloat16");
  const std::vector<StepResult> parts = testing::run_parts(tiny, options, 2);
  for (const int stage : {1, 3}) {
    run_world(tiny, options, {.shard = 2, .zero_stage = stage, .tensor = 2}, [&](const RankResult& rank) {
      const auto part = static_cast<size_t>(rank.program.placement.tensor_rank());
      EXPECT_EQ(testing::difference(rank, parts[part]), "") << stage;
    });
  }
}

// Units compute in float32, so only sums of gradients overflow: in some layouts on a rank, in others on the
// way between ranks.  Every rank skips the same steps, and all move one scale.
TEST(ReduceType, AnOverflowOfASumIsSkippedByEveryRank) {
  const TinyTraining tiny = testing::tiny("convnet@float32@float16");
  const StepResult start = run_steps(tiny, {.steps = 0});
  StepOptions options;
  options.microbatch_sizes = {2, 2, 2, 1};
  options.loss_scale = {std::ldexp(1.0, 40), 1};
  const StepResult once = run_steps(tiny, options);
  EXPECT_FALSE(once.outputs.scale.finite);
  EXPECT_TRUE(std::isfinite(once.outputs.loss.mean()));
  EXPECT_EQ(once.outputs.phases[0].state, (PhaseState{1, {std::ldexp(1.0, 39), 0}}));
  EXPECT_TRUE(same_bits(once.params, start.params));
  EXPECT_TRUE(same_bits(once.states, start.states));
  options.steps = 40;
  const StepResult whole = run_steps(tiny, options);
  EXPECT_GT(whole.skipped, 3);
  EXPECT_LT(whole.skipped, options.steps - 3);
  for (const testing::WorldOptions& world : testing::some_layouts()) {
    run_world(tiny, options, world, [&](const RankResult& rank) {
      EXPECT_EQ(testing::difference(rank, whole), "") << world.name();
    });
  }
}

}  // namespace
}  // namespace furrow::train
