// Whole runs on ranks that are threads, for tests: in a layout, with faults and stops, beside one process.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/failpoint.h"
#include "furrow/data/dataset.h"
#include "furrow/tensor/kernels/tiles.h"
#include "furrow/train/session.h"
#include "tests/testing/run_ranks.h"
#include "tests/testing/training_runs_torch.h"

namespace furrow::testing {

struct RankLayout {
  std::string name;
  int ranks = 1;
  std::vector<std::string> settings;
  int stages = 1;  // of the pipeline, each of which reads every sample
};

inline RankLayout layout(int replicate, int shard, int zero_stage = 3) {
  return {fmt::format("r{}s{}z{}", replicate, shard, zero_stage),
          replicate * shard,
          {"--parallelism.data_parallel_replicate_degree", fmt::format("{}", replicate),
           "--parallelism.data_parallel_shard_degree", fmt::format("{}", shard), "--parallelism.zero_stage",
           fmt::format("{}", zero_stage)}};
}

inline RankLayout pipeline(const std::string& schedule, RankLayout data) {
  data.name += "_" + schedule;
  data.ranks *= 2;
  data.stages = 2;
  data.settings.insert(data.settings.end(), {"--parallelism.pipeline_parallel_degree", "2",
                                             "--parallelism.pipeline_parallel_schedule", schedule});
  return data;
}

// Which samples training has read, over all ranks and runs.
class SampleLedger {
 public:
  void add(std::span<const int64_t> indices) {
    const std::lock_guard lock(mutex_);
    indices_.insert(indices_.end(), indices.begin(), indices.end());
  }
  std::vector<int64_t> sorted() const {
    std::vector<int64_t> all = indices_;
    std::ranges::sort(all);
    return all;
  }

 private:
  std::mutex mutex_;
  std::vector<int64_t> indices_;
};

// A training split that is noted in a ledger, and that fails when a rank has read `fail_after` batches.
class NotedSource : public data::Source {
 public:
  NotedSource(std::unique_ptr<data::Source> source, SampleLedger* ledger, int fail_after)
      : source_(std::move(source)), ledger_(ledger), fail_after_(fail_after) {}
  int64_t size() const override { return source_->size(); }
  const std::vector<data::Field>& fields() const override { return source_->fields(); }
  int64_t classes() const override { return source_->classes(); }
  void read(std::span<const int64_t> indices, std::span<const ArrayView> arrays) const override {
    source_->read(indices, arrays);
  }
  void read_at(std::span<const int64_t> indices, std::span<const int64_t> positions,
               std::span<const ArrayView> arrays) const override {  // by loaders alone
    if (fail_after_ >= 0 && reads_++ >= fail_after_) throw Error(ErrorCode::kDataLoss, "the disk is gone");
    if (ledger_ != nullptr) ledger_->add(indices);
    source_->read_at(indices, positions, arrays);
  }

 private:
  std::unique_ptr<data::Source> source_;
  SampleLedger* ledger_;
  int fail_after_;
  mutable int reads_ = 0;
};

// What a test does to one rank of a run.
struct Meddling {
  SampleLedger* ledger = nullptr;
  int cancel_rank = -1;                       // this rank is asked to stop ...
  int64_t cancel_step = 0;                    // ... when the run has logged this step
  int failing_rank = -1;                      // this rank's data end ...
  int fail_after = -1;                        // ... after so many batches
  std::vector<std::string> only_rank_1 = {};  // settings
};

// Asks a rank to stop.
struct CancelAt : observe::Sink {
  CancelAt(CancelToken* cancel, int64_t at) : token(cancel), step(at) {}
  void begin(const std::string&, const std::string&, int64_t) override {}
  void progress(int64_t now, int64_t) override {
    if (now == step) token->cancel(15);
  }
  void log(const observe::StepRecord&) override {}
  void artifact(const std::string&, const std::string&) override {}
  void end(const std::string&) override {}
  CancelToken* token;
  int64_t step;
};

class RankSession : public ::testing::Test, protected TrainingRuns {
 protected:
  void SetUp() override { made_up_images(); }
  void TearDown() override { arm_failpoints(""); }

  config::Config config(std::vector<std::string> overrides) const {
    std::vector<std::string> all = {"--training.dataset_path", folder_.path() + "/data",
                                    "--training.mixed_precision_param", precision_};
    all.insert(all.end(), network_.begin(), network_.end());
    all.insert(all.end(), overrides.begin(), overrides.end());
    return config::parse(R"(
      [model]
      name = "mlp"
      hidden = [40]
      [training]
      local_batch_size = 4
      global_batch_size = 32
      steps = 24
      threads = 1
      [optimizer]
      lr = 3e-3
      [data]
      prefetch_batches = 0
      [validation]
      freq = 6
      [checkpoint]
      interval = 8
      [metrics]
      log_freq = 4
      [debug]
      deterministic = "strict"
    )",
                         "session_ranks_test", all);
  }

  // The summaries of all ranks; throws what run_ranks throws.
  std::vector<observe::Summary> train_on(const std::string& name, const RankLayout& layout,
                                         bool resume = false, const std::vector<std::string>& more = {},
                                         const Meddling& meddling = {}) const {
    std::vector<observe::Summary> summaries(static_cast<size_t>(layout.ranks));
    CancelToken stop;
    CancelAt sink(&stop, meddling.cancel_step);
    run_ranks(layout.ranks,
              [&](comm::Communicator& communicator) {
                const tensor::kernels::TilesScope scope(tiles_);
                const int rank = communicator.rank();
                std::vector<std::string> settings = layout.settings;
                settings.insert(settings.end(), more.begin(), more.end());
                if (rank == 1)
                  settings.insert(settings.end(), meddling.only_rank_1.begin(), meddling.only_rank_1.end());
                train::TrainRequest request;
                request.config = config(settings);
                if (rank == 0) request.run_folder = run(name);
                request.resume = resume;
                request.communicator = &communicator;
                if (meddling.cancel_rank >= 0 && rank == 0) request.sinks = {&sink};
                if (rank == meddling.cancel_rank) request.cancel = &stop;
                request.dataset = std::make_shared<data::Dataset>(data::open_dataset(request.config));
                const bool first_stage = rank < layout.ranks / layout.stages;
                const int fail_after = rank == meddling.failing_rank ? meddling.fail_after : -1;
                request.dataset->train = std::make_unique<NotedSource>(
                    std::move(request.dataset->train), first_stage ? meddling.ledger : nullptr, fail_after);
                summaries[static_cast<size_t>(rank)] = train::train(request);
              },
              {.timeout_ms = kPatienceMs});
    return summaries;
  }

  observe::Summary train_alone(const std::string& name, SampleLedger* ledger = nullptr) const {
    return train_on(name, layout(1, 1), false, {}, {.ledger = ledger}).front();
  }

  // One run that these layouts take turns at, each stopped after five more steps: the last one's summary.
  observe::Summary train_chain(const std::string& name, const std::vector<RankLayout>& chain,
                               const std::vector<std::string>& settings) const {
    std::vector<observe::Summary> summaries;
    for (const RankLayout& each : chain) {
      Meddling meddling;
      if (&each != &chain.back()) {
        meddling.cancel_rank = each.ranks - 1;
        meddling.cancel_step = 5 * (1 + (&each - chain.data()));
      }
      summaries = train_on(name, each, &each != &chain.front(), settings, meddling);
    }
    return summaries.front();
  }

  void expect_chain_equals_alone();

  std::string precision_ = "float32";
  tensor::kernels::Tiles tiles_ = tensor::kernels::usable_tiles();
  std::vector<std::string> network_;  // settings of every run
};

struct Precision {
  std::string name, setting;
  tensor::kernels::Tiles tiles = tensor::kernels::usable_tiles();
};
class InEveryPrecision : public RankSession, public ::testing::WithParamInterface<Precision> {
 protected:
  void SetUp() override {
    RankSession::SetUp();
    precision_ = GetParam().setting;
    tiles_ = GetParam().tiles;
  }
};

inline auto every_precision() {
  using tensor::kernels::Tiles;
  return ::testing::Values(Precision{"float32", "float32"}, Precision{"bfloat16", "bfloat16"},
                           Precision{"bfloat16_on_tiles", "bfloat16", Tiles::kEmulated},
                           Precision{"float16", "float16"});
}
inline std::string precision_name(const ::testing::TestParamInfo<Precision>& info) { return info.param.name; }

inline std::string message_of(const std::function<void()>& fn) {
  try {
    fn();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

inline void expect_same_figures(const observe::Summary& a, const observe::Summary& b) {
  EXPECT_EQ(a.status, b.status);
  EXPECT_EQ(a.steps, b.steps);
  EXPECT_EQ(a.samples, b.samples);
  EXPECT_EQ(a.loss, b.loss);
  EXPECT_EQ(a.validation_loss, b.validation_loss);
  EXPECT_EQ(a.validation_accuracy, b.validation_accuracy);
  EXPECT_EQ(a.best_step, b.best_step);
  EXPECT_EQ(a.test_loss, b.test_loss);
  EXPECT_EQ(a.test_accuracy, b.test_accuracy);
}

// Running statistics are in checkpoints, in the best model and in the export, from any layout to any other.
// A run that four layouts take turns at ends as one process does.
inline void RankSession::expect_chain_equals_alone() {
  const observe::Summary alone = train_alone("alone");
  const std::vector<RankLayout> chain = {layout(1, 2, 3), layout(2, 2, 2), layout(1, 1), layout(3, 1)};
  int64_t stop = 4;
  for (const RankLayout& each : chain) {
    SCOPED_TRACE(each.name);
    const bool last = &each == &chain.back();
    Meddling meddling;
    meddling.cancel_rank = last ? -1 : each.ranks - 1;
    meddling.cancel_step = stop;
    const auto summaries = train_on("chain", each, &each != &chain.front(), {}, meddling);
    stop = summaries[0].steps + 5;
    if (last) expect_same_figures(summaries[0], alone);
  }
  EXPECT_EQ(weights("chain"), weights("alone"));
}

}  // namespace furrow::testing
