// The planner: what it finds, what it refuses, and how near its closed forms are to compiled programs.
#include "furrow/plan/search.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <set>

#include "furrow/base/error.h"
#include "furrow/plan/testing/specs.h"

namespace furrow::plan {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

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

// A request over a model and a cluster of its own.
struct Case {
  Case(ModelSpec model, const Cluster& cluster, BatchRecipe batch) : spec(std::move(model)) {
    costs = analytic_costs(cluster);
    request.spec = &spec;
    request.costs = costs.get();
    request.batch = batch;
    request.optimizer_states = 2;
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
    EXPECT_EQ(error.code(), ErrorCode::kResourceExhausted);
    return error.what();
  }
  return "";
}

const Candidate* find(const SearchResult& result, const Choice& choice) {
  for (const Candidate& each : result.candidates) {
    if (same_program(each.choice, choice)) return &each;
  }
  return nullptr;
}

// Activations that matter beside parameters.
ModelSpec wide_chain(int units, int64_t width, int64_t saved_bytes) {
  ModelSpec spec = testing::chain(units, width);
  for (Unit& unit : spec.units) unit.saved_bytes = saved_bytes;
  return spec;
}

TEST(Search, EveryDataLayoutIsTried) {
  Case one(testing::chain(12, 64), h100s(1, 8), {4, 128});
  one.request.without = {"prune", "simulate"};
  const SearchResult result = search(one.request);
  for (const int shards : {1, 2, 4, 8}) {
    for (int stage = shards > 1 ? 1 : 0; stage <= (shards > 1 ? 3 : 0); ++stage) {
      const Choice choice = {
          Layout({1, 8 / shards, shards, 1, 1, 1}, 8), stage, {}, std::vector<bool>(12), {4, 128}};
      EXPECT_NE(find(result, choice), nullptr) << to_text(choice);
    }
  }
  for (const char* schedule : {"GPipe", "1F1B", "Interleaved1F1B", "LoopedBFS", "ZBH1",
                               "InterleavedZeroBubble", "ZBVZeroBubble", "DualPipeV"}) {
    EXPECT_TRUE(std::ranges::any_of(result.candidates, [&](const Candidate& each) {
      return each.choice.pipeline.schedule == schedule && each.choice.layout.degree(Axis::kPipeline) == 4;
    })) << schedule;
  }
}

// Masters and state are no memory of the devices: what needs 16 bytes a parameter fits into 10.
TEST(Search, AnOptimizerOnTheHostLeavesRoom) {
  ModelSpec spec = testing::chain(8, 4096);  // 8 x 64 MiB
  Case inside(spec, h100s(1, 1), {4, 4});
  inside.request.memory_bytes = 10 * spec.parameter_count();
  EXPECT_NE(failure(search(inside.request)), "");
  for (Unit& unit : spec.units) unit.offload = true;
  Case host(spec, h100s(1, 1), {4, 4});
  host.request.memory_bytes = inside.request.memory_bytes;
  const SearchResult result = search(host.request);
  ASSERT_EQ(failure(result), "");
  inside.request.memory_bytes = 0;
  EXPECT_GT(result.candidates[0].figures.step_s, 2 * search(inside.request).candidates[0].figures.step_s)
      << "the bus is slower";
}

TEST(Search, BestFirstAndSimulated) {
  Case one(testing::chain(12, 64), h100s(1, 8), {4, 128});
  const SearchResult result = search(one.request);
  ASSERT_GE(result.candidates.size(), 2u);
  EXPECT_TRUE(result.candidates[0].simulated);
  for (size_t i = 1; i < result.candidates.size() && result.candidates[i].simulated; ++i) {
    EXPECT_LE(result.candidates[i - 1].figures.step_s, result.candidates[i].figures.step_s);
  }
  EXPECT_EQ(failure(result), "");
  EXPECT_EQ(result.smallest_change, "");
}

// Memory and seconds in closed form against the compiled and simulated program, for data-parallel layouts.
void closed_forms_are_near_the_simulation(DType compute, bool offload = false, int64_t bucket_bytes = 0) {
  ModelSpec spec = wide_chain(12, 512, 40000);
  for (Unit& unit : spec.units) {
    unit.compute = compute;
    unit.offload = offload;
  }
  Case one(std::move(spec), h100s(1, 8), {64, 64 * 32});
  one.request.without = {"prune", "schedules", "buckets"};
  one.request.ranks.bucket_bytes = bucket_bytes;
  const SearchResult simulated = search(one.request);
  one.request.without.emplace_back("simulate");
  const SearchResult estimated = search(one.request);
  int compared = 0;
  for (const Candidate& exact : simulated.candidates) {
    if (!exact.simulated) continue;
    const Candidate* estimate = find(estimated, exact.choice);
    ASSERT_NE(estimate, nullptr);
    const auto memory = static_cast<double>(exact.figures.memory_bytes);
    EXPECT_NEAR(static_cast<double>(estimate->figures.memory_bytes), memory, .15 * memory)
        << to_text(exact.choice);
    EXPECT_NEAR(estimate->figures.step_s, exact.figures.step_s, .4 * exact.figures.step_s)
        << to_text(exact.choice);
    ++compared;
  }
  EXPECT_GE(compared, 10);
}

TEST(Search, ClosedFormsAreNearTheSimulation) { closed_forms_are_near_the_simulation(DType::kF32); }

TEST(Search, ClosedFormsOfAnOptimizerOnTheHostToo) {
  closed_forms_are_near_the_simulation(DType::kF32, true);
}

TEST(Search, ClosedFormsOfBucketsToo) { closed_forms_are_near_the_simulation(DType::kF32, false, 4 << 20); }

TEST(Search, MixedPrecisionIsPlannedFor) {
  closed_forms_are_near_the_simulation(DType::kBF16);
  // Without shards, of an element: 4 parameter, 4 gradient, 8 optimizer; or 2, 4, and 4 + 8 with the master.
  const auto planned = [](DType compute) {
    ModelSpec spec = testing::chain(2, 512);
    for (Unit& unit : spec.units) unit.compute = compute;
    Case one(std::move(spec), h100s(1, 1), {4096, 4096});
    one.request.without = {"simulate"};
    return search(one.request).candidates.at(0).figures;
  };
  const Figures whole = planned(DType::kF32), half = planned(DType::kBF16);
  const auto elements = static_cast<double>(2 * (512 * 512 + 512));
  EXPECT_NEAR(static_cast<double>(half.memory_bytes - whole.memory_bytes), 2 * elements, .05 * elements);
  EXPECT_LT(half.step_s, whole.step_s);
}

// Long steps are told from two short ones: as long as a step of which all is simulated.
TEST(Search, LongStepsAreLinear) {
  Case one(testing::chain(6, 512), h100s(1, 2), {64, 64 * 2 * 16});
  one.request.without = {"schedules", "zero"};
  Case two(testing::chain(6, 512), h100s(1, 2), {64, 64 * 2 * 8});  // the longest that is simulated whole
  two.request.without = one.request.without;
  for (const int shards : {1, 2}) {
    const Choice choice = {Layout({1, 2 / shards, shards, 1, 1, 1}, 2),
                           shards > 1 ? 3 : 0,
                           {},
                           std::vector<bool>(6),
                           one.request.batch};
    Choice half = choice;
    half.batch = two.request.batch;
    const SearchResult long_result = search(one.request), short_result = search(two.request);
    const Candidate *whole = find(long_result, choice), *part = find(short_result, half);
    ASSERT_TRUE(whole != nullptr && part != nullptr);
    EXPECT_GT(whole->figures.step_s, 1.7 * part->figures.step_s);
    EXPECT_LT(whole->figures.step_s, 2.0 * part->figures.step_s);
    EXPECT_NEAR(whole->figures.wire_bytes, (shards > 1 ? 2 : 1) * part->figures.wire_bytes,
                .3 * part->figures.wire_bytes);
  }
}

TEST(Search, UnitsAreComputedAgainUntilItFits) {
  Case one(wide_chain(12, 64, 1 << 20), h100s(1, 1), {16, 16});
  one.request.without = {"simulate"};
  const SearchResult roomy = search(one.request);
  ASSERT_FALSE(roomy.candidates.empty());
  EXPECT_EQ(std::ranges::count(roomy.candidates[0].choice.recompute, true), 0);
  const int64_t needs = roomy.candidates[0].figures.memory_bytes;
  one.request.memory_bytes = needs / 2;
  const SearchResult tight = search(one.request);
  ASSERT_FALSE(tight.candidates.empty());
  const auto again = std::ranges::count(tight.candidates[0].choice.recompute, true);
  EXPECT_GT(again, 3);
  EXPECT_LT(again, 12);
  EXPECT_LE(tight.candidates[0].figures.memory_bytes, needs / 2);
  one.request.without = {"simulate", "recompute"};
  EXPECT_THAT(failure(search(one.request)), HasSubstr("does not fit"));
}

TEST(Search, WhatDoesNotFitNamesTheSmallestChange) {
  Case one(testing::chain(8, 1024), h100s(1, 2), {1, 64});
  one.request.memory_bytes = 40 << 20;  // 32 MiB of parameters, and 4 times that of states
  const std::string message = failure(search(one.request));
  EXPECT_THAT(message,
              MatchesRegex("does not fit: needs [0-9.]+ GiB of 0.0 per device \\(.*\\); smallest change: "
                           "(4|8|16) devices instead of 2"));
}

TEST(Search, SmallerMicrobatchesAreTheSmallestChange) {
  Case one(wide_chain(4, 64, 1 << 22), h100s(1, 1), {64, 64});
  one.request.memory_bytes = 400 << 20;  // a unit alone saves 256 MiB
  one.request.without = {"recompute"};
  const std::string message = failure(search(one.request));
  EXPECT_THAT(message,
              HasSubstr("smallest change: local_batch_size 16 instead of 64 (--allow-recipe-change)"));
}

TEST(Search, RecipeChangesOnlyIfAllowed) {
  Case one(testing::chain(6, 64), h100s(1, 4), {4, 64});
  one.request.without = {"simulate", "prune"};
  const auto sizes = [](const SearchResult& result) {
    std::vector<int64_t> sizes;
    for (const Candidate& each : result.candidates) {
      if (std::ranges::find(sizes, each.choice.batch.local_batch) == sizes.end()) {
        sizes.push_back(each.choice.batch.local_batch);
      }
    }
    std::ranges::sort(sizes);
    return sizes;
  };
  EXPECT_EQ(sizes(search(one.request)), (std::vector<int64_t>{4}));
  one.request.allow_recipe_change = true;
  EXPECT_EQ(sizes(search(one.request)), (std::vector<int64_t>{1, 2, 4, 8, 16, 32, 64, 128, 256}));
}

// A chain whose units compute in bfloat16.
ModelSpec narrow_chain(int units, int64_t width) {
  ModelSpec spec = testing::chain(units, width);
  for (Unit& unit : spec.units) unit.compute = DType::kBF16;
  return spec;
}

TEST(Search, PrecisionAndGlobalBatchAreRecipeToo) {
  const ModelSpec narrow = narrow_chain(6, 4096);
  Case one(testing::chain(6, 4096), h100s(1, 4), {4, 64});
  one.request.precisions = {{DType::kBF16, &narrow}};
  one.request.keep = 12;
  for (const Candidate& each : search(one.request).candidates) {
    EXPECT_EQ(each.recipe_change, "");
    EXPECT_FALSE(each.choice.precision);
  }
  one.request.allow_recipe_change = true;
  const SearchResult result = search(one.request);
  ASSERT_FALSE(result.candidates.empty());
  const Candidate& best = result.candidates[0];
  EXPECT_EQ(best.choice.precision, DType::kBF16);
  EXPECT_THAT(best.recipe_change, HasSubstr("bfloat16 instead of float32"));
  EXPECT_TRUE(best.simulated);
  std::set<int64_t> batches;
  for (const Candidate& each : result.candidates) {
    batches.insert(each.choice.batch.global_batch);
    const bool changed = each.choice.precision || each.choice.batch != one.request.batch;
    EXPECT_EQ(each.recipe_change.empty(), !changed) << each.recipe_change;
  }
  EXPECT_THAT(batches, ::testing::IsSupersetOf({64, 256}));
  // What the change is worth stands beside it: the best of the given recipe, simulated.
  const auto given = std::ranges::find_if(result.candidates,
                                          [](const Candidate& each) { return each.recipe_change.empty(); });
  ASSERT_NE(given, result.candidates.end());
  EXPECT_TRUE(given->simulated);
  EXPECT_LT(given->figures.samples_per_second, best.figures.samples_per_second);
  one.request.without = {"precision", "batch"};
  for (const Candidate& each : search(one.request).candidates) EXPECT_EQ(each.recipe_change, "");
}

TEST(Search, APrecisionThatIsNoFasterIsNotTried) {
  const ModelSpec narrow = narrow_chain(6, 64);
  Cluster cluster = h100s(1, 2);
  cluster.device.half_flops = cluster.device.f32_flops;
  Case one(testing::chain(6, 64), cluster, {4, 64});
  one.request.precisions = {{DType::kBF16, &narrow}};
  one.request.allow_recipe_change = true;
  const SearchResult result = search(one.request);
  for (const Candidate& each : result.candidates) EXPECT_FALSE(each.choice.precision);
  EXPECT_THAT(result.passes[2].notes,
              ::testing::ElementsAre(HasSubstr("computes bfloat16 no faster than float32")));
}

TEST(Search, FewMicrobatchesLeaveFewDataRanks) {
  Case one(testing::chain(8, 64), h100s(1, 8), {4, 8});
  const SearchResult result = search(one.request);
  for (const Candidate& each : result.candidates) EXPECT_LE(each.choice.layout.data_ranks(), 2);
  EXPECT_TRUE(std::ranges::any_of(result.refused, [](const Candidate& each) {
    return each.reason == "8 data ranks for 2 microbatches (global batch 8 / local batch 4): each needs one";
  }));
}

TEST(Search, TheConfiguredLayoutIsInTheTable) {
  Case one(testing::chain(12, 64), h100s(1, 8), {4, 128});
  one.request.configured =
      Choice{Layout({1, 8, 1, 1, 1, 1}, 8), 0, {}, std::vector<bool>(12, true), {4, 128}};
  const SearchResult result = search(one.request);
  const auto configured = [](const Candidate& each) { return each.configured; };
  ASSERT_EQ(std::ranges::count_if(result.candidates, configured), 1);
  const Candidate& found = *std::ranges::find_if(result.candidates, configured);
  EXPECT_TRUE(found.simulated);
  EXPECT_GT(found.figures.step_s, result.candidates[0].figures.step_s);  // it computes everything again
  one.request.configured->layout = Layout({1, 1, 1, 1, 8, 1}, 8);
  const SearchResult refused = search(one.request);
  const auto why = std::ranges::find_if(refused.refused, configured);
  ASSERT_NE(why, refused.refused.end());
  EXPECT_FALSE(why->reason.empty());
}

TEST(Search, TensorDegreesStayInsideAHostAndDivideWhatTheyShare) {
  Case one(testing::cut_chain(4, 64), h100s(2, 4), {4, 128});
  one.request.keep = 100;
  std::set<int> degrees;
  for (const Candidate& each : search(one.request).candidates) {
    degrees.insert(each.choice.layout.degree(Axis::kTensor));
    EXPECT_EQ(each.choice.layout.world(), 8);
    EXPECT_GT(each.figures.step_s, 0);
  }
  EXPECT_EQ(degrees, (std::set<int>{1, 2, 4}));
  for (Unit& unit : one.spec.units) unit.tensor.counts = {{"lanes", 6}};
  degrees.clear();
  const SearchResult fewer = search(one.request);
  for (const Candidate& each : fewer.candidates) degrees.insert(each.choice.layout.degree(Axis::kTensor));
  EXPECT_EQ(degrees, (std::set<int>{1, 2}));
  ASSERT_FALSE(fewer.passes[0].notes.empty());
  EXPECT_THAT(fewer.passes[0].notes[0],
              HasSubstr("tp 4: unit u0 (test) has 6 lanes, which 4 does not divide"));
}

TEST(Search, PassesAreKnownByName) {
  Case one(testing::chain(4, 64), h100s(1, 2), {4, 16});
  one.request.without = {"zero"};
  one.request.ranks.zero_stage = 2;
  for (const Candidate& each : search(one.request).candidates) {
    EXPECT_EQ(each.choice.zero_stage, each.choice.layout.degree(Axis::kShard) > 1 ? 2 : 0);
  }
  one.request.without = {"estimates"};
  EXPECT_THROW(search(one.request), Error);
  one.request.without = {"estimate"};  // is one, but not an optional one
  EXPECT_THROW(search(one.request), Error);
  EXPECT_EQ(search_passes().size(), 12u);
}

// A model whose first unit is slow: 1F1B over stages of equal FLOPs waits for it, unless units move.
TEST(Search, StagesAreMadeEven) {
  ModelSpec spec = testing::chain(12, 64);
  spec.units[0].saved_bytes = 64 << 20;  // costs memory bandwidth, no FLOPs
  Case one(spec, h100s(1, 2), {64, 64 * 2});
  one.request.without = {"simulate", "schedules", "recompute"};
  one.request.keep = 100;
  const auto best_pipeline = [&] {
    for (const Candidate& each : search(one.request).candidates) {
      if (each.choice.layout.degree(Axis::kPipeline) == 2) return each;
    }
    return Candidate();
  };
  const Candidate even = best_pipeline();
  ASSERT_EQ(even.choice.pipeline.units_per_stage.size(), 2u);
  EXPECT_LT(even.choice.pipeline.units_per_stage[0], 6);
  one.request.without.emplace_back("balance");
  EXPECT_GT(best_pipeline().figures.step_s, even.figures.step_s);
}

// ---- bounds

// What a search says of its candidates, all that is printed.
std::vector<std::string> lines_of(const SearchResult& result) {
  std::vector<std::string> lines;
  for (const Candidate& each : result.candidates) {
    const Figures& figures = each.figures;
    lines.push_back(fmt::format("{} [{}] {} {} {} {} {}{}", to_text(each.choice), each.recipe_change,
                                figures.step_s, figures.memory_bytes, figures.wire_bytes, figures.cost,
                                each.simulated ? "simulated" : "", each.configured ? " configured" : ""));
  }
  return lines;
}

size_t timed(const SearchResult& result) {
  const auto found = std::ranges::find(result.passes, "schedules", &PassReport::name);
  return found->before;
}

// Returns how many layouts and recipes were looked at, with bounds and without.
std::pair<size_t, size_t> expect_bounds_change_nothing(SearchRequest request) {
  const SearchResult bounded = search(request);
  request.without.emplace_back("bound");
  const SearchResult whole = search(request);
  EXPECT_EQ(lines_of(bounded), lines_of(whole));
  EXPECT_EQ(bounded.smallest_change, whole.smallest_change);
  return {timed(bounded), timed(whole)};
}

Cluster cores(int hosts, int devices, bool inline_inside) {
  Cluster cluster = h100s(hosts, devices);
  cluster.network = find_link("ethernet-10");
  cluster.inline_inside = inline_inside;
  return cluster;
}

TEST(Search, BoundsChangeNothing) {
  const ModelSpec narrow = narrow_chain(12, 256);
  for (const Cluster& cluster : {h100s(1, 8), cores(2, 4, true), cores(4, 2, false)}) {
    for (const bool allow : {false, true}) {
      for (const int64_t memory : {int64_t{0}, int64_t{14} << 20, int64_t{7} << 20}) {
        SCOPED_TRACE(fmt::format("{} hosts, recipe {}, memory {}", cluster.hosts, allow, memory));
        Case one(wide_chain(12, 256, 40000), cluster, {4, 64});
        one.request.precisions = {{DType::kBF16, &narrow}};
        one.request.objective = memory > 0 ? Objective::kTime : Objective::kCost;
        one.request.allow_recipe_change = allow;
        one.request.memory_bytes = memory;
        one.request.configured =
            Choice{Layout({1, 1, 8, 1, 1, 1}, 8), 3, {}, std::vector<bool>(12, true), {4, 64}};
        const auto [bounded, whole] = expect_bounds_change_nothing(one.request);
        EXPECT_LE(bounded, allow && memory == 0 ? whole / 2 : whole);
      }
    }
  }
}

TEST(Search, BoundsChangeNothingOfTensorAxes) {
  for (const int64_t global : {32, 256}) {
    Case one(testing::cut_chain(10, 512), h100s(2, 4), {2, global});
    one.request.allow_recipe_change = true;
    expect_bounds_change_nothing(one.request);
    one.request.without = {"schedules", "recompute"};
    expect_bounds_change_nothing(one.request);
  }
}

// Nothing fits: what is nearest is found all the same.
TEST(Search, BoundsKeepTheNearestThatDoNotFit) {
  Case one(wide_chain(8, 512, 1 << 20), h100s(1, 4), {8, 64});
  one.request.memory_bytes = 4 << 20;
  one.request.allow_recipe_change = true;
  const SearchResult bounded = search(one.request);
  one.request.without = {"bound"};
  EXPECT_EQ(failure(bounded), failure(search(one.request)));
  EXPECT_THAT(failure(bounded), HasSubstr("does not fit"));
}

TEST(Search, AnotherGlobalBatchAllowsOtherLayouts) {
  Case one(testing::chain(2, 1024), h100s(1, 8), {1, 2});  // 2 microbatches: at most 2 data ranks
  const auto most_ranks = [&] {
    int most = 0;
    for (const Candidate& each : search(one.request).candidates) {
      most = std::max(most, each.choice.layout.data_ranks());
    }
    return most;
  };
  one.request.without = {"simulate"};
  EXPECT_EQ(most_ranks(), 0);  // the other 4 ranks would need stages, and the model has 2 units
  one.request.allow_recipe_change = true;
  EXPECT_EQ(most_ranks(), 8);
  EXPECT_THAT(search(one.request).candidates[0].recipe_change, HasSubstr("global_batch_size 8 instead of 2"));
  one.request.batch = {1, 1};  // four times that is enough for 4, with 2 stages
  EXPECT_EQ(most_ranks(), 4);
  EXPECT_TRUE(std::ranges::any_of(search(one.request).refused, [](const Candidate& each) {
    return each.reason.starts_with("8 data ranks for 1 microbatches (global batch 1 / local batch 1)");
  }));
  one.request.without = {"simulate", "batch"};
  EXPECT_EQ(most_ranks(), 0);
}

// ---- buckets

// Two hosts of one core, a millisecond or nothing apart.
Cluster far_apart(double latency_s, double bytes_per_second = 125e6) {
  Cluster cluster = cores(2, 1, false);
  cluster.network = {.name = "far", .bytes_per_second = bytes_per_second, .latency_s = latency_s};
  return cluster;
}

Choice data_parallel(int units, const BatchRecipe& batch) {
  return {Layout({1, 2, 1, 1, 1, 1}, 2), 0, {}, std::vector<bool>(static_cast<size_t>(units)), batch};
}

// Twelve units of 68 KiB: a bucket of 1 MiB has them all.
TEST(ChooseBuckets, SmallUnitsOfASlowLinkShareCollectives) {
  Case one(testing::chain(12, 128), far_apart(1e-3), {4, 8});
  const BucketChoice chosen = choose_buckets(one.request, data_parallel(12, {4, 8}));
  EXPECT_EQ(chosen.bytes, 1 << 20);
  EXPECT_LT(chosen.step_s, .4 * chosen.alone_s);
  Choice alone = data_parallel(12, {4, 8}), together = alone;
  together.bucket_bytes = chosen.bytes;
  EXPECT_EQ(appraise(one.request, alone).simulated.step_s, chosen.alone_s);
  EXPECT_EQ(appraise(one.request, together).simulated.step_s, chosen.step_s);
  EXPECT_THAT(to_text(together), HasSubstr("buckets of 1.0 MiB"));
}

// What is reduced while backward runs on is hidden; of a bucket all is reduced at its end.
TEST(ChooseBuckets, NoneWhereTheyOnlyHideLess) {
  ModelSpec spec = testing::chain(12, 512);  // 1 MiB each
  Case one(std::move(spec), far_apart(0, 2e10), {4096, 8192});
  const BucketChoice chosen = choose_buckets(one.request, data_parallel(12, {4096, 8192}));
  EXPECT_EQ(chosen.bytes, 0);
  EXPECT_GT(chosen.alone_s, 0);
  EXPECT_EQ(chosen.step_s, chosen.alone_s);
}

TEST(ChooseBuckets, NothingToChooseIsNotSimulated) {
  Case large(testing::chain(2, 4096), far_apart(1e-3), {4, 8});  // 64 MiB each
  const BucketChoice chosen = choose_buckets(large.request, data_parallel(2, {4, 8}));
  EXPECT_EQ(chosen.bytes, 0);
  EXPECT_EQ(chosen.alone_s, 0);
  Case staged(testing::chain(12, 64), far_apart(1e-3), {4, 8});
  Choice pipeline = data_parallel(12, {4, 8});
  pipeline.layout = Layout({2, 1, 1, 1, 1, 1}, 2);
  EXPECT_EQ(choose_buckets(staged.request, pipeline).alone_s, 0) << "no two ranks share a gradient";
  Choice few = data_parallel(12, {4, 4});
  EXPECT_THROW(choose_buckets(staged.request, few), Error);
}

// Gathered parameters of a bucket are in flight together.
TEST(ChooseBuckets, ThoseThatDoNotFitAreNotTaken) {
  Case one(testing::chain(12, 128), far_apart(1e-3), {4, 8});
  Choice choice = data_parallel(12, {4, 8});
  choice.layout = Layout({1, 1, 2, 1, 1, 1}, 2);
  choice.zero_stage = 3;
  const BucketChoice roomy = choose_buckets(one.request, choice);
  ASSERT_GT(roomy.bytes, 0);
  one.request.memory_bytes = appraise(one.request, choice).simulated.memory_bytes;
  EXPECT_LT(choose_buckets(one.request, choice).bytes, roomy.bytes);
}

TEST(ChooseBuckets, ByTheLinkBetweenDataRanks) {
  const Layout two({1, 2, 1, 1, 1, 1}, 2);
  const auto by_rule = [](const Cluster& cluster, const Layout& layout) {
    return buckets_by_rule(cluster, layout, 3).bytes;
  };
  EXPECT_EQ(by_rule(far_apart(1e-3), two), 1 << 20);            // 1 MB in 8 ms
  EXPECT_EQ(by_rule(far_apart(2e-3, 12.5e6), two), 256 << 10);  // 200 KB in 16 ms
  EXPECT_EQ(by_rule(far_apart(0), two), 0);
  EXPECT_EQ(by_rule(far_apart(1, 1e12), two), 25 << 20);
  Cluster both = cores(2, 2, true);  // inside a host by its memory
  both.inside = find_link("shared-memory");
  both.network = far_apart(1e-3, 12.5e6).network;
  EXPECT_EQ(by_rule(both, Layout({1, 1, 4, 1, 1, 1}, 4)), 256 << 10);
  EXPECT_EQ(by_rule(both, Layout({2, 1, 2, 1, 1, 1}, 4)), 1 << 20) << "a stage is inside its host";
  EXPECT_EQ(by_rule(both, Layout({4, 1, 1, 1, 1, 1}, 4)), 0);
  // Ranks that move gradients themselves, once a step.
  EXPECT_EQ(buckets_by_rule(both, Layout({2, 1, 2, 1, 1, 1}, 4), 1).bytes, 25 << 20);
  EXPECT_EQ(buckets_by_rule(both, Layout({2, 2, 1, 1, 1, 1}, 4), 3).bytes, 25 << 20);
  EXPECT_EQ(buckets_by_rule(both, Layout({2, 1, 2, 1, 1, 1}, 4), 2).bytes, 1 << 20) << "control";
  EXPECT_EQ(buckets_by_rule(both, Layout({1, 1, 4, 1, 1, 1}, 4), 1).bytes, 256 << 10) << "control: hosts";
  both.inline_inside = false;
  EXPECT_EQ(buckets_by_rule(both, Layout({2, 1, 2, 1, 1, 1}, 4), 1).bytes, 1 << 20) << "control: hidden";
}

TEST(Search, ProposesBuckets) {
  Case one(testing::chain(12, 128), far_apart(1e-3), {4, 8});
  one.request.configured = data_parallel(12, {4, 8});
  one.request.configured->bucket_bytes = 0;
  const auto best_of_two_ranks = [&] {
    for (const Candidate& each : search(one.request).candidates) {
      if (each.choice.layout.data_ranks() == 2 && !each.configured) return each;
    }
    return Candidate();
  };
  const Candidate joined = best_of_two_ranks();
  EXPECT_EQ(joined.choice.bucket_bytes, 1 << 20);
  EXPECT_TRUE(joined.simulated);
  EXPECT_EQ(joined.figures.step_s, appraise(one.request, joined.choice).simulated.step_s);
  const SearchResult result = search(one.request);
  for (size_t i = 1; i < result.candidates.size() && result.candidates[i].simulated; ++i)
    EXPECT_LE(result.candidates[i - 1].figures.step_s, result.candidates[i].figures.step_s);
  const auto configured = std::ranges::find(result.candidates, true, &Candidate::configured);
  ASSERT_NE(configured, result.candidates.end());
  EXPECT_EQ(configured->choice.bucket_bytes, 0) << "as it is configured, and beside it what it could be";
  EXPECT_TRUE(std::ranges::any_of(result.candidates, [&](const Candidate& each) {
    return !each.configured && same_program(each.choice, configured->choice) &&
           each.choice.bucket_bytes == 1 << 20;
  }));
  one.request.without = {"buckets"};
  const Candidate alone = best_of_two_ranks();
  EXPECT_FALSE(alone.choice.bucket_bytes);
  EXPECT_GT(alone.figures.step_s, joined.figures.step_s);
}

TEST(Search, SameRequestSameResult) {
  Case one(testing::chain(12, 64), h100s(2, 8), {4, 128});
  const SearchResult a = search(one.request), b = search(one.request);
  ASSERT_EQ(a.candidates.size(), b.candidates.size());
  for (size_t i = 0; i < a.candidates.size(); ++i) {
    EXPECT_EQ(to_text(a.candidates[i].choice), to_text(b.candidates[i].choice));
    EXPECT_EQ(a.candidates[i].figures.step_s, b.candidates[i].figures.step_s);
  }
}

}  // namespace
}  // namespace furrow::plan
