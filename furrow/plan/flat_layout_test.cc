#include "furrow/plan/flat_layout.h"

#include <gtest/gtest.h>

#include "furrow/base/error.h"
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
  EXPECT_EQ(layout.decay_elements, 48);
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
        EXPECT_EQ(span.offset < flat.units[u].decay_elements, parameter.group == ParameterGroup::kDecay);
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

TEST(FlatLayout, ATieToNothingIsOurBug) {
  ModelSpec spec = testing::chain(1);
  spec.units[0].parameters[0].tied_to = "absent";
  EXPECT_THROW(flat_layout(spec), Error);
}

}  // namespace
}  // namespace furrow::plan
