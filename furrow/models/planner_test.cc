// The planner over real architectures: a published layout stands in the same table as the one that is found.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>

#include "furrow/base/error.h"
#include "furrow/config/config.h"
#include "furrow/models/architectures.h"
#include "furrow/models/testing/h100_hosts.h"
#include "furrow/plan/search.h"
#include "tests/testing/fuzz_replay.h"

namespace furrow::models {
namespace {

struct Planned {
  plan::ModelSpec spec;
  std::unique_ptr<plan::Costs> costs;
  plan::SearchResult result;
};

// How others publish Llama, or a network of its size, on devices with 80 GB.  Every unit is computed again.
struct Recipe {
  const char* source;
  int pipeline, shards, tensor;
  int64_t local_batch;
  const char* schedule = "1F1B";
  int stages_per_rank = 1;
};
// pytorch/torchtitan, docs/performance.md ("FSDP2 (1D parallelism)", local batch 1) and the 70B preset of its
// llama3 configs (tensor_parallel_degree 8, the rest sharded, local batch 8).
constexpr Recipe kSharded8 = {"torchtitan, one axis", 1, 8, 1, 1};
constexpr Recipe kSharded256 = {"torchtitan, one axis", 1, 256, 1, 1};
constexpr Recipe kTensor256 = {"torchtitan, two axes", 1, 32, 8, 8};
// Narayanan et al., "Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM", 2021,
// table 1: 76.1 billion parameters over tensor 8 and pipeline 4, interleaved, the optimizer sharded.
constexpr Recipe kMegatron256 = {"Megatron-LM, three axes", 4, 8, 8, 1, "Interleaved1F1B", 2};

// An example over hosts of eight H100, and the recipe.
Planned planned(const std::string& example, int hosts, const Recipe& published) {
  const config::Config config =
      config::load((furrow::testing::source_root() / "examples" / example).string());
  Planned planned;
  planned.spec =
      describe(config.model, {{DType::kI64, {-1, config.training.seq_len}}, config.model.vocab_size});
  const plan::Cluster cluster = testing::h100_hosts(hosts);
  planned.costs = plan::analytic_costs(cluster);
  plan::SearchRequest request;
  request.spec = &planned.spec;
  request.costs = planned.costs.get();
  request.batch = {published.local_batch, config.training.global_batch_size};
  request.optimizer_states = 2;
  request.keep = 2;
  plan::Choice recipe;
  recipe.layout =
      plan::Layout({published.pipeline, 1, published.shards, 1, published.tensor, 1}, cluster.world());
  recipe.zero_stage = published.pipeline > 1 ? 1 : 3;
  recipe.pipeline.schedule = published.schedule;
  recipe.pipeline.stages_per_rank = published.stages_per_rank;
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

// The recipe is in the table with its own simulated cost, and what is chosen fits and is no slower.
void expect_beside(const Planned& llama, const Recipe& recipe) {
  SCOPED_TRACE(recipe.source);
  ASSERT_FALSE(llama.result.candidates.empty());
  const plan::Candidate &best = llama.result.candidates[0], &theirs = published(llama);
  EXPECT_TRUE(theirs.simulated);
  EXPECT_LE(best.figures.memory_bytes, llama.result.memory_bytes);
  EXPECT_LE(best.figures.step_s, theirs.figures.step_s);
  EXPECT_GT(best.figures.step_s, theirs.figures.step_s / 8);  // both are of one model and one machine
}

TEST(Planner, Llama7BOnEightH100) {
  const Planned llama = planned("llama2-7b.toml", 1, kSharded8);
  EXPECT_NEAR(static_cast<double>(llama.spec.parameter_count()), 6.738e9, 1e7);
  expect_beside(llama, kSharded8);
}

TEST(Planner, Llama70BOn256H100) {
  for (const Recipe& recipe : {kSharded256, kTensor256, kMegatron256}) {
    const Planned llama = planned("llama2-70b.toml", 32, recipe);
    EXPECT_NEAR(static_cast<double>(llama.spec.parameter_count()), 68.98e9, 1e8);
    expect_beside(llama, recipe);
    std::printf("%s: %s %.1f s a step, chosen %s %.1f\n", recipe.source,
                plan::to_text(published(llama).choice).c_str(), published(llama).figures.step_s,
                plan::to_text(llama.result.candidates[0].choice).c_str(),
                llama.result.candidates[0].figures.step_s);
  }
}

}  // namespace
}  // namespace furrow::models
