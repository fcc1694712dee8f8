// Bytes that whole runs move in a step: those that were predicted, at the bound, and ZeRO's beside data
// parallelism's.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <utility>

#include "furrow/train/session.h"
#include "tests/testing/training_runs_torch.h"

namespace furrow::train {
namespace {

struct Layout {
  int replicate = 1, shard = 1, zero_stage = 3;
  std::string schedule = "";  // of a pipeline of two stages
  std::string reshard = "default";
  std::string bucket_cap_mb = "0";

  int data_ranks() const { return replicate * shard; }
  int ranks() const { return data_ranks() * (schedule.empty() ? 1 : 2); }
  std::string name() const {
    return fmt::format("r{}s{}z{}{}{}b{}", replicate, shard, zero_stage, schedule, reshard, bucket_cap_mb);
  }
  std::vector<std::string> settings() const {
    std::vector<std::string> all = {"--parallelism.data_parallel_replicate_degree",
                                    fmt::format("{}", replicate),
                                    "--parallelism.data_parallel_shard_degree",
                                    fmt::format("{}", shard),
                                    "--parallelism.zero_stage",
                                    fmt::format("{}", zero_stage),
                                    "--parallelism.fsdp_reshard_after_forward",
                                    reshard,
                                    "--parallelism.bucket_cap_mb",
                                    bucket_cap_mb};
    if (!schedule.empty()) {
      all.insert(all.end(), {"--parallelism.pipeline_parallel_degree", "2",
                             "--parallelism.pipeline_parallel_schedule", schedule});
    }
    return all;
  }
};

class StepBytes : public ::testing::Test, protected testing::TrainingRuns {
 protected:
  void SetUp() override { made_up_images(); }

  // Of rank 0, of four steps of so many microbatches a rank.
  observe::Summary train_on(const Layout& layout, int microbatches,
                            const std::vector<std::string>& more = {}) const {
    std::vector<std::string> settings = layout.settings();
    settings.insert(settings.end(), more.begin(), more.end());
    settings.insert(settings.end(),
                    {"--training.dataset_path", folder_.path() + "/data", "--training.global_batch_size",
                     fmt::format("{}", 4 * layout.data_ranks() * microbatches)});
    const config::Config config = config::parse(R"(
      [model]
      name = "mlp"
      hidden = [256, 128]
      [training]
      local_batch_size = 4
      steps = 4
      threads = 1
      [validation]
      enable = false
      [checkpoint]
      enable = false
      [metrics]
      enable_plots = false
    )",
                                                "step_bytes_test", settings);
    const std::string name = fmt::format("{}_{}", layout.name(), microbatches);
    return train_on_ranks(name, layout.ranks(), config);
  }

  static int64_t wire(const observe::Summary& summary, const std::string& name) {
    for (const observe::CollectiveAudit& row : summary.audit->bytes) {
      if (row.name == name) return row.wire_bytes;
    }
    return 0;
  }
};

TEST_F(StepBytes, AreThoseThatWerePredictedAndAtTheBound) {
  for (const Layout& each : {Layout{2},
                             Layout{3},
                             Layout{4},
                             Layout{1, 2, 1},
                             Layout{1, 2, 2},
                             Layout{1, 2, 3},
                             Layout{1, 4, 1},
                             Layout{1, 4, 2},
                             Layout{1, 4, 3},
                             Layout{1, 4, 3, "", "never"},
                             Layout{2, 2, 1},
                             Layout{2, 2, 3},
                             Layout{1, 1, 3, "1F1B"},
                             Layout{2, 1, 3, "GPipe"},
                             Layout{1, 2, 1, "ZBH1"},
                             Layout{1, 2, 3, "1F1B"},
                             Layout{2, 1, 3, "", "default", "4"},
                             Layout{1, 4, 1, "", "default", "4"},
                             Layout{1, 4, 3, "", "default", "4"},
                             Layout{2, 2, 2, "", "default", "0.25"},
                             Layout{1, 2, 3, "1F1B", "default", "4"}}) {
    for (const int microbatches : {2, 4}) {
      SCOPED_TRACE(fmt::format("{}, {} microbatches a rank", each.name(), microbatches));
      const observe::Summary summary = train_on(each, microbatches);
      ASSERT_TRUE(summary.prediction && summary.audit);
      EXPECT_GT(summary.prediction->measured.wire_bytes, 0);
      EXPECT_EQ(summary.prediction->measured.wire_bytes, summary.prediction->predicted.wire_bytes);
      EXPECT_EQ(summary.audit->steps, 3);
      for (const observe::CollectiveAudit& row : summary.audit->bytes) {
        EXPECT_EQ(row.wire_bytes % summary.audit->steps, 0) << row.name;
        if (row.name == "small_all_reduce") continue;  // latency decides what they take
        EXPECT_GE(row.wire_bytes, row.bound_bytes) << row.name;
        EXPECT_LE(static_cast<double>(row.wire_bytes), 1.01 * static_cast<double>(row.bound_bytes))
            << row.name;
      }
    }
  }
}

// Rank 0, of the first stage, receives and reduces nothing: what the others do is told all the same.
TEST_F(StepBytes, OfAPipelineWhoseFirstStageIsFrozen) {
  for (const Layout& each : {Layout{1, 1, 3, "1F1B"}, Layout{2, 1, 3, "1F1B"}}) {
    SCOPED_TRACE(each.name());
    const observe::Summary summary = train_on(each, 2, {"--optimizer.groups", R"(["fc1.* frozen=true"])"});
    ASSERT_TRUE(summary.prediction && summary.audit);
    EXPECT_EQ(summary.prediction->measured.wire_bytes, summary.prediction->predicted.wire_bytes);
    EXPECT_GT(wire(summary, "recv"), 0);
    EXPECT_EQ(wire(summary, "reduce_scatter") > 0, each.data_ranks() > 1);
  }
}

// Data parallelism gathers what it reduced, and both gather losses and norms as well: those are left out.
TEST_F(StepBytes, OfZeroBesideDataParallelism) {
  for (const auto& [ranks, cap] : {std::pair(2, "0"), std::pair(4, "0"), std::pair(4, "4")}) {
    SCOPED_TRACE(fmt::format("{} ranks, buckets of {} MiB", ranks, cap));
    const observe::Summary data_parallel = train_on({ranks, 1, 3, "", "default", cap}, 1);
    const int64_t gradients = wire(data_parallel, "reduce_scatter");
    const int64_t sums = wire(data_parallel, "all_gather") - gradients;
    EXPECT_GT(gradients, 0);
    EXPECT_GT(sums, 0);
    EXPECT_LT(sums, gradients / 40);
    const auto times = [&](Layout layout, int microbatches) {
      layout.bucket_cap_mb = cap;
      const observe::Summary summary = train_on(layout, microbatches);
      const int64_t moved = wire(summary, "reduce_scatter") + wire(summary, "all_gather") - sums;
      return static_cast<double>(moved) / static_cast<double>(2 * gradients);
    };
    EXPECT_EQ(times({1, ranks, 1}, 1), 1.0);
    EXPECT_EQ(times({1, ranks, 2}, 1), 1.0);
    EXPECT_EQ(times({1, ranks, 3, "", "always"}, 1), 1.5);
    // The last unit's gather serves both, which leaves a bucket in two.
    EXPECT_LT(times({1, ranks, 3}, 1), 1.5) << "the last unit is not gathered twice";
    EXPECT_EQ(times({1, ranks, 2}, 2), 1.5) << "control: it reduces every microbatch";
  }
}

}  // namespace
}  // namespace furrow::train
