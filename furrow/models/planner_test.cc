// The planner over real architectures: a published layout stands in the same table as the one that is found.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>

#include "furrow/base/error.h"
#include "furrow/config/config.h"
#include "furrow/models/architectures.h"
#include "furrow/plan/search.h"
#include "tests/testing/fuzz_replay.h"

namespace furrow::models {
namespace {

struct Planned {
  plan::ModelSpec spec;
  std::unique_ptr<plan::Costs> costs;
  plan::SearchResult result;
};

// An example over hosts of eight H100, each with its own InfiniBand port of 400 Gbit, sharded over all of
// them with every unit computed again: how torchtitan publishes Llama with one axis (docs/performance.md
// there).
Planned planned(const std::string& example, int hosts) {
  const config::Config config =
      config::load((furrow::testing::source_root() / "examples" / example).string());
  Planned planned;
  planned.spec =
      describe(config.model, {{DType::kI64, {-1, config.training.seq_len}}, config.model.vocab_size});
  plan::Cluster cluster;
  cluster.hosts = hosts;
  cluster.devices = 8;
  cluster.device = plan::find_device("h100-sxm");
  cluster.inside = plan::find_link("nvlink4");
  cluster.network = plan::find_link("infiniband-ndr");
  cluster.network.ports = 8;
  planned.costs = plan::analytic_costs(cluster);
  plan::SearchRequest request;
  request.spec = &planned.spec;
  request.costs = planned.costs.get();
  request.batch = {config.training.local_batch_size, config.training.global_batch_size};
  request.optimizer_states = 2;
  request.keep = 2;
  const int world = cluster.world();
  plan::Choice recipe;
  recipe.layout = plan::Layout({1, 1, world, 1, 1, 1}, world);
  recipe.zero_stage = 3;
  recipe.recompute.assign(planned.spec.units.size(), true);
  recipe.batch = request.batch;
  request.configured = recipe;
  planned.result = plan::search(request);
  return planned;
}

const plan::Candidate& published(const Planned& planned) {
  const auto found = std::ranges::find_if(planned.result.candidates,
                                          [](const plan::Candidate& each) { return each.configured; });
  EXPECT_NE(found, planned.result.candidates.end());
  return *found;
}

TEST(Planner, Llama7BOnEightH100) {
  const Planned llama = planned("llama2-7b.toml", 1);
  EXPECT_NEAR(static_cast<double>(llama.spec.parameter_count()), 6.738e9, 1e7);
  ASSERT_FALSE(llama.result.candidates.empty());
  const plan::Candidate &best = llama.result.candidates[0], &recipe = published(llama);
  EXPECT_TRUE(recipe.simulated);
  EXPECT_LE(best.figures.memory_bytes, llama.result.memory_bytes);
  EXPECT_LE(best.figures.step_s, recipe.figures.step_s);
}

TEST(Planner, Llama70BOn256H100) {
  const Planned llama = planned("llama2-70b.toml", 32);
  EXPECT_NEAR(static_cast<double>(llama.spec.parameter_count()), 68.98e9, 1e8);
  ASSERT_FALSE(llama.result.candidates.empty());
  const plan::Candidate &best = llama.result.candidates[0], &recipe = published(llama);
  EXPECT_TRUE(recipe.simulated);
  EXPECT_LE(best.figures.step_s, recipe.figures.step_s);
}

}  // namespace
}  // namespace furrow::models
