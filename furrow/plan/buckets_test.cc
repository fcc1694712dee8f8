#include "furrow/plan/buckets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/plan/compile.h"
#include "furrow/plan/quote.h"
#include "furrow/plan/simulate.h"
#include "furrow/plan/testing/specs.h"
#include "furrow/plan/verify.h"
#include "furrow/plan/verify_world.h"

namespace furrow::plan {
namespace {

using testing::chain;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::parameter;

// Units of one grid block each, 4 KiB of gradients.
ModelSpec small(int units) { return chain(units, 8); }

struct World {
  int replicas = 1, shards = 1, stage = 3;
  int64_t bucket_bytes = 0;
  Layout layout() const { return Layout({1, replicas, shards, 1, 1, 1}, replicas * shards); }
};

std::vector<Program> programs_of(const ModelSpec& spec, const World& world, int32_t k) {
  std::vector<Program> programs;
  for (int rank = 0; rank < world.replicas * world.shards; ++rank) {
    TrainOptions options;
    options.microbatch_sizes.assign(k, 4);
    options.optimizer_states = 1;
    options.ranks.rank = rank;
    options.ranks.zero_stage = world.stage;
    options.ranks.deterministic = Deterministic::kStrict;
    options.ranks.bucket_bytes = world.bucket_bytes;
    programs.push_back(compile_train(spec, world.layout(), options));
  }
  return programs;
}

TEST(Buckets, AreRunsUpToTheirSize) {
  EXPECT_THAT(buckets_of(small(5), 0), IsEmpty());
  EXPECT_THAT(buckets_of(small(5), (8 << 10) - 1), IsEmpty());
  EXPECT_THAT(buckets_of(small(5), 8 << 10), ElementsAre(0, 0, 2, 2, 4));
  EXPECT_THAT(buckets_of(small(5), 1 << 20), ElementsAre(0, 0, 0, 0, 0));
}

TEST(Buckets, LeaveOutWhatIsLargeTiedOrElsewhere) {
  ModelSpec spec = small(5);
  spec.units[2].parameters[0].shape = {128, 64};
  EXPECT_THAT(buckets_of(spec, 16 << 10), ElementsAre(0, 0, 2, 3, 3));
  spec = small(5);
  spec.units[4].parameters.push_back(parameter("u4.tied", {8, 8}, "u1.weight"));
  EXPECT_THAT(buckets_of(spec, 1 << 20), ElementsAre(0, 1, 2, 2, 2));
  spec = small(5);
  spec.units[2].source = 0;  // another chain
  EXPECT_THAT(buckets_of(spec, 1 << 20), ElementsAre(0, 0, 2, 2, 2));
  spec = small(5);
  spec.units[3].compute = DType::kBF16;
  EXPECT_THAT(buckets_of(spec, 1 << 20), ElementsAre(0, 0, 0, 3, 4));
  spec = small(5);
  for (Unit& unit : spec.units) unit.offload = true;
  EXPECT_THAT(buckets_of(spec, 1 << 20), IsEmpty());
}

// A program says them, and one of one rank has none.
TEST(Buckets, StandInThePlacement) {
  const ModelSpec spec = small(5);
  const Program program = programs_of(spec, {2, 1, 3, 12 << 10}, 2)[1];
  EXPECT_THAT(program.placement.buckets, ElementsAre(0, 0, 0, 3, 3));
  const std::string text = to_text(program);
  EXPECT_THAT(text, HasSubstr(" tree canonical buckets 0-3 3-5\n"));
  EXPECT_EQ(parse_program(text), program);
  for (const std::string bad : {"0-3", "0-3 4-5", "0-1 1-2", "0-3 3-3", "0-3 3", "", "stages 0-5@0"}) {
    std::string other = text;
    other.replace(other.find("0-3 3-5"), 7, bad);
    if (bad == "0-3") {  // of fewer units than there are
      EXPECT_THROW(verify(parse_program(other), spec), Error);
    } else {
      EXPECT_THROW(parse_program(other), Error) << bad;
    }
  }
  EXPECT_THAT(programs_of(spec, {1, 1, 3, 12 << 10}, 2)[0].placement.buckets, IsEmpty());
}

// What a member has of a bucket is one span, of every layout, and ranks have as much as each other.
TEST(Buckets, AreCutEndToEnd) {
  ModelSpec spec = small(7);
  spec.units[3].parameters[0].shape = {64, 64};
  const FlatLayout flat = flat_layout(spec);
  const World world{2, 3, 1};
  int64_t next = 0;
  for (int rank = 0; rank < 6; ++rank) {
    const Placement place =
        placement_for(spec, world.layout(), {.rank = rank, .zero_stage = 1, .bucket_bytes = 1 << 20}, 6);
    std::vector<Slice> slices;
    std::vector<int64_t> sizes;
    for (int u = 0; u < 7; ++u) {
      slices.push_back(part_slice(flat, place, {u, 0}, Part::kShard));
      sizes.push_back(flat.units[u].elements);
    }
    const Slice all = end_to_end(slices, sizes);
    if (rank == 3) next = 0;  // the other replica
    EXPECT_EQ(all.begin, next);
    next = all.end;
    EXPECT_NEAR(static_cast<double>(all.size()), 11.0 * kGrid / 3, kGrid);
  }
  EXPECT_EQ(next, 11 * kGrid);
  EXPECT_THROW(end_to_end(std::vector<Slice>{{0, 5}, {1, 4}}, std::vector<int64_t>{5, 9}), Error);
}

TEST(Buckets, AreOneCollectiveOfTheSameBytes) {
  const ModelSpec spec = small(6);
  for (World world : {World{2, 1, 3}, World{1, 2, 1}, World{1, 2, 2}, World{1, 2, 3}, World{2, 2, 1}}) {
    const std::vector<Program> before = programs_of(spec, world, 4);
    world.bucket_bytes = 12 << 10;
    const std::vector<Program> after = programs_of(spec, world, 4);
    verify_world(after, spec);
    const Quote a = quote(before[0], spec), b = quote(after[0], spec);
    ASSERT_EQ(a.collectives.size(), b.collectives.size());
    for (size_t i = 0; i < a.collectives.size(); ++i) {
      EXPECT_NEAR(a.collectives[i].mean_bytes, b.collectives[i].mean_bytes, 1e-6);
      if (a.collectives[i].op == Op::kReduceScalar) continue;
      if (a.collectives[i].op == Op::kGatherParams) {  // the head's gather serves both
        EXPECT_LT(b.collectives[i].count, a.collectives[i].count / 2);
      } else {
        EXPECT_EQ(b.collectives[i].count * 3, a.collectives[i].count);
      }
    }
  }
}

// Nothing is held that was not held before, where gradients are whole and a rank brings one node; of more
// nodes those of a bucket wait for each other.
TEST(Buckets, CostNoMemoryBeforeZero2) {
  const ModelSpec spec = small(8);
  for (World world : {World{4, 1, 3}, World{1, 4, 1}, World{2, 2, 1}}) {
    for (const int k : {4, 8, 16, 12, 15}) {
      world.bucket_bytes = 0;
      const Quote a = quote(programs_of(spec, world, k)[0], spec);
      world.bucket_bytes = 1 << 20;
      const Quote b = quote(programs_of(spec, world, k)[0], spec);
      const int64_t wait = k % 4 == 0 && k != 12 ? 0 : 8 * kGrid * 4;
      for (const MemoryKind kind : {MemoryKind::kParameters, MemoryKind::kGradients, MemoryKind::kGathered}) {
        const auto at = static_cast<size_t>(kind);
        EXPECT_LE(b.peak_bytes[at], a.peak_bytes[at] + wait) << k;
      }
    }
  }
}

TEST(Buckets, AreReducedBesideTheBackwardOfTheNext) {
  const ModelSpec spec = small(6);
  for (const int stage : {1, 2, 3}) {
    const Program program = programs_of(spec, {1, 2, stage, 12 << 10}, 2)[1];
    const auto at = [&](Op op, int unit) {
      return std::find_if(program.instructions.begin(), program.instructions.end(),
                          [&](const Instruction& i) { return i.op == op && i.unit == unit; });
    };
    EXPECT_LT(at(Op::kBackwardWeight, 3), at(Op::kReduceGrads, 5));
    EXPECT_LT(at(Op::kReduceGrads, 5), at(Op::kBackwardInput, 2));
  }
}

// Two stages of a rank that follow one another are done at different times: a bucket that both share is two.
TEST(Buckets, EndWithTheirStage) {
  const ModelSpec spec = small(4);
  TrainOptions options;
  options.microbatch_sizes.assign(8, 4);
  options.optimizer_states = 1;
  options.ranks.bucket_bytes = 1 << 20;
  options.ranks.pipeline.schedule = "ZBVZeroBubble";
  const Layout layout({2, 2, 1, 1, 1, 1}, 4);
  int inside = 0;
  for (int rank = 0; rank < 4; ++rank) {
    options.ranks.rank = rank;
    const Program program = compile_train(spec, layout, options);
    if (!program.placement.holds(1)) continue;
    ASSERT_TRUE(program.placement.holds(2));
    ASSERT_EQ(program.placement.bucket_of(2), 0);
    const std::vector<int32_t> ends = run_ends(flat_layout(spec), program);
    for (size_t i = 0; i < ends.size(); ++i) {
      if (program.instructions[i].op != Op::kReduceGrads) continue;
      ++inside;
      EXPECT_EQ(ends[i], static_cast<int32_t>(i));
    }
  }
  EXPECT_EQ(inside, 4);
}

TEST(VerifyBuckets, RefusesWhatDoesNotLieEndToEnd) {
  const ModelSpec spec = small(3);
  const World world{2, 1, 3, 1 << 20};
  std::vector<Program> programs = programs_of(spec, world, 2);
  verify_world(programs, spec);
  Program& program = programs[0];
  // Two units change places in their slot, with all that lies there.
  for (SlotAssignment& assignment : program.assignments) {
    const Value& value = assignment.value;
    if (value.kind != ValueKind::kGradient || value.unit > 1) continue;
    assignment.offset += value.unit == 0 ? kGrid * 4 : -kGrid * 4;
  }
  try {
    verify(program, spec);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("does not lie right behind"));
  }
}

TEST(VerifyBuckets, RefusesNeighboursThatOverlap) {
  const ModelSpec spec = small(3);
  Program program = programs_of(spec, {2, 1, 3, 1 << 20}, 2)[0];
  for (SlotAssignment& assignment : program.assignments) {
    if (assignment.value.kind == ValueKind::kGradient && assignment.value.unit == 1)
      assignment.offset -= 4096;
  }
  EXPECT_THROW(verify(program, spec), Error);
}

// One rank takes as one what the other takes as two: they would wait for each other for good.
TEST(VerifyBuckets, RefusesRanksThatJoinOtherwise) {
  const ModelSpec spec = small(4);
  std::vector<Program> programs = programs_of(spec, {1, 2, 1, 1 << 20}, 2);
  std::vector<Instruction>& list = programs[1].instructions;
  const auto is = [](Op op, int unit) {
    return [=](const Instruction& each) { return each.op == op && each.unit == unit; };
  };
  const auto first = std::find_if(list.begin(), list.end(), is(Op::kGatherUpdated, 0));
  const auto second = std::find_if(list.begin(), list.end(), is(Op::kGatherUpdated, 1));
  ASSERT_EQ(second, first + 1);
  const auto step = std::find_if(list.begin(), list.end(), is(Op::kStep, 3));
  std::rotate(step, step + 1, second);  // between the two
  try {
    verify_world(programs, spec);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("which differs"));
  }
}

}  // namespace
}  // namespace furrow::plan
