// The planner: what it finds, what it refuses, and how near its closed forms are to compiled programs.
#include "furrow/plan/search.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/plan/simulate.h"
#include "furrow/plan/testing/specs.h"

namespace furrow::plan {
namespace {

using ::testing::HasSubstr;

Cluster h100s(int hosts, int devices) {
  Cluster cluster;
  cluster.name = "h100s";
  cluster.hosts = hosts;
  cluster.devices = devices;
  cluster.device = find_device("h100-sxm");
  cluster.inside = find_link("nvlink4");
  cluster.network = find_link("infiniband-ndr");
  cluster.network.ports = devices;
  cluster.price.on_demand_per_host_hour = 50;
  return cluster;
}

// A search over a chain of units; the request points into it.
struct Case {
  Case(const ModelSpec& model, const Cluster& cluster, BatchRecipe batch) : spec(model) {
    costs = analytic_costs(cluster);
    request.spec = &spec;
    request.costs = costs.get();
    request.batch = batch;
    request.optimizer_state_copies = 2;
  }
  Case(const Case&) = delete;

  ModelSpec spec;
  std::unique_ptr<Costs> costs;
  SearchRequest request;
};

std::string failure(const SearchResult& result) {
  try {
    require_fit(result);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Search, EveryDataLayoutIsThereAndTheBestIsSimulated) {
  Case one(testing::chain(12, 64), h100s(1, 8), {4, 128});
  one.request.without = {"prune"};
  const SearchResult result = search(one.request);
  for (int shards : {1, 2, 4, 8}) {
    for (int stage = shards > 1 ? 1 : 0; stage <= (shards > 1 ? 3 : 0); ++stage) {
      EXPECT_TRUE(std::ranges::any_of(result.candidates,
                                      [&](const Candidate& each) {
                                        return each.choice.layout ==
                                                   Layout({1, 8 / shards, shards, 1, 1, 1}, 8) &&
                                               each.choice.zero_stage == stage;
                                      }))
          << shards << " shards, ZeRO-" << stage;
    }
  }
  EXPECT_EQ(failure(result), "");
}

TEST(Search, BestFirst) {
  Case one(testing::chain(12, 64), h100s(1, 8), {4, 128});
  const SearchResult result = search(one.request);
  ASSERT_GE(result.candidates.size(), 2u);
  EXPECT_TRUE(result.candidates[0].simulated);
  for (size_t i = 1; i < result.candidates.size() && result.candidates[i].simulated; ++i) {
    EXPECT_LE(result.candidates[i - 1].figures.step_s, result.candidates[i].figures.step_s);
  }
}

}  // namespace
}  // namespace furrow::plan
