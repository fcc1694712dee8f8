#include "furrow/plan/verify_world.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/plan/compile.h"
#include "furrow/plan/testing/specs.h"
#include "furrow/plan/verify.h"

namespace furrow::plan {
namespace {

using testing::chain;
using ::testing::HasSubstr;

ModelSpec tied_spec() {
  ModelSpec spec = chain(3);
  spec.units[2].parameters[0].tied_to = "u0.weight";
  return spec;
}

struct Case {
  int replicas, shards, stage, k;
  int pp = 1;
  std::string schedule = "1F1B";
};

std::vector<Program> compile(const ModelSpec& spec, const Case& c) {
  std::vector<Program> programs;
  const int world = c.pp * c.replicas * c.shards;
  for (int rank = 0; rank < world; ++rank) {
    TrainOptions options{std::vector<int64_t>(c.k, 4), {}, 1};
    options.ranks = {rank, c.stage, Reshard::kDefault, Deterministic::kStrict, 1};
    options.ranks.pipeline.schedule = c.schedule;
    programs.push_back(compile_train(spec, Layout({c.pp, c.replicas, c.shards, 1, 1, 1}, world), options));
  }
  return programs;
}

// Without slots, so that a changed list is judged by its sense and not by its homes.
void forget_buffers(Program* program) {
  program->slots.clear();
  program->assignments.clear();
  for (Instruction& instruction : program->instructions) instruction.drops.clear();
}

std::string error_of(const std::vector<Program>& programs, const ModelSpec& spec) {
  try {
    verify_world(programs, spec);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kFailedPrecondition) << error.what();
    return error.what();
  }
  return "valid";
}

class Changed : public ::testing::Test {
 protected:
  void use(const Case& c) {
    programs = compile(spec, c);
    for (Program& program : programs) forget_buffers(&program);
    ASSERT_EQ(error_of(programs, spec), "valid");
  }
  size_t find(size_t rank, Op op, int unit, size_t nth = 0) const {
    const auto& list = programs[rank].instructions;
    for (size_t i = 0; i < list.size(); ++i) {
      if (list[i].op == op && list[i].unit == unit && nth-- == 0) return i;
    }
    ADD_FAILURE() << "no such instruction";
    return 0;
  }
  std::vector<Instruction>& list(size_t rank) { return programs[rank].instructions; }
  auto at(size_t rank, size_t i) { return list(rank).begin() + static_cast<std::ptrdiff_t>(i); }
  std::string error() const { return error_of(programs, spec); }

  ModelSpec spec = tied_spec();
  std::vector<Program> programs;
};

TEST_F(Changed, CountsCollectivesOnce) {
  programs = compile(spec, {2, 2, 3, 4});
  // A shard group: gathers of u0, u1, u2 and u0 again for u2's tied use, then of u1 and u0 for backward;
  // reduces of four uses.  A replica group: four reduces, three gathers.  And one sum over all.
  EXPECT_EQ(verify_world(programs, spec).collectives, 2 * (6 + 4) + 2 * (4 + 3) + 1);
}

TEST_F(Changed, ADroppedCollective) {
  use({2, 1, 3, 4});
  const size_t gather = find(1, Op::kGatherGrads, 1);
  list(1).erase(at(1, gather));
  EXPECT_THAT(error(), HasSubstr("rank 1 "));
  EXPECT_THAT(error(), HasSubstr("gradient(1,0,[0,4)), which nothing has written before"));
}

TEST_F(Changed, AGatherThatOneRankLeavesOut) {
  // Rank 1 has no microbatch in the second round: alone, it could do without these gathers.
  use({1, 2, 3, 3});
  const auto unread = std::find_if(list(1).rbegin(), list(1).rend(),
                                   [](const Instruction& i) { return i.op == Op::kGatherParams; });
  const std::string lost = to_string(*unread);
  list(1).erase(std::next(unread).base());
  EXPECT_THAT(error(), HasSubstr("rank 1 #"));
  EXPECT_THAT(error(), HasSubstr(lost + ", which differs"));
}

TEST_F(Changed, APairInAnotherOrderOnOneRank) {
  use({2, 1, 3, 4});
  const size_t first = find(0, Op::kReduceGrads, 1);
  // The reduce of u1 after that of u0: each program is valid alone.
  const Instruction reduce = list(0)[first], gather = list(0)[first + 1];
  const size_t other = find(0, Op::kReduceGrads, 0, 1);
  list(0).insert(at(0, other + 1), {reduce, gather});
  list(0).erase(at(0, first), at(0, first + 2));
  verify(programs[0], spec);
  EXPECT_THAT(error(), HasSubstr("which differs"));
  EXPECT_THAT(error(), HasSubstr("reduce_grads u1 over dp_replicate"));
}

TEST_F(Changed, AnotherUnitFirstOnOneRank) {
  use({1, 2, 1, 4});
  const size_t first = find(0, Op::kStep, 0), second = find(0, Op::kStep, 1);
  ASSERT_EQ(second, first + 2);  // step and gather_updated of u0, then of u1
  std::rotate(at(0, first), at(0, second), at(0, second + 2));
  verify(programs[0], spec);
  EXPECT_THAT(error(),
              HasSubstr(fmt::format("rank 1 #{} gather_updated u0 over dp_shard: meets rank 0 in #{} "
                                    "gather_updated u1 over dp_shard, which differs",
                                    find(1, Op::kGatherUpdated, 0), first + 1)));
}

TEST_F(Changed, RanksThatWaitInACircle) {
  // Shard groups 0 1 and 2 3, replica groups 0 2 and 1 3.  Ranks 0 and 3 want their shard group before their
  // replicas, ranks 1 and 2 the other way round: 0 waits for 1, 1 for 3, 3 for 2, 2 for 0.
  use({2, 2, 1, 4});
  for (const size_t rank : {0u, 3u}) {
    const size_t replica = find(rank, Op::kReduceGrads, 2, 1), shard = find(rank, Op::kReduceGrads, 1, 0);
    ASSERT_EQ(list(rank)[replica].axis, GroupAxis::kReplicate);
    ASSERT_EQ(list(rank)[shard].axis, GroupAxis::kShard);
    std::rotate(at(rank, replica), at(rank, replica + 2), at(rank, shard + 1));
  }
  for (const Program& program : programs) verify(program, spec);
  EXPECT_THAT(error(),
              ::testing::MatchesRegex("rank 0 #[0-9]+ reduce_grads u[0-9] over dp_shard: waits for rank 1, "
                                      "which waits in #[0-9]+ reduce_grads u[0-9] over dp_replicate"));
}

TEST_F(Changed, ADoubleReduce) {
  use({1, 2, 1, 4});
  const size_t reduce = find(0, Op::kReduceGrads, 1);
  const Instruction copy = list(0)[reduce];
  list(0).insert(at(0, reduce), copy);
  EXPECT_THAT(error(), HasSubstr(fmt::format("rank 0 #{} reduce_grads u1 over dp_shard: ", reduce + 1)));
}

TEST_F(Changed, AnotherSlice) {
  use({2, 2, 1, 4});
  const size_t reduce = find(3, Op::kReduceGrads, 1);
  list(3)[reduce].writes[0].part = Part::kPiece;
  EXPECT_THAT(error(),
              HasSubstr(fmt::format("rank 3 #{} reduce_grads u1 over dp_shard: it must write", reduce)));
}

TEST_F(Changed, AnotherPlaceInTheSlot) {
  programs = compile(spec, {2, 1, 3, 2});
  const Value piece = gradient_value(1, 0, 0, 2, Part::kPiece);
  for (Program& program : programs) {
    for (SlotAssignment& assignment : program.assignments) {
      if (assignment.value == piece) assignment.offset = assignment.offset == 0 ? 4096 : 0;
    }
  }
  EXPECT_NE(error(), "valid");
}

TEST_F(Changed, AnotherRanksProgram) {
  use({1, 2, 1, 4});
  programs[1] = programs[0];
  EXPECT_THAT(error(), HasSubstr("rank 1 has the program of another rank"));
  programs.pop_back();
  EXPECT_THAT(error(), HasSubstr("1 programs for 2 ranks"));
}

TEST_F(Changed, AnotherBatchOrStage) {
  use({1, 2, 1, 4});
  programs[1] = compile(spec, {1, 2, 1, 6})[1];
  EXPECT_THAT(error(), HasSubstr("rank 1 has a program of another name or batch"));
  programs[1] = compile(spec, {1, 2, 2, 4})[1];
  EXPECT_THAT(error(), HasSubstr("rank 1 has the program of another rank, layout, stage or tree"));
}

TEST_F(Changed, AMicrobatchOfAnotherRank) {
  use({1, 2, 1, 4});
  const size_t load = find(1, Op::kLoad, -1);
  list(1)[load].microbatch = 0;
  EXPECT_THAT(error(),
              HasSubstr(fmt::format("rank 1 #{} load m0: microbatch 0 belongs to another rank", load)));
}

TEST_F(Changed, ARoundOutOfStep) {
  use({1, 2, 2, 4});
  const size_t reduce = find(0, Op::kReduceGrads, 1, 1);
  list(0)[reduce].writes = {gradient_value(1, 0, 1, 3, Part::kShard)};
  EXPECT_THAT(error(), HasSubstr("microbatches 1 to 2 are no round of this rank's shard group"));
}

TEST_F(Changed, AGatherInsideAnother) {
  use({1, 2, 3, 2});
  // Forward of u1 reads the gather that backward made, and the other way round.
  const size_t second = find(0, Op::kGatherParams, 0, 1);
  list(0)[second].writes[0].index = 2;
  EXPECT_THAT(error(), HasSubstr("rank 0 #"));
}

TEST_F(Changed, ADroppedReceive) {
  use({1, 1, 3, 4, 3});
  const size_t receive = find(1, Op::kRecv, 0, 2);
  list(1).erase(at(1, receive));
  EXPECT_THAT(error(), HasSubstr("rank 1 #"));
  EXPECT_THAT(error(), HasSubstr("forward u1 m2: reads act(0,2), which nothing has written before"));
}

TEST_F(Changed, ADroppedSend) {
  use({1, 1, 3, 4, 3});
  const size_t send = find(1, Op::kSend, 0, 1);  // of grad(0,1)
  list(1).erase(at(1, send));
  EXPECT_THAT(error(), HasSubstr("rank 1 #"));
  EXPECT_THAT(error(), HasSubstr("nothing reads grad(0,1), and it is no output"));
}

TEST_F(Changed, ASwappedPairOfReceives) {
  use({1, 1, 3, 4, 3});
  // Both are needed later: alone, rank 2 would be content with either order.
  const size_t first = find(2, Op::kRecv, 1, 2), second = find(2, Op::kRecv, 1, 3);
  std::swap(list(2)[first].writes, list(2)[second].writes);
  std::swap(list(2)[first].microbatch, list(2)[second].microbatch);
  EXPECT_THAT(error(), HasSubstr("forward u2 m2: reads act(1,2), which nothing has written before"));
}

TEST_F(Changed, ASwappedPairOfSends) {
  use({1, 1, 3, 4, 3, "GPipe"});
  const size_t first = find(0, Op::kSend, 0, 1), second = find(0, Op::kSend, 0, 2);
  const Instruction send = list(0)[first];  // after the next one
  list(0).insert(at(0, second + 1), send);
  list(0).erase(at(0, first));
  verify(programs[0], spec);
  EXPECT_THAT(error(),
              ::testing::MatchesRegex("rank 1 #[0-9]+ recv u0 m1 over pp from 0: meets rank 0 in #[0-9]+ "
                                      "send u0 m2 over pp to 1, which carries act.0,2. and not act.0,1."));
}

TEST_F(Changed, ASecondSend) {
  use({1, 1, 3, 4, 3});
  const size_t send = find(0, Op::kSend, 0, 3);
  const Instruction copy = list(0)[send];
  list(0).insert(at(0, send), copy);
  EXPECT_THAT(error(),
              HasSubstr("send u0 m3 over pp to 1: waits for rank 1, which has no more communication"));
}

TEST_F(Changed, ATransferToAnotherRank) {
  use({1, 1, 3, 4, 3});
  const size_t send = find(0, Op::kSend, 0);
  list(0)[send].peer = 2;
  EXPECT_THAT(error(),
              HasSubstr(fmt::format("rank 0 #{} send u0 m0 over pp to 2: act(0,0) does not cross", send)));
}

TEST_F(Changed, ACircleOfStages) {
  // The only microbatch is sent on after its gradient was used.
  use({1, 1, 3, 1, 2});
  const size_t send = find(0, Op::kSend, 0);
  const Instruction moved = list(0)[send];
  list(0).erase(at(0, send));
  const size_t backward = find(0, Op::kBackwardInput, 0);
  list(0).insert(at(0, backward + 1), moved);
  verify(programs[0], spec);
  EXPECT_THAT(error(), ::testing::MatchesRegex("rank 0 #[0-9]+ recv u0 m0 over pp from 1: waits for rank 1, "
                                               "which waits in #[0-9]+ recv u0 m0 over pp from 0"));
}

TEST_F(Changed, AStageOfAnotherRank) {
  use({1, 1, 3, 2, 2});
  const size_t forward = find(0, Op::kForward, 0);
  list(0)[forward].unit = 2;
  EXPECT_THAT(error(), HasSubstr("unit 2 belongs to rank 1 of the pipeline"));
  use({1, 1, 3, 2, 2});
  for (Program& program : programs) ++program.placement.stages[0].end;
  EXPECT_THAT(error(),
              ::testing::MatchesRegex("rank 0 program train: stage 1 has units . to 2: unit . is due.*"));
}

TEST_F(Changed, AStepWithoutItsGather) {
  use({1, 2, 1, 2});
  for (size_t rank = 0; rank < 2; ++rank) list(rank).erase(at(rank, find(rank, Op::kGatherUpdated, 1)));
  EXPECT_THAT(error(), HasSubstr("output params(1,1) is never written"));
}

TEST_F(Changed, AStepFromASumOfOneReplica) {
  use({2, 1, 3, 4});
  for (size_t rank = 0; rank < 2; ++rank) {
    Instruction& measure = list(rank)[find(rank, Op::kMeasure, -1)];
    measure.reads[1] = gradient_value(1, 0, 0, 2);
  }
  EXPECT_THAT(error(), HasSubstr("measure: it must read gradient(1,0,[0,4))"));
}

// Every communication that is left out, and every one that runs twice, on one rank or on all.
TEST(Omissions, OfCommunicationAreFound) {
  const ModelSpec spec = tied_spec();
  for (const Case& c :
       {Case{2, 1, 3, 4}, Case{1, 2, 1, 5}, Case{1, 2, 2, 3}, Case{1, 2, 3, 3}, Case{2, 2, 3, 5},
        Case{1, 1, 3, 3, 3}, Case{1, 2, 3, 3, 2}, Case{2, 1, 3, 4, 2, "GPipe"}}) {
    const std::vector<Program> good = compile(spec, c);
    for (size_t rank = 0; rank < good.size(); ++rank) {
      for (size_t i = 0; i < good[rank].instructions.size(); ++i) {
        if (good[rank].instructions[i].stream != Stream::kComm) continue;
        for (const bool twice : {false, true}) {
          std::vector<Program> programs = good;
          forget_buffers(&programs[rank]);
          auto& list = programs[rank].instructions;
          const Instruction each = list[i];
          const auto at = list.begin() + static_cast<std::ptrdiff_t>(i);
          twice ? list.insert(at, each) : list.erase(at);
          EXPECT_NE(error_of(programs, spec), "valid") << rank << " #" << i << " " << to_string(each);
        }
      }
    }
  }
}

}  // namespace
}  // namespace furrow::plan
