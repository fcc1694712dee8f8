// The layout changes no bit: ranks x layouts x microbatches end with the parameters, optimizer state, loss
// and norm of one process, strictly.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>

#include "furrow/base/error.h"
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

// `--full` runs the whole product over twenty steps.
bool full() { return std::getenv("FURROW_TEST_FULL") != nullptr; }

std::vector<WorldOptions> layouts_of(int ranks) {
  std::vector<WorldOptions> layouts = {{.replicate = ranks}};
  if (ranks == 1) return layouts;
  for (const int stage : {1, 2, 3}) {
    layouts.push_back({.shard = ranks, .zero_stage = stage});
    if (ranks % 2 == 0 && ranks > 2)
      layouts.push_back({.replicate = 2, .shard = ranks / 2, .zero_stage = stage});
    if (ranks == 8) layouts.push_back({.replicate = 4, .shard = 2, .zero_stage = stage});
  }
  return layouts;
}

// `each` microbatches a rank, the last of the global batch smaller.
std::vector<int64_t> microbatches(int ranks, int each) {
  std::vector<int64_t> sizes(static_cast<size_t>(ranks * each), 2);
  sizes.back() = 1;
  return sizes;
}

void expect_same(const TinyTraining& tiny, const StepOptions& options, const WorldOptions& world,
                 const StepResult& whole) {
  SCOPED_TRACE(tiny.name + " " + world.name());
  run_world(tiny, options, world, [&](const RankResult& rank) {
    EXPECT_EQ(testing::difference(rank, whole), "")
        << world.name() << " " << options.microbatch_sizes.size() << " microbatches";
  });
}

class Bits : public ::testing::TestWithParam<std::string> {
 protected:
  TinyTraining tiny_ = testing::tiny(GetParam());
};

TEST_P(Bits, EqualOneProcessInEveryLayout) {
  for (const int ranks : {1, 2, 3, 4, 8}) {
    for (const int each : {1, 3, 4, 8}) {
      const bool chosen = full() || ranks * each <= 12;
      if (!chosen) continue;
      StepOptions options;
      options.microbatch_sizes = microbatches(ranks, each);
      options.steps = full() ? 20 : 2;
      const StepResult whole = run_steps(tiny_, options);
      for (const WorldOptions& world : layouts_of(ranks)) expect_same(tiny_, options, world, whole);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Tiny, Bits, ::testing::Values("convnet", "gpt-tied"), [](const auto& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

}  // namespace
}  // namespace furrow::train
