#include "furrow/plan/flat_layout.h"

#include <gtest/gtest.h>

#include "furrow/base/error.h"
#include "furrow/plan/slices.h"
#include "furrow/plan/state_form.h"
#include "furrow/plan/testing/specs.h"

namespace furrow::plan {
namespace {

using testing::parameter;

TEST(FlatLayout, DecayingParametersComeFirstAligned) {
  ModelSpec spec = testing::chain(1);
  Unit& unit = spec.units[0];
  unit.parameters = {parameter("norm", {3}), parameter("a", {5, 5}), parameter("bias", {17}),
                     parameter("b", {2, 2})};
  const UnitLayout layout = flat_layout(spec).units[0];
  ASSERT_EQ(layout.spans.size(), 4u);
  const int order[] = {1, 3, 0, 2};
  const int64_t offsets[] = {0, 32, 48, 64};
  const int64_t sizes[] = {25, 4, 3, 17};
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(layout.spans[i].parameter, order[i]);
    EXPECT_EQ(layout.spans[i].offset, offsets[i]);
    EXPECT_EQ(layout.spans[i].size, sizes[i]);
  }
  ASSERT_EQ(layout.groups.size(), 2u);
  EXPECT_EQ(layout.groups[0], (FlatGroup{0, 48, true}));
  EXPECT_EQ(layout.groups[1], (FlatGroup{48, kGrid, false}));
  EXPECT_EQ(layout.trained_elements, kGrid);
  EXPECT_EQ(layout.elements, kGrid);
}

TEST(FlatLayout, PadsToTheGrid) {
  ModelSpec spec = testing::chain(1);
  spec.units[0].parameters = {parameter("a", {32, 32})};
  EXPECT_EQ(flat_layout(spec).units[0].elements, 1024);
  spec.units[0].parameters = {parameter("a", {32, 32}), parameter("b", {1})};
  EXPECT_EQ(flat_layout(spec).units[0].elements, 2048);
  spec.units[0].parameters = {};
  EXPECT_EQ(flat_layout(spec).units[0].elements, 0);
}

TEST(FlatLayout, SpansNeverOverlapAndCoverEveryOwnParameter) {
  std::mt19937 rng(7);
  for (int round = 0; round < 200; ++round) {
    const ModelSpec spec = testing::random_spec(&rng);
    const FlatLayout flat = flat_layout(spec);
    size_t tied = 0;
    for (size_t u = 0; u < spec.units.size(); ++u) {
      int64_t end = 0;
      size_t own = 0;
      for (const Parameter& parameter : spec.units[u].parameters) (parameter.tied() ? tied : own) += 1;
      EXPECT_EQ(flat.units[u].spans.size(), own);
      for (const FlatSpan& span : flat.units[u].spans) {
        EXPECT_GE(span.offset, end);
        EXPECT_EQ(span.offset % 16, 0);
        const Parameter& parameter = spec.units[u].parameters[span.parameter];
        EXPECT_EQ(span.size, parameter.size());
        EXPECT_EQ(span.offset < flat.units[u].trained_elements, !parameter.rule.frozen);
        int64_t covered = 0;
        for (const FlatGroup& group : flat.units[u].groups) {
          EXPECT_EQ(group.begin, covered);
          covered = group.end;
          if (span.offset < group.begin || span.offset >= group.end) continue;
          EXPECT_EQ(group.decays, parameter.group == ParameterGroup::kDecay);
          EXPECT_EQ(group.rule, parameter.rule);
        }
        EXPECT_EQ(covered, flat.units[u].trained_elements);
        end = span.offset + span.size;
      }
      EXPECT_LE(end, flat.units[u].elements);
      EXPECT_EQ(flat.units[u].elements % kGrid, 0);
    }
    EXPECT_EQ(flat.tied.size(), tied);
  }
}

TEST(FlatLayout, UsesOfAnOwnerAreNumberedInUnitOrder) {
  ModelSpec spec = testing::chain(3, 8);
  spec.units[1].parameters.push_back(parameter("t1", {8, 8}, "u0.weight"));
  spec.units[2].parameters.push_back(parameter("t2", {8}, "u0.bias"));
  spec.units[2].parameters.push_back(parameter("t3", {8}, "u1.bias"));
  const FlatLayout flat = flat_layout(spec);
  ASSERT_EQ(flat.tied.size(), 3u);
  EXPECT_EQ(flat.tied[0].owner_unit, 0);
  EXPECT_EQ(flat.tied[0].use, 1);
  EXPECT_EQ(flat.tied[0].user_unit, 1);
  EXPECT_EQ(flat.tied[0].user_parameter, 2);
  EXPECT_EQ(flat.tied[0].owner_offset, 0);
  EXPECT_EQ(flat.tied[0].size, 64);
  EXPECT_EQ(flat.tied[1].use, 2);
  EXPECT_EQ(flat.tied[1].owner_offset, 64);
  EXPECT_EQ(flat.tied[2].owner_unit, 1);
  EXPECT_EQ(flat.tied[2].use, 1);
}

// Rules keep together, frozen parameters come last behind a line of the grid, and no state covers them.
TEST(FlatLayout, RulesAreGroupsAndFrozenParametersComeLast) {
  ModelSpec spec = testing::chain(1);
  Unit& unit = spec.units[0];
  unit.parameters = {parameter("a", {40, 40}), parameter("b", {2, 2}), parameter("c", {3, 3}),
                     parameter("bias", {5})};
  unit.parameters[0].rule.frozen = true;
  unit.parameters[1].rule.lr_scale = 0.5;
  const UnitLayout layout = flat_layout(spec).units[0];
  const int order[] = {1, 2, 3, 0};
  const int64_t offsets[] = {0, 16, 32, kGrid};
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(layout.spans[i].parameter, order[i]);
    EXPECT_EQ(layout.spans[i].offset, offsets[i]);
  }
  ASSERT_EQ(layout.groups.size(), 3u);
  EXPECT_EQ(layout.groups[0], (FlatGroup{0, 16, true, unit.parameters[1].rule}));
  EXPECT_EQ(layout.groups[1], (FlatGroup{16, 32, true}));
  EXPECT_EQ(layout.groups[2], (FlatGroup{32, kGrid, false}));
  EXPECT_EQ(layout.trained_elements, kGrid);
  EXPECT_EQ(layout.elements, 3 * kGrid);
  EXPECT_EQ(state_bytes(2, layout, {0, layout.elements}), 2 * 4 * kGrid);
}

// No line of the grid cuts a whole parameter but at its begin, so that slices can go around it.
TEST(FlatLayout, WholeParametersBeginWhereSlicesMayEnd) {
  ModelSpec spec = testing::chain(1);
  Unit& unit = spec.units[0];
  unit.parameters = {parameter("a", {30, 30}), parameter("b", {40, 40}), parameter("c", {20, 20}),
                     parameter("d", {30, 30}), parameter("bias", {5})};
  for (int i = 0; i < 4; ++i) unit.parameters[i].whole = true;
  const UnitLayout layout = flat_layout(spec).units[0];
  const int64_t offsets[] = {0, 1024, 1024 + 1600, 3072, 4096};
  for (int i = 0; i < 5; ++i) EXPECT_EQ(layout.spans[i].offset, offsets[i]) << i;
  EXPECT_EQ(layout.whole_elements, 4096);
  EXPECT_EQ(layout.elements, 5120);
  EXPECT_EQ(state_bytes({StateForm::kUncut}, layout, {0, layout.elements}), 4 * 1024);
  EXPECT_EQ(state_bytes({StateForm::kRows}, layout, {0, layout.elements}), 4 * (30 + 40 + 20 + 30));
  EXPECT_EQ(state_bytes({StateForm::kColumns}, layout, {1024, 3072}), 4 * (40 + 20));
  EXPECT_EQ(state_bytes({StateForm::kVectors}, layout, {3072, 5120}), 4 * 5);
  EXPECT_EQ(state_bytes({StateForm::kCodes, StateForm::kScales}, layout, {1024, 2048}), 1024 + 4 * 4);
}

// Where training folds them; a teacher's stay what they are.
TEST(FlatLayout, AveragedStatisticsAreKeptTwice) {
  ModelSpec spec = testing::chain(3, 8);
  for (int u : {1, 2})
    spec.units[static_cast<size_t>(u)].statistics = {
        testing::statistic(fmt::format("u{}.running_mean", u), {20})};
  spec.units[2].inference = true;
  EXPECT_EQ(flat_layout(spec).units[1].kept_statistics(), 32);
  spec.averages_statistics = true;
  const FlatLayout flat = flat_layout(spec);
  EXPECT_EQ(flat.units[0].kept_statistics(), 0);
  EXPECT_EQ(flat.units[1].kept_statistics(), 64);
  EXPECT_EQ(flat.units[2].kept_statistics(), 32);
}

TEST(FlatLayout, ATieToAFrozenParameterHasNoGradient) {
  ModelSpec spec = testing::chain(2, 8);
  spec.units[0].parameters[0].rule.frozen = true;
  spec.units[1].parameters.push_back(parameter("t1", {8, 8}, "u0.weight"));
  spec.units[1].parameters.push_back(parameter("t2", {8}, "u0.bias"));
  const FlatLayout flat = flat_layout(spec);
  ASSERT_EQ(flat.tied.size(), 2u);
  EXPECT_EQ(flat.tied[0].use, 0);
  EXPECT_EQ(flat.tied[1].use, 1);
}

TEST(FlatLayout, ATieToNothingIsOurBug) {
  ModelSpec spec = testing::chain(1);
  spec.units[0].parameters[0].tied_to = "absent";
  EXPECT_THROW(flat_layout(spec), Error);
}

}  // namespace
}  // namespace furrow::plan
