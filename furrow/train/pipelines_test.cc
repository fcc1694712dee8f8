// Stages change no bit: pp x dp_replicate x dp_shard x schedules end with the parameters, optimizer state,
// loss and norm of one process, strictly.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <set>

#include "furrow/plan/schedule.h"
#include "furrow/train/residence_torch.h"
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

bool full() { return std::getenv("FURROW_TEST_FULL") != nullptr; }

// What the ranks of a world differ in, together; "" in nothing.
std::string difference(const TinyTraining& tiny, const StepOptions& options, const WorldOptions& world,
                       const StepResult& whole) {
  std::mutex mutex;
  std::string found;
  std::set<int> held;
  run_world(tiny, options, world, [&](const RankResult& rank) {
    const std::string here = testing::difference(rank, whole);
    const std::lock_guard lock(mutex);
    if (found.empty()) found = here;
    for (size_t u = 0; u < tiny.spec.units.size(); ++u) {
      if (rank.program.placement.holds(static_cast<int32_t>(u))) held.insert(static_cast<int>(u));
    }
  });
  EXPECT_EQ(held.size(), tiny.spec.units.size());
  return found;
}

std::vector<WorldOptions> data_layouts(int ranks) {
  std::vector<WorldOptions> layouts = {{.replicate = ranks}};
  for (const int stage : {1, 2, 3}) {
    if (ranks > 1) layouts.push_back({.shard = ranks, .zero_stage = stage});
    if (ranks > 2 && ranks % 2 == 0)
      layouts.push_back({.replicate = 2, .shard = ranks / 2, .zero_stage = stage});
  }
  return layouts;
}

// Pipelines of the table's schedules with at most as many stages as units.
std::vector<WorldOptions> pipelines(int most_ranks, int units) {
  std::vector<WorldOptions> worlds;
  for (const plan::ScheduleRow& row : plan::schedules()) {
    for (const int ranks : {2, 3, 4}) {
      for (int stages = 1; stages <= 2; ++stages) {
        if (ranks > most_ranks || ranks * stages > units || !row.refuses({ranks, stages, 4}).empty())
          continue;
        WorldOptions world;
        world.pipeline = ranks;
        world.stages.schedule = row.name;
        world.stages.stages_per_rank = stages;
        worlds.push_back(world);
      }
    }
  }
  return worlds;
}

WorldOptions with_data(WorldOptions world, const WorldOptions& data) {
  world.replicate = data.replicate;
  world.shard = data.shard;
  world.zero_stage = data.zero_stage;
  return world;
}

class Stages : public ::testing::TestWithParam<std::string> {
 protected:
  TinyTraining tiny_ = testing::tiny(GetParam());
  int units_ = static_cast<int>(tiny_.spec.units.size());
};

TEST_P(Stages, EqualOneProcessUnderEverySchedule) {
  for (const int each : {1, 3, 5}) {  // fewer than stages; no multiple of them
    for (const bool recompute : {false, true}) {
      StepOptions options;
      options.microbatch_sizes.assign(static_cast<size_t>(each), 2);
      options.microbatch_sizes.back() = 1;
      if (recompute) options.recompute.assign(tiny_.spec.units.size(), true);
      options.steps = 2;
      const StepResult whole = run_steps(tiny_, options);
      for (const WorldOptions& world : pipelines(4, units_))
        EXPECT_EQ(difference(tiny_, options, world, whole), "") << world.name() << " " << each;
    }
  }
}

TEST_P(Stages, EqualOneProcessOnProductsWithDataAxes) {
  for (const int ranks : {2, 4}) {
    StepOptions options;
    options.microbatch_sizes.assign(static_cast<size_t>(ranks * 2 + 1), 2);
    options.steps = 2;
    const StepResult whole = run_steps(tiny_, options);
    for (const WorldOptions& data : data_layouts(ranks)) {
      for (const WorldOptions& world : pipelines(8 / ranks, units_)) {
        if (!full() && ranks == 4 && world.stages.schedule != "1F1B") continue;
        EXPECT_EQ(difference(tiny_, options, with_data(world, data), whole), "")
            << with_data(world, data).name();
      }
    }
  }
}

// Groups, frozen parameters (also all of a stage, also such that another stage ties) and an average.
TEST_P(Stages, EqualOneProcessWithGroupsFrozenParametersAndAnAverage) {
  StepOptions options;
  options.microbatch_sizes = {2, 2, 2, 1};
  options.steps = 3;
  const auto& units = tiny_.spec.units;
  const std::string first = units[0].parameters[0].name, second = units[1].parameters[0].name;
  const std::vector<std::string> all = {first + " frozen=true", second + " frozen=true", "*1.* frozen=true"};
  for (const std::string& frozen : all) {
    for (const std::string optimizer : {"adamw", "lamb", "adafactor", "muon"}) {
      TinyTraining tiny = tiny_;
      tiny.config.optimizer.name = optimizer;
      tiny.config.optimizer.groups = {"*.weight lr=0.002 weight_decay=0.5", frozen};
      tiny.config.ema.decay = 0.8;
      const StepResult whole = run_steps(tiny, options);
      for (const WorldOptions& data : data_layouts(2)) {
        for (const std::string schedule : {"1F1B", "ZBH1"}) {
          WorldOptions world = with_data({.pipeline = 2}, data);
          world.stages.schedule = schedule;
          EXPECT_EQ(difference(tiny, options, world, whole), "")
              << world.name() << " " << frozen << " " << optimizer;
        }
      }
    }
  }
}

// A stage without anything to train.
TEST(FrozenStage, HasNoBackward) {
  TinyTraining tiny = testing::tiny("gpt-untied");
  tiny.config.optimizer.groups = {"* frozen=true", "lm_head.* frozen=false", "ln_f.* frozen=false"};
  tiny.config.ema.decay = 0.8;
  StepOptions options;
  options.microbatch_sizes = {2, 2, 2, 1};
  options.steps = 2;
  const StepResult whole = run_steps(tiny, options);
  for (const WorldOptions& data : data_layouts(2)) {
    for (const std::string schedule : {"GPipe", "1F1B", "ZBH1"}) {
      WorldOptions world = with_data({.pipeline = 2}, data);
      world.stages.schedule = schedule;
      EXPECT_EQ(difference(tiny, options, world, whole), "") << world.name();
    }
  }
}

TEST_P(Stages, ASplitByHandChangesNothing) {
  StepOptions options;
  options.microbatch_sizes.assign(4, 2);
  const StepResult whole = run_steps(tiny_, options);
  for (int first = 1; first < units_; ++first) {
    WorldOptions world{.pipeline = 2};
    world.stages.units_per_stage = {first, units_ - first};
    world.stages.receives_ahead = first % 3;
    EXPECT_EQ(difference(tiny_, options, world, whole), "") << first;
  }
}

// A rank that keeps another's tied parameters writes none of them to a checkpoint.
TEST_P(Stages, WriteEachElementOnce) {
  StepOptions options;
  options.microbatch_sizes.assign(4, 2);
  const plan::FlatLayout flat = plan::flat_layout(tiny_.spec);
  std::mutex mutex;
  std::vector<int64_t> written(flat.units.size(), 0);
  run_world(tiny_, options, {.shard = 2, .pipeline = 2}, [&](const RankResult& rank) {
    const std::vector<plan::Slice> own = own_slices(flat, rank.program.placement);
    const std::lock_guard lock(mutex);
    for (size_t u = 0; u < own.size(); ++u) written[u] += own[u].size();
  });
  for (size_t u = 0; u < written.size(); ++u) EXPECT_EQ(written[u], flat.units[u].elements) << u;
}

// Negative control.
TEST_P(Stages, AnotherSampleIsSeen) {
  StepOptions options;
  options.microbatch_sizes.assign(4, 2);
  const StepResult whole = run_steps(tiny_, options);
  options.position = 2;
  EXPECT_NE(difference(tiny_, options, {.pipeline = 2}, whole), "");
}

INSTANTIATE_TEST_SUITE_P(Tiny, Stages,
                         ::testing::Values("mlp", "convnet", "gpt-tied", "gpt-untied", "llama-tied",
                                           "gpt-tied@bfloat16", "gpt-untied@three-types", "mlp@three-types"),
                         [](const auto& info) { return testing::test_name(info.param); });

}  // namespace
}  // namespace furrow::train
