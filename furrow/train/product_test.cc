// The whole product of layouts up to 8 ranks: {pp, dp_replicate, dp_shard, tp} x ZeRO x schedules and stages
// a rank x recompute x microbatches (fewer than stages, no multiple of them, no multiple of the data ranks,
// the last one smaller), each in buckets of some size, of models whose layers no number of stages divides:
// one process bit for bit, with dropout. Beside a tensor axis, what that axis alone ends with, whose own
// bounds are in tensor_axis_test.cc.
//
// FURROW_TEST_FULL runs all of it (18,168 worlds, half an hour of a processor; GTEST_TOTAL_SHARDS divides
// it), else kSample worlds of each test.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <numeric>

#include "furrow/base/error.h"
#include "furrow/plan/schedule.h"
#include "furrow/plan/tensor_cut.h"
#include "tests/testing/tiny_world_torch.h"

namespace furrow::train {
namespace {

using testing::RankResult;
using testing::StepOptions;
using testing::StepResult;
using testing::TinyTraining;
using testing::WorldOptions;

constexpr int kMostRanks = 8;
constexpr size_t kSample = 2;

bool full() { return std::getenv("FURROW_TEST_FULL") != nullptr; }

// Seven layers between two ends; heads for four ranks of a tensor axis.
TinyTraining deep(const std::string& name) {
  TinyTraining tiny = testing::tiny(name);
  if (name == "convnet") return tiny;
  tiny.config.model.hidden = {24, 20, 16, 20, 24, 16, 12};
  tiny.config.model.layers = 7;
  tiny.config.model.heads = 8;
  tiny.config.model.kv_heads = 4;
  testing::describe_again(&tiny);
  return tiny;
}

// Every product of at most kMostRanks ranks that the model can be cut to.
std::vector<WorldOptions> layouts(const plan::ModelSpec& spec) {
  std::vector<WorldOptions> worlds;
  for (int pp = 1; pp <= kMostRanks; ++pp) {
    for (int replicate = 1; pp * replicate <= kMostRanks; ++replicate) {
      for (int shard = 1; pp * replicate * shard <= kMostRanks; ++shard) {
        for (int tensor = 1; pp * replicate * shard * tensor <= kMostRanks; ++tensor) {
          if (!plan::refuses_tensor_cut(spec, tensor).empty()) continue;
          for (int stage = 1; stage <= (shard > 1 ? 3 : 1); ++stage) {
            WorldOptions world;
            world.replicate = replicate;
            world.shard = shard;
            world.zero_stage = stage;
            world.pipeline = pp;
            world.tensor = tensor;
            worlds.push_back(world);
          }
        }
      }
    }
  }
  return worlds;
}

// The same under every schedule and number of stages that takes so many turns.
std::vector<WorldOptions> scheduled(const std::vector<WorldOptions>& worlds, int units, int each) {
  std::vector<WorldOptions> all;
  for (const WorldOptions& world : worlds) {
    if (world.pipeline == 1) {
      all.push_back(world);
      continue;
    }
    for (const plan::ScheduleRow& row : plan::schedules()) {
      for (int stages = 1; stages <= 3 && world.pipeline * stages <= units; ++stages) {
        if (!row.refuses({world.pipeline, stages, each}).empty()) continue;
        WorldOptions piped = world;
        piped.stages.schedule = row.name;
        piped.stages.stages_per_rank = stages;
        all.push_back(piped);
      }
    }
  }
  return all;
}

// kSample of them, spread over all that differs between them, others of every test.
std::vector<WorldOptions> sample(std::vector<WorldOptions> worlds, uint64_t seed) {
  if (full() || worlds.size() <= kSample) return worlds;
  std::vector<WorldOptions> chosen;
  for (size_t i = 0; i < kSample; ++i) {
    const size_t begin = i * worlds.size() / kSample, end = (i + 1) * worlds.size() / kSample;
    chosen.push_back(worlds[begin + (seed * 7919 + i * 104729) % (end - begin)]);
  }
  return chosen;
}

struct Case {
  std::string network;
  bool recompute = false;
  int each = 1;  // microbatches of a data rank

  std::string name() const {
    return fmt::format("{}_{}{}", testing::test_name(network), each, recompute ? "_recompute" : "");
  }
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const char* network : {"gpt-tied", "gpt-untied", "llama-tied", "llama-untied", "mlp", "convnet"}) {
    for (const int each : {1, 3, 5}) {
      for (const bool recompute : {false, true}) all.push_back({network, recompute, each});
    }
  }
  return all;
}

// The same in buckets of several sizes, others of every test: all of its layouts meet each of them.
std::vector<WorldOptions> in_buckets(std::vector<WorldOptions> worlds, uint64_t seed) {
  constexpr int64_t kSizes[] = {0, int64_t{16} << 10, int64_t{1} << 30};
  for (size_t i = 0; i < worlds.size(); ++i) worlds[i].bucket_bytes = kSizes[(i + seed) % std::size(kSizes)];
  return worlds;
}

class Product : public ::testing::TestWithParam<Case> {
 protected:
  // With several data ranks the last of them has one less.
  StepOptions options_of(const WorldOptions& world) const {
    const int ranks = world.replicate * world.shard;
    const int count = ranks * GetParam().each - (GetParam().each > 1 && ranks > 1 ? 1 : 0);
    StepOptions options;
    options.microbatch_sizes.assign(static_cast<size_t>(count), 2);
    options.microbatch_sizes.back() = 1;
    if (GetParam().recompute) options.recompute.assign(tiny_.spec.units.size(), true);
    options.steps = 2;
    return options;
  }

  // By rank of the tensor axis.
  const std::vector<StepResult>& expected(const WorldOptions& world, const StepOptions& options) {
    std::vector<StepResult>& results = expected_[{world.tensor, options.microbatch_sizes.size()}];
    if (results.empty())
      results = world.tensor > 1 ? testing::run_parts(tiny_, options, world.tensor)
                                 : std::vector<StepResult>{testing::run_steps(tiny_, options)};
    return results;
  }

  std::string difference(const WorldOptions& world) {
    const StepOptions options = options_of(world);
    const std::vector<StepResult>& parts = expected(world, options);
    std::mutex mutex;
    std::string found;
    const auto inspect = [&](const RankResult& rank) {
      const auto part = static_cast<size_t>(rank.program.placement.tensor_rank());
      const std::string here = testing::difference(rank, parts[part]);
      const std::lock_guard lock(mutex);
      if (found.empty()) found = here;
    };
    try {
      testing::run_world(tiny_, options, world, inspect);
    } catch (const Error& error) {  // the others of the test run all the same
      return error.what();
    }
    return found;
  }

  const TinyTraining tiny_ = deep(GetParam().network);
  std::map<std::pair<int, size_t>, std::vector<StepResult>> expected_;  // by tensor degree and microbatches
};

TEST_P(Product, EqualsOneProcess) {
  const int units = static_cast<int>(tiny_.spec.units.size());
  const std::vector<Case> every = cases();
  const auto self = std::ranges::find_if(every, [](const Case& c) { return c.name() == GetParam().name(); });
  const auto seed = static_cast<uint64_t>(self - every.begin());
  const std::vector<WorldOptions> all =
      in_buckets(scheduled(layouts(tiny_.spec), units, GetParam().each), seed);
  const std::vector<WorldOptions> chosen = sample(all, seed);
  for (const WorldOptions& world : chosen) EXPECT_EQ(difference(world), "") << world.name();
  fmt::print("{} of {} worlds\n", chosen.size(), all.size());
}

INSTANTIATE_TEST_SUITE_P(Networks, Product, ::testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name(); });

}  // namespace
}  // namespace furrow::train
