// Whole runs on ranks that are threads end as one process does, in any layout.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "furrow/base/memory.h"
#include "tests/testing/rank_session_torch.h"

namespace furrow::train {
namespace {

using testing::expect_same_figures;
using testing::InEveryPrecision;
using testing::layout;
using testing::Meddling;
using testing::pipeline;
using testing::precisions;
using testing::RankLayout;
using testing::RankSession;
using testing::SampleLedger;

INSTANTIATE_TEST_SUITE_P(Ranks, InEveryPrecision, ::testing::ValuesIn(precisions()),
                         [](const auto& info) { return info.param.name; });

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

// Gradients that travel in 16 bits: half the bytes on the wires, as they are counted there, and the bits of
// one process through layouts and checkpoints.
TEST_F(RankSession, GradientsOf16BitsMoveHalfTheBytesAndKeepTheBits) {
  const auto reduced = [](const observe::Summary& summary) {
    for (const observe::CollectiveAudit& row : summary.audit->bytes) {
      if (row.name == "reduce_scatter") return row;
    }
    return observe::CollectiveAudit{};
  };
  const std::vector<std::string> settings = {"--training.mixed_precision_reduce", "bfloat16"};
  const observe::Summary alone = train_on("alone", layout(1, 1), false, settings).front();
  EXPECT_NE(train_alone("float").loss, alone.loss) << "control: it is another recipe";
  for (const RankLayout& each : {layout(2, 1), layout(1, 2, 1), layout(1, 4, 3)}) {
    SCOPED_TRACE(each.name);
    const auto wide = reduced(train_on(each.name + "_float", each).front());
    const auto summaries = train_on(each.name, each, false, settings);
    const auto narrow = reduced(summaries.front());
    EXPECT_GT(narrow.bound_bytes, 0);
    EXPECT_EQ(2 * narrow.bound_bytes, wide.bound_bytes);
    EXPECT_EQ(2 * (narrow.wire_bytes - narrow.bound_bytes), wide.wire_bytes - wide.bound_bytes)
        << "of what is not bound, frames alone may stay";
    expect_same_figures(summaries.front(), alone);
    EXPECT_EQ(weights(each.name), weights("alone"));
  }
  network_ = settings;
  precision_ = "bfloat16";
  const observe::Summary both = train_alone("both");
  Meddling stopped{.cancel_rank = 1, .cancel_step = 7};
  train_on("chain", layout(1, 2, 2), false, {}, stopped);
  expect_same_figures(train_on("chain", layout(1, 3, 3), true).front(), both);
  EXPECT_EQ(weights("chain"), weights("both"));
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

}  // namespace
}  // namespace furrow::train
