#include "furrow/plan/pipeline.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <random>

#include "furrow/base/error.h"
#include "furrow/plan/compile.h"
#include "furrow/plan/quote.h"
#include "furrow/plan/schedule_csv.h"
#include "furrow/plan/stages.h"
#include "furrow/plan/testing/specs.h"

namespace furrow::plan {
namespace {

using testing::chain;
using ::testing::HasSubstr;

std::string error_of(const std::function<void()>& fn) {
  try {
    fn();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

ModelSpec with_costs(const std::vector<double>& costs) {
  ModelSpec spec = chain(static_cast<int>(costs.size()));
  for (size_t u = 0; u < costs.size(); ++u)
    spec.units[u].flops = u % 2 == 0 ? Flops{costs[u], 0, 0} : Flops{0, costs[u] / 4, costs[u] * 3 / 4};
  return spec;
}

double largest(const std::vector<double>& costs, const std::vector<Range>& stages) {
  double most = 0;
  for (const Range& stage : stages)
    most = std::max(most, std::accumulate(costs.begin() + stage.begin, costs.begin() + stage.end, 0.0));
  return most;
}

// The least largest cost over all cuts, by trying them.
double least_largest(const std::vector<double>& costs, size_t begin, int stages) {
  if (stages == 1) return std::accumulate(costs.begin() + static_cast<long>(begin), costs.end(), 0.0);
  double least = 1e300, first = 0;
  for (size_t end = begin + 1; end + static_cast<size_t>(stages) - 1 <= costs.size(); ++end) {
    first += costs[end - 1];
    least = std::min(least, std::max(first, least_largest(costs, end, stages - 1)));
  }
  return least;
}

TEST(Stages, ByCostHaveTheLeastLargestCost) {
  std::mt19937 rng(5);
  for (int i = 0; i < 200; ++i) {
    std::vector<double> costs(2 + rng() % 8);
    for (double& cost : costs) cost = static_cast<double>(rng() % 7) * 4;
    const int stages = 1 + static_cast<int>(rng() % costs.size());
    const std::vector<Range> cut = stages_by_cost(with_costs(costs), stages);
    ASSERT_EQ(cut.size(), static_cast<size_t>(stages));
    int32_t next = 0;
    for (const Range& stage : cut) {
      EXPECT_EQ(stage.begin, next);
      EXPECT_GT(stage.size(), 0);
      next = stage.end;
    }
    EXPECT_EQ(next, static_cast<int32_t>(costs.size()));
    EXPECT_EQ(largest(costs, cut), least_largest(costs, 0, stages));
  }
}

TEST(Stages, ByCostSpreadWhatIsLeft) {
  // 8 decides the largest; the other four units are two and two, not three and one.
  const std::vector<Range> cut = stages_by_cost(with_costs({8, 2, 2, 2, 2}), 3);
  EXPECT_EQ(cut, (std::vector<Range>{{0, 1}, {1, 3}, {3, 5}}));
}

TEST(Stages, ByHandAddUp) {
  EXPECT_EQ(stages_by_hand(chain(5), 3, {1, 3, 1}), (std::vector<Range>{{0, 1}, {1, 4}, {4, 5}}));
  EXPECT_THAT(
      error_of([] { stages_by_hand(chain(5), 3, {1, 3, 2}); }),
      HasSubstr("stages of 1 + 3 + 2 units: 3 stages, each of one unit or more, must add up to the 5"));
  EXPECT_THAT(error_of([] { stages_by_hand(chain(5), 2, {5, 0}); }), HasSubstr("stages of 5 + 0 units"));
  EXPECT_THAT(error_of([] { stages_by_hand(chain(5), 2, {2, 2, 1}); }), HasSubstr("2 stages"));
  EXPECT_THAT(error_of([] { stages_by_cost(chain(3), 4); }), HasSubstr("4 stages for the 3 units of chain"));
}

// Four layers between two ends, as a gpt: u0, u1 .. u4, u5.
TEST(Stages, ByLayersWeighTheEnds) {
  using Counts = std::vector<int64_t>;
  const ModelSpec spec = chain(6);
  EXPECT_EQ(units_by_layers(spec, {.per_stage = 3}), (Counts{3, 3}));
  EXPECT_EQ(units_by_layers(spec, {.per_stage = 2}), (Counts{2, 2, 2}));
  EXPECT_EQ(units_by_layers(spec, {.per_stage = 4}), (Counts{3, 3}));  // spread evenly
  EXPECT_EQ(units_by_layers(spec, {3, 0, 0}), (Counts{3, 3}));
  EXPECT_EQ(units_by_layers(spec, {2, 0, 0}), (Counts{3, 3}));
  EXPECT_EQ(units_by_layers(spec, {4, 1, 2}), (Counts{4, 2}));
  EXPECT_EQ(units_by_layers(chain(7), {4, 1, 1}), (Counts{4, 3}));  // what is left over comes first
  EXPECT_EQ(units_by_layers(chain(9), {3, 1, 1}), (Counts{3, 3, 3}));
  EXPECT_EQ(units_by_layers(spec, {100, 1, 1}), (Counts{6}));
  EXPECT_THAT(error_of([&] { units_by_layers(spec, {2, 4, 0}); }),
              HasSubstr("4 layers of chain, and 4 + 0 for its ends, make 4 stages of at most 2, one of them "
                        "without a unit"));
}

TEST(Stages, ByModulesAreUnitsOrWhatIsInThem) {
  using Counts = std::vector<int64_t>;
  const ModelSpec spec = chain(4);
  EXPECT_EQ(units_by_modules(spec, {"u0 u1", "u2  u3"}), (Counts{2, 2}));
  EXPECT_EQ(units_by_modules(spec, {"u0", "u2 u1", "u3"}), (Counts{1, 2, 1}));  // a stage is a set
  const auto error = [&](const std::vector<std::string>& stages) {
    return error_of([&] { units_by_modules(spec, stages); });
  };
  EXPECT_THAT(error({"u0 u1", "u3"}), HasSubstr("u2 is in no stage"));
  EXPECT_THAT(error({"u0 u1", "u1 u2 u3"}),
              HasSubstr("stage 1 of module_fqns_per_model_part: u1 is of unit u1, "
                        "which is in stage 0 already"));
  EXPECT_THAT(error({"u0 u1 u1", "u2 u3"}), HasSubstr("u1 stands there twice"));
  EXPECT_THAT(error({"u0 u2", "u1 u3"}), HasSubstr("u2 comes after u1 in chain, which is in stage 1"));
  EXPECT_THAT(error({"u0 u1 u2 u3", " "}),
              HasSubstr("stage 1 of module_fqns_per_model_part: it has no units"));
  EXPECT_THAT(error({"u0 u1", "u2 v3"}), HasSubstr("unknown unit 'v3'"));
}

TEST(Stages, ByModulesOfSeveralOnesInAUnit) {
  ModelSpec spec = chain(3);
  spec.units[2].parameters = {testing::parameter("norm.weight", {4}),
                              testing::parameter("head.weight", {4, 4})};
  EXPECT_EQ(units_by_modules(spec, {"u0 u1", "norm head"}), (std::vector<int64_t>{2, 1}));
  EXPECT_THAT(
      error_of([&] { units_by_modules(spec, {"u0 u1 norm", "head"}); }),
      HasSubstr("stage 1 of module_fqns_per_model_part: head is of unit u2, which is in stage 0 already"));
  spec.units[0].parameters = {testing::parameter("h.0.weight", {4})};
  spec.units[1].parameters = {testing::parameter("h.1.weight", {4})};
  EXPECT_EQ(units_by_modules(spec, {"h.0", "h.1 u2"}), (std::vector<int64_t>{1, 2}));
  EXPECT_THAT(error_of([&] { units_by_modules(spec, {"h", "u2"}); }),
              HasSubstr("h is in 2 units, u0 and u1 among them: name each"));
}

TEST(Transfers, ArePostedInTheOrderOfTheSendsAndInTime) {
  const ModelSpec spec = chain(8);
  for (const ScheduleRow& row : schedules()) {
    for (const int ranks : {2, 4}) {
      const Layout layout({ranks, 1, 1, 1, 1, 1}, ranks);
      PipelineOptions options;
      options.schedule = row.name;
      Placement placement;
      placement.layout = layout;
      placement.stages = stages_of(spec, layout, options);
      const Schedule schedule = schedule_of(layout, options, 6);
      size_t count = 0;
      for (int from = 0; from < ranks; ++from) {
        for (int to = 0; to < ranks; ++to) {
          const auto transfers = transfers_between(schedule, placement, 0, from, to);
          const auto positions = receive_positions(transfers, 1);
          EXPECT_TRUE(std::is_sorted(positions.begin(), positions.end()));
          for (size_t i = 0; i < transfers.size(); ++i) {
            EXPECT_LE(positions[i], std::max(0, transfers[i].needed - 1));
            EXPECT_TRUE(i == 0 || transfers[i - 1].made < transfers[i].made);
          }
          count += transfers.size();
        }
      }
      size_t crossings = 0;
      for (int s = 0; s + 1 < schedule.stages; ++s)
        crossings += schedule.rank_of_stage[s] != schedule.rank_of_stage[s + 1] ? 2 : 0;
      EXPECT_EQ(count, crossings * 6) << row.name;
    }
  }
}

TEST(Pipeline, RunsAScheduleOfOnesOwn) {
  const ModelSpec spec = chain(4);
  TrainOptions options{{4, 4, 4}, {}, 1};
  options.ranks.pipeline.csv = to_csv(make_schedule("ZBH1", {2, 1, 3}));
  const Layout layout({2, 1, 1, 1, 1, 1}, 2);
  TrainOptions named{{4, 4, 4}, {}, 1};
  named.ranks.pipeline.schedule = "ZBH1";
  EXPECT_EQ(compile_train(spec, layout, options), compile_train(spec, layout, named));
  EXPECT_EQ(compile_evaluate(spec, layout, {4, 4}, options.ranks),
            compile_evaluate(spec, layout, {4, 4}, named.ranks));
  options.microbatch_sizes = {4, 4};
  EXPECT_THAT(error_of([&] { compile_train(spec, layout, options); }),
              HasSubstr("pipeline_parallel_schedule_csv is of 3 microbatches, each rank has 2"));
  EXPECT_THAT(error_of([&] { compile_train(spec, Layout({3, 1, 1, 1, 1, 1}, 3), options); }),
              HasSubstr("has 2 lines, one a rank: pipeline_parallel_degree is 3"));
  named.ranks.pipeline.schedule = "2F2B";
  EXPECT_THAT(error_of([&] { compile_train(spec, layout, named); }), HasSubstr("1F1B"));
}

// What travels in a step: every border twice a microbatch; activations in flight as the schedule says.
TEST(Pipeline, IsQuoted) {
  const ModelSpec spec = chain(4, 64);
  TrainOptions options{{4, 4, 4, 4, 4, 4}, {}, 1};
  const Layout layout({2, 1, 1, 1, 1, 1}, 2);
  const int64_t border = 4 * 64 * 4;  // bytes
  std::array<int64_t, 2> activations{};
  for (const bool gpipe : {false, true}) {
    options.ranks.pipeline.schedule = gpipe ? "GPipe" : "1F1B";
    const Quote quote = plan::quote(compile_train(spec, layout, options), spec);
    activations[gpipe ? 1 : 0] = quote.peak_bytes[static_cast<size_t>(MemoryKind::kActivations)];
    const auto recv = std::find_if(quote.collectives.begin(), quote.collectives.end(),
                                   [](const CollectiveQuote& each) { return each.op == Op::kRecv; });
    ASSERT_NE(recv, quote.collectives.end());
    EXPECT_EQ(recv->wire_bytes, 6 * border);
    EXPECT_EQ(recv->count, 6);
    EXPECT_EQ(quote.formula.parameters, 2.0 * (64 * 64 + 1024) * 4);
  }
  // Rank 0 holds two turns under 1F1B, six under GPipe.
  EXPECT_LT(2 * activations[0], activations[1]);
}

}  // namespace
}  // namespace furrow::plan
