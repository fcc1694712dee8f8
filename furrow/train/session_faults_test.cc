// Saves, faults and refusals that all ranks of a run share.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "furrow/base/failpoint.h"
#include "furrow/base/file.h"
#include "furrow/storage/checkpoint.h"
#include "tests/testing/rank_session_torch.h"

namespace furrow::train {
namespace {

using ::testing::HasSubstr;
using testing::layout;
using testing::RankLayout;
using testing::RankSession;

std::string message_of(const std::function<void()>& fn) {
  try {
    fn();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

TEST_F(RankSession, ASaveBehindTrainingIsCommittedBeforeTheNextOne) {
  const auto steps_of = [&](const std::string& name) {
    std::vector<int64_t> steps;
    for (const auto& entry : storage::list_checkpoints(run(name) + "/checkpoints"))
      if (entry.committed) steps.push_back(entry.step);
    return steps;
  };
  train_on("async", layout(1, 2), false,
           {"--checkpoint.async_mode", "async", "--checkpoint.keep_latest_k", "0"});
  EXPECT_EQ(steps_of("async"), (std::vector<int64_t>{24, 16, 8}));
  for (const auto& entry : storage::list_checkpoints(run("async") + "/checkpoints"))
    EXPECT_NO_THROW(storage::CheckpointReader::open(entry.folder).verify());
  EXPECT_TRUE(path_exists(run("async") + "/checkpoints/step-00000008/optimizer-rank-00001.safetensors"));
}

TEST_F(RankSession, AFailureOfOneRankEndsAll) {
  for (const RankLayout& each : {layout(2, 1), layout(1, 3), layout(2, 2)}) {
    SCOPED_TRACE(each.name);
    const std::string message =
        message_of([&] { train_on(each.name, each, false, {}, {.failing_rank = 1, .fail_after = 9}); });
    EXPECT_THAT(message, HasSubstr("rank 1: instruction"));
    EXPECT_THAT(message, HasSubstr("the disk is gone"));
  }
}

// Whatever rank cannot write: all end, nothing is committed, and the run goes on from the last checkpoint.
TEST_F(RankSession, ASaveThatFailsOnAnyRankLeavesTheLastCheckpoint) {
  train_alone("alone");
  for (const std::string mode : {"disabled", "async"}) {
    for (const std::string& point : storage::checkpoint_failpoints()) {
      if (point.ends_with("_prune") || point == "checkpoint.after_commit") continue;
      SCOPED_TRACE(point + " " + mode);
      const std::string name = mode + point;
      // Two ranks: of the second checkpoint (the first has step 8), the second rank's files.
      const bool once = point != "checkpoint.before_piece" && point != "checkpoint.after_piece" &&
                        point != "checkpoint.before_adopt";
      arm_failpoints(point + (once ? "=enospc@2" : "=enospc@8"));
      const std::vector<std::string> settings = {"--checkpoint.async_mode", mode};
      EXPECT_THROW(train_on(name, layout(1, 2), false, settings), Error);
      arm_failpoints("");
      EXPECT_EQ(storage::newest_valid(run(name) + "/checkpoints")->manifest().step, 8);
      train_on(name, layout(2, 2, 1), true, settings);
      EXPECT_EQ(weights(name), weights("alone"));
    }
  }
}

TEST_F(RankSession, RanksWithDifferentConfigsAreRefused) {
  const std::string message =
      message_of([&] { train_on("a", layout(2, 1), false, {}, {.only_rank_1 = {"--optimizer.lr", "0.5"}}); });
  EXPECT_THAT(message, HasSubstr("ranks 0 and 1 do not run the same"));
  EXPECT_THAT(message, HasSubstr("lr = 0.5"));
}

TEST_F(RankSession, AFolderThatIsTakenIsEveryRanksError) {
  train_alone("a");
  EXPECT_THAT(message_of([&] { train_on("a", layout(2, 1)); }), HasSubstr("already holds a run"));
}

TEST_F(RankSession, TooFewMicrobatchesAreRefusedWithTheSum) {
  EXPECT_THAT(message_of([&] { train_on("a", layout(3, 3)); }), HasSubstr("8"));
}

TEST_F(RankSession, AnAxisWithoutProgramsIsRefusedWithTheNearestLayout) {
  const RankLayout context{"cp2", 2, {"--parallelism.context_parallel_degree", "2"}};
  EXPECT_THAT(message_of([&] { train_on("a", context); }), HasSubstr("the nearest layout of 2 ranks is"));
}

TEST_F(RankSession, APipelineWithMoreStagesThanUnitsIsRefused) {
  RankLayout four = layout(1, 1);
  four.ranks = 4;
  four.settings.insert(four.settings.end(), {"--parallelism.pipeline_parallel_degree", "4"});
  EXPECT_THAT(message_of([&] { train_on("a", four); }), HasSubstr("4 stages for the 2 units of mlp"));
}

TEST_F(RankSession, NonFiniteGradientsAreEveryRanksVerdict) {
  const std::vector<std::string> wild = {"--optimizer.name",    "sgd", "--optimizer.lr", "1e30",
                                         "--training.max_norm", "0"};
  EXPECT_THAT(message_of([&] { train_on("stop", layout(1, 2), false, wild); }), HasSubstr("nan_policy"));
  std::vector<std::string> skip = wild;
  skip.insert(skip.end(), {"--training.nan_policy", "skip"});
  EXPECT_EQ(train_on("skip", layout(1, 2, 1), false, skip)[1].steps, 24);
}

}  // namespace
}  // namespace furrow::train
