#include "furrow/plan/tensor_cut.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "furrow/base/error.h"
#include "furrow/plan/compatibility.h"
#include "furrow/plan/compile.h"
#include "furrow/plan/program.h"
#include "furrow/plan/testing/specs.h"
#include "furrow/plan/verify_world.h"

namespace furrow::plan {
namespace {

using testing::cut_chain;
using ::testing::HasSubstr;

// The whole tensor's elements in the order of the part, from the definition; -1: none of the whole.
std::vector<int64_t> elements_of(const Shape& whole, const TensorPlace& place) {
  Shape part = whole;
  std::vector<int64_t> rows;  // indices of the dim
  int64_t begin = 0;
  for (const int64_t segment : place.segments) {
    const int64_t length = (segment + place.degree - 1) / place.degree;
    for (int64_t i = place.rank * length; i < (place.rank + 1) * length; ++i)
      rows.push_back(i < segment ? begin + i : -1);
    begin += segment;
  }
  int64_t outer = 1, inner = 1;
  for (int d = 0; d < static_cast<int>(whole.size()); ++d) {
    if (d < place.axis) outer *= whole[d];
    if (d > place.axis) inner *= whole[d];
  }
  std::vector<int64_t> elements;
  for (int64_t o = 0; o < outer; ++o) {
    for (const int64_t row : rows) {
      for (int64_t i = 0; i < inner; ++i)
        elements.push_back(row < 0 ? -1 : (o * whole[place.axis] + row) * inner + i);
    }
  }
  return elements;
}

struct Cut {
  Shape whole;
  int axis;
  std::vector<int64_t> segments;
  int degree;
};

std::vector<Cut> cuts() {
  return {{{12}, 0, {12}, 4},         {{10}, 0, {10}, 4},           {{3}, 0, {3}, 4},
          {{12, 5}, 0, {6, 4, 2}, 2}, {{5, 12}, 1, {12}, 3},        {{5, 12}, 1, {6, 4, 2}, 2},
          {{5, 7}, 1, {7}, 3},        {{2, 3, 8, 2}, 2, {4, 4}, 4}, {{2, 3, 5, 2}, 2, {5}, 2}};
}

Shape part_shape(const Cut& cut) {
  Shape part = cut.whole;
  part[cut.axis] = 0;
  for (const int64_t segment : cut.segments) part[cut.axis] += (segment + cut.degree - 1) / cut.degree;
  return part;
}

TEST(TensorPlace, RunsAndBlocksAreTheElementsOfThePart) {
  for (const Cut& cut : cuts()) {
    std::multiset<int64_t> seen;
    for (int rank = 0; rank < cut.degree; ++rank) {
      const TensorPlace place{cut.axis, cut.segments, cut.degree, rank};
      const Shape part = part_shape(cut);
      EXPECT_EQ(whole_shape(part, place), cut.whole);
      const std::vector<int64_t> expected = elements_of(cut.whole, place);
      const int64_t size = num_elements(part);
      ASSERT_EQ(static_cast<int64_t>(expected.size()), size);
      for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, size}, {size / 3, size - size / 4}}) {
        std::vector<int64_t> found(expected.size(), -1);
        for (const TensorRun& run : runs_of(part, place, begin, end)) {
          for (int64_t i = 0; i < run.size; ++i) found[run.begin + i] = run.whole + i;
        }
        for (int64_t i = 0; i < size; ++i)
          EXPECT_EQ(found[i], i >= begin && i < end ? expected[i] : -1) << i << " of rank " << rank;
      }
      int64_t covered = 0;
      for (const TensorBlock& block : blocks_of(part, place)) covered += block.size();
      EXPECT_EQ(covered, size - std::ranges::count(expected, -1));
      for (const int64_t element : expected) {
        if (element >= 0) seen.insert(element);
      }
    }
    EXPECT_EQ(static_cast<int64_t>(seen.size()), num_elements(cut.whole));
    EXPECT_EQ(std::set<int64_t>(seen.begin(), seen.end()).size(), seen.size()) << "held twice";
  }
}

TEST(TensorPlace, WhatIsNotCutIsOneRun) {
  const TensorPlace place{-1, {}, 4, 3};
  EXPECT_EQ(runs_of({3, 4}, place, 2, 9), (std::vector<TensorRun>{{2, 2, 7}}));
  EXPECT_EQ(blocks_of({3, 4}, place), (std::vector<TensorBlock>{{0, {0, 0}, {3, 4}}}));
}

TEST(TensorCut, DividesParametersFlopsAndBytes) {
  const ModelSpec whole = cut_chain(2), part = tensor_cut(whole, 4);
  EXPECT_EQ(tensor_degree(part), 4);
  const Unit &before = whole.units[1], &after = part.units[1];
  EXPECT_EQ(after.parameters[0].shape, (Shape{16, 64}));
  EXPECT_EQ(after.parameters[0].tensor_segments, (std::vector<int64_t>{48, 16}));
  EXPECT_EQ(after.parameters[1].shape, before.parameters[1].shape);
  EXPECT_EQ(after.flops.forward, before.flops.forward / 4);
  EXPECT_EQ(after.saved_bytes, 4 + (12 - 4) / 4);
  EXPECT_EQ(after.deferred_bytes, 8 + (20 - 8) / 4);
  const ModelSpec same = tensor_cut(whole, 1);
  EXPECT_EQ(same.units[1].parameters[0].shape, before.parameters[0].shape);
  EXPECT_TRUE(same.units[1].parameters[0].tensor_segments == before.parameters[0].tensor_segments);
}

TEST(TensorCut, RefusalsNameUnitReasonAndTheNearestLayout) {
  const auto error_of = [](const ModelSpec& spec, int degree) -> std::string {
    try {
      compilable_spec(Layout({1, 1, 2, 1, degree, 1}, 2 * degree), spec);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUnimplemented);
      return error.what();
    }
    return "possible";
  };
  ModelSpec spec = cut_chain(2, 24);
  EXPECT_EQ(error_of(spec, 2), "possible");
  EXPECT_THAT(error_of(spec, 4), HasSubstr("unit u0 (test) has 6 lanes, which 4 does not divide; the nearest "
                                           "layout of 8 ranks is dp_replicate 1 x dp_shard 4 x tp 2"));
  spec.units[1].tensor.possible = false;
  EXPECT_THAT(error_of(spec, 2), HasSubstr("unit u1 (test) cannot be cut inside"));
  EXPECT_THAT(error_of(spec, 2), HasSubstr("the nearest layout of 4 ranks is dp_replicate 1 x dp_shard 4"));
  spec = cut_chain(2);
  spec.units[0].parameters[0].whole = true;
  EXPECT_THAT(error_of(spec, 2), HasSubstr("the optimizer steps the whole of u0.weight"));
  spec = cut_chain(2);
  spec.alignment = 256;
  EXPECT_THAT(error_of(spec, 2), HasSubstr("scales of 256 elements"));
  spec = cut_chain(2);
  spec.units[0].output.tensor_axis = 1;
  EXPECT_THAT(error_of(spec, 2), HasSubstr("does not read the parts that unit u0 gives"));
}

TrainOptions options_at(int rank, int zero_stage = 3) {
  TrainOptions options{std::vector<int64_t>(6, 2), {}, 2};
  options.ranks.rank = rank;
  options.ranks.zero_stage = zero_stage;
  options.ranks.deterministic = Deterministic::kStrict;
  return options;
}

std::vector<Program> programs_of(const ModelSpec& spec, const Layout& layout, int zero_stage = 3) {
  std::vector<Program> programs;
  for (int rank = 0; rank < layout.world(); ++rank)
    programs.push_back(compile_train(spec, layout, options_at(rank, zero_stage)));
  return programs;
}

// A rank of the tensor axis runs what the same rank runs without the axis on a model of its parts.
TEST(TensorPrograms, AreThoseOfTheLayoutWithoutTheAxis) {
  const ModelSpec part = tensor_cut(cut_chain(4), 2);
  ModelSpec alone = part;
  for (Unit& unit : alone.units) unit.tensor_degree = 1;
  for (const auto& [pp, replicas, shards] :
       std::vector<std::array<int, 3>>{{2, 1, 1}, {1, 2, 2}, {2, 2, 1}}) {
    const int data = pp * replicas * shards;
    const Layout with({pp, replicas, shards, 1, 2, 1}, 2 * data),
        without({pp, replicas, shards, 1, 1, 1}, data);
    for (const int stage : {1, 2, 3}) {
      const std::vector<Program> programs = programs_of(part, with, stage);
      const std::vector<Program> expected = programs_of(alone, without, stage);
      EXPECT_GT(verify_world(programs, part).collectives, 2 * verify_world(expected, alone).collectives);
      for (int rank = 0; rank < with.world(); ++rank) {
        Program program = programs[static_cast<size_t>(rank)];
        EXPECT_EQ(parse_program(to_text(program)), program);
        for (Instruction& each : program.instructions) {
          if (each.op != Op::kReduceScalar) continue;
          EXPECT_EQ(each.axis, GroupAxis::kAll);
          each.axis = pp > 1 ? GroupAxis::kParts : GroupAxis::kData;
        }
        program.placement = expected[static_cast<size_t>(rank / 2)].placement;
        EXPECT_EQ(program, expected[static_cast<size_t>(rank / 2)]) << "rank " << rank;
      }
    }
  }
}

TEST(TensorPrograms, SumsGoOverAllRanksThoughNothingElseDoes) {
  const ModelSpec part = tensor_cut(cut_chain(2), 4);
  const Layout layout({1, 1, 1, 1, 4, 1}, 4);
  const std::vector<Program> programs = programs_of(part, layout);
  // Of each microbatch: two units forward, two backward, of which one has an input gradient, and the loss.
  EXPECT_EQ(verify_world(programs, part).collectives, 6 * (2 + 1 + 2 + 1) + 1);
  EXPECT_EQ(group_ranks(programs[2].placement, GroupAxis::kAll), (std::vector<int>{0, 1, 2, 3}));
  EXPECT_EQ(group_ranks(programs[2].placement, GroupAxis::kTensor), (std::vector<int>{0, 1, 2, 3}));
}

std::string error_of(const std::vector<Program>& programs, const ModelSpec& spec) {
  try {
    verify_world(programs, spec);
  } catch (const Error& error) {
    return error.what();
  }
  return "valid";
}

TEST(TensorPrograms, AnotherOrderInsideIsNamed) {
  const ModelSpec part = tensor_cut(cut_chain(2), 2);
  const Layout layout({1, 1, 1, 1, 2, 1}, 2);
  std::vector<Program> programs = programs_of(part, layout);
  ASSERT_EQ(error_of(programs, part), "valid");
  for (Program& program : programs) {
    program.slots.clear();
    program.assignments.clear();
    for (Instruction& instruction : program.instructions) instruction.drops.clear();
  }
  auto& list = programs[1].instructions;
  const auto place = [&](Op op, int32_t unit, int32_t m) {
    return std::ranges::find_if(
        list, [&](const Instruction& i) { return i.op == op && i.unit == unit && i.microbatch == m; });
  };
  // The second microbatch's first forward before the first one's loss: a good program, and no partner of the
  // other.
  const auto load = place(Op::kLoad, -1, 1), forward = place(Op::kForward, 0, 1),
             loss = place(Op::kLoss, -1, 0);
  ASSERT_TRUE(loss < load && load < forward);
  const Instruction moved[] = {*load, *forward};
  list.erase(forward);
  list.erase(load);
  list.insert(loss, std::begin(moved), std::end(moved));
  const std::string error = error_of(programs, part);
  EXPECT_THAT(error, HasSubstr("over tp inside"));
  EXPECT_THAT(error, HasSubstr("rank 1 #"));
}

}  // namespace
}  // namespace furrow::plan
