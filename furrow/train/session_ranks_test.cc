// Whole runs on ranks that are threads: the same model, metrics and checkpoints as one process, in any
// layout; faults, votes and refusals that all ranks share.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "furrow/base/error.h"
#include "furrow/base/failpoint.h"
#include "furrow/base/file.h"
#include "furrow/base/memory.h"
#include "furrow/storage/checkpoint.h"
#include "tests/testing/rank_sessions_torch.h"

namespace furrow::train {
namespace {

using testing::expect_same_figures;
using ::testing::HasSubstr;
using testing::layout;
using testing::message_of;
using testing::pipeline;
using testing::RankLayout;
using testing::RankSession;
using testing::SampleLedger;

class InEveryPrecision : public testing::InEveryPrecision {};
INSTANTIATE_TEST_SUITE_P(Ranks, InEveryPrecision, testing::every_precision(), testing::precision_name);

TEST_P(InEveryPrecision, EndsAsOneProcessDoes) {
  SampleLedger alone_samples;
  const observe::Summary alone = train_alone("alone", &alone_samples);
  for (const RankLayout& each :
       {layout(2, 1), layout(1, 2, 1), layout(1, 4, 2), layout(1, 3), layout(2, 2), layout(1, 8),
        pipeline("1F1B", layout(1, 1)), pipeline("ZBH1", layout(1, 3)), pipeline("GPipe", layout(2, 2, 1))}) {
    SCOPED_TRACE(each.name);
    SampleLedger samples;
    const auto summaries = train_on(each.name, each, false, {}, {.ledger = &samples});
    for (const observe::Summary& summary : summaries) expect_same_figures(summary, alone);
    EXPECT_EQ(weights(each.name), weights("alone"));
    EXPECT_EQ(samples.sorted(), alone_samples.sorted());
    ASSERT_TRUE(summaries[0].audit.has_value());
    EXPECT_EQ(summaries[0].audit->ranks, each.ranks);
    EXPECT_EQ(summaries[0].audit->steps, 23);
    EXPECT_GE(summaries[0].audit->operations_per_step, 2);  // gradients and sums
    EXPECT_GT(summaries[0].audit->operation_latency_us, 0);
    EXPECT_GT(summaries[0].audit->latency_overhead(), 0);
    for (const observe::CollectiveAudit& row : summaries[0].audit->bytes)
      EXPECT_GE(row.wire_bytes, row.bound_bytes) << row.name;
  }
}

// A global batch that local_batch_size does not divide: 7 microbatches of 4 and one of 2, and 3 of 4 and 1.
TEST_F(RankSession, AnUnevenGlobalBatchEndsAsOneProcessDoes) {
  for (const std::string batch : {"30", "13"}) {
    const std::vector<std::string> uneven = {"--training.global_batch_size", batch, "--training.steps", "12"};
    SampleLedger alone_samples;
    const observe::Summary alone =
        train_on("alone" + batch, layout(1, 1), false, uneven, {.ledger = &alone_samples}).front();
    EXPECT_EQ(alone.samples, 12 * std::stoll(batch));
    EXPECT_EQ(alone_samples.sorted().size(), static_cast<size_t>(alone.samples));
    for (const RankLayout& each :
         {layout(2, 1), layout(1, 2, 1), layout(1, 3, 2), layout(1, 4), layout(2, 2)}) {
      SCOPED_TRACE(each.name + " " + batch);
      const std::string name = each.name + "_" + batch;
      SampleLedger samples;
      const auto summaries = train_on(name, each, false, uneven, {.ledger = &samples});
      for (const observe::Summary& summary : summaries) expect_same_figures(summary, alone);
      EXPECT_EQ(weights(name), weights("alone" + batch));
      EXPECT_EQ(samples.sorted(), alone_samples.sorted());
    }
  }
  train_on("even", layout(2, 1), false, {"--training.global_batch_size", "32", "--training.steps", "12"});
  EXPECT_NE(weights("even"), weights("alone30"));  // negative control
}

// Rank 0 needs memory for the largest unit, not for the model.
TEST_F(RankSession, ExportTakesTheMemoryOfOneUnit) {
  const std::vector<std::string> settings = {
      "--model.hidden",      "40,40,40", "--training.steps",    "1",
      "--checkpoint.enable", "false",    "--validation.enable", "false"};
  train_on("alone", layout(1, 1), false, settings);
  reset_memory_peaks();
  train_on("ranks", layout(1, 4), false, settings);
  EXPECT_EQ(weights("ranks"), weights("alone"));
  const int64_t largest = (12 * 12 * 40 + 40 + 1023) / 1024 * 1024 * 4;  // fc1, padded to the grid
  const int64_t peak = memory_usage(MemoryKind::kCheckpoint).peak_bytes;
  EXPECT_GE(peak, largest);
  EXPECT_LT(peak, largest + 1024 * 4);
}

TEST_F(RankSession, AnotherSeedDiffers) {  // negative control
  train_alone("alone");
  train_on("seed", layout(2, 1), false, {"--debug.seed", "5"});
  EXPECT_NE(weights("seed"), weights("alone"));
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
      // Two ranks: of the second checkpoint (the first has step 8), the folder that both make, the second
      // rank's files.
      const bool once = point != "checkpoint.before_piece" && point != "checkpoint.after_piece" &&
                        point != "checkpoint.before_adopt";
      arm_failpoints(point + (point == "checkpoint.begin" ? "=enospc@4" : once ? "=enospc@2" : "=enospc@8"));
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
  EXPECT_THAT(message, HasSubstr("rank 1 has optimizer.lr = 0.5, but rank 0 has optimizer.lr = "));
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

TEST_F(RankSession, EarlyStoppingAndTheBestModelAreTheSameEverywhere) {
  const std::vector<std::string> settings = {"--validation.min_delta", "100", "--validation.freq", "2",
                                             "--validation.patience",  "3",   "--training.steps",  "40"};
  train_on("alone", layout(1, 1), false, settings);
  for (const observe::Summary& summary : train_on("ranks", layout(1, 3), false, settings)) {
    EXPECT_EQ(summary.status, "stopped early");
    EXPECT_EQ(summary.steps, 8);
    EXPECT_EQ(*summary.best_step, 2);
  }
  EXPECT_EQ(weights("ranks"), weights("alone"));
}

// What the canonical tree would cost, which takes a compilation more, is worked out by the rank that prints
// it.
TEST_F(RankSession, OneRankAlonePricesTheCanonicalTree) {
  const auto summaries =
      train_on("priced", layout(3, 1), false, {"--training.steps", "2", "--debug.deterministic", "auto"});
  const std::string price = "; strict would bring a rank ";
  for (size_t rank = 0; rank < summaries.size(); ++rank) {
    ASSERT_TRUE(summaries[rank].audit);
    const std::string& line = summaries[rank].audit->deterministic;
    EXPECT_THAT(line, HasSubstr("off: gradients are added by ranks"));
    EXPECT_EQ(line.find(price) != std::string::npos, rank == 0) << "rank " << rank << ": " << line;
  }
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
