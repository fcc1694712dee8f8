// Ranks that share every layer: beside them no axis changes a bit, and all of them together do what one rank
// does, but for the order of sums.
#include <gtest/gtest.h>

#include <cmath>
#include <mutex>

#include "furrow/plan/tensor_cut.h"
#include "tests/testing/tiny_world_torch.h"

namespace furrow::train {
namespace {

using testing::RankResult;
using testing::run_steps;
using testing::run_world;
using testing::StepOptions;
using testing::StepResult;
using testing::TinyTraining;
using testing::WorldOptions;

class Parts : public ::testing::TestWithParam<std::string> {
 protected:
  TinyTraining tiny_ = testing::tiny(GetParam());
};

// What each rank of a tensor axis alone ends with, as the whole that a rank of it has.
std::vector<StepResult> run_parts(const TinyTraining& tiny, const StepOptions& options, int degree) {
  std::vector<StepResult> parts(static_cast<size_t>(degree));
  std::mutex mutex;
  run_world(tiny, options, {.tensor = degree}, [&](const RankResult& rank) {
    const std::lock_guard lock(mutex);
    StepResult& part = parts[static_cast<size_t>(rank.rank)];
    for (const UnitState& unit : rank.model.units()) {
      const auto copy = [](const at::Tensor& t) { return t.defined() ? t.clone() : at::Tensor(); };
      part.params.push_back(copy(unit.params));
      part.read.push_back(unit.params.defined() ? unit.read().clone() : at::Tensor());
      part.statistics.push_back(copy(unit.statistics));
      for (const at::Tensor& state : unit.states) part.states.push_back(copy(state));
    }
    part.outputs.loss = rank.outputs.loss;
    part.outputs.scale = rank.outputs.scale;
  });
  return parts;
}

// The whole parameters, put together from the parts.
std::vector<at::Tensor> whole_of(const TinyTraining& tiny, const std::vector<StepResult>& parts) {
  const int degree = static_cast<int>(parts.size());
  const plan::ModelSpec spec = plan::tensor_cut(tiny.trained_spec(), degree);
  const ModelState model(spec, {}, 0);
  std::vector<at::Tensor> tensors;
  for (int u = 0; u < static_cast<int>(spec.units.size()); ++u) {
    std::vector<UnitState> of_unit;
    for (const StepResult& part : parts)
      of_unit.push_back({part.params[static_cast<size_t>(u)], {}, part.statistics[static_cast<size_t>(u)]});
    if (!of_unit[0].params.defined()) continue;
    for (const NamedTensor& each : model.tensors_of(u, of_unit)) tensors.push_back(each.view);
  }
  return tensors;
}

std::vector<at::Tensor> tensors_of(const TinyTraining& tiny, const StepResult& whole) {
  std::vector<StepResult> one(1);
  one[0].params = whole.params;
  one[0].statistics = whole.statistics;
  return whole_of(tiny, one);
}

TEST_P(Parts, StartAsThePartsOfTheWhole) {
  for (const int degree : {2, 4}) {
    if (!plan::refuses_tensor_cut(tiny_.trained_spec(), degree).empty()) continue;
    StepOptions options;
    options.steps = 0;
    const auto parts = run_parts(tiny_, options, degree);
    EXPECT_TRUE(testing::same_bits(whole_of(tiny_, parts), tensors_of(tiny_, run_steps(tiny_, options))));
  }
}

TEST_P(Parts, OtherAxesChangeNoBit) {
  StepOptions options;
  options.microbatch_sizes = {2, 2, 2, 2, 1};
  options.steps = 2;
  const std::vector<StepResult> expected = run_parts(tiny_, options, 2);
  std::vector<WorldOptions> worlds = {{.replicate = 2}};
  for (const int stage : {1, 2, 3}) worlds.push_back({.shard = 2, .zero_stage = stage});
  worlds.push_back({.pipeline = 2});
  worlds.push_back({.replicate = 2, .shard = 2, .zero_stage = 3});
  worlds.push_back({.shard = 2, .zero_stage = 1, .pipeline = 2});
  worlds.push_back({.shard = 2, .zero_stage = 3, .pipeline = 2});
  for (WorldOptions& world : worlds) {
    world.tensor = 2;
    std::mutex mutex;
    std::string found;
    run_world(tiny_, options, world, [&](const RankResult& rank) {
      const auto part = static_cast<size_t>(rank.program.placement.tensor_rank());
      const std::string here = testing::difference(rank, expected[part]);
      const std::lock_guard lock(mutex);
      if (found.empty()) found = here;
    });
    EXPECT_EQ(found, "") << world.name();
  }
}

TEST_P(Parts, StepAsOneRankButForTheOrderOfSums) {
  StepOptions options;
  options.microbatch_sizes = {2, 1};
  options.steps = 3;
  const StepResult whole = run_steps(tiny_, options);
  for (const int degree : {2, 4}) {
    if (!plan::refuses_tensor_cut(tiny_.trained_spec(), degree).empty()) continue;
    const std::vector<StepResult> parts = run_parts(tiny_, options, degree);
    EXPECT_EQ(parts[0].outputs.loss.count, whole.outputs.loss.count);
    EXPECT_NEAR(parts[0].outputs.loss.mean(), whole.outputs.loss.mean(), 1e-4);
    EXPECT_NEAR(parts[0].outputs.scale.norm, whole.outputs.scale.norm, 1e-3 * whole.outputs.scale.norm);
    EXPECT_LT(testing::relative_error(whole_of(tiny_, parts), tensors_of(tiny_, whole)), 2e-3) << degree;
    for (const StepResult& part : parts) EXPECT_EQ(part.outputs.scale.norm, parts[0].outputs.scale.norm);
  }
}

INSTANTIATE_TEST_SUITE_P(Networks, Parts, ::testing::Values("gpt-tied", "gpt-untied", "llama-tied", "mlp"),
                         [](const auto& info) { return testing::test_name(info.param); });

}  // namespace
}  // namespace furrow::train
