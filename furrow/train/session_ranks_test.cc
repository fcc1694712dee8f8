// Whole runs on ranks that are threads: the same model, metrics and checkpoints as one process, in any layout
// and from one to the next; stops, faults and refusals that all ranks share.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <mutex>

#include "furrow/base/error.h"
#include "furrow/base/failpoint.h"
#include "furrow/base/file.h"
#include "furrow/base/memory.h"
#include "furrow/observe/metrics_log.h"
#include "furrow/plan/optimizer_spec.h"
#include "furrow/storage/checkpoint.h"
#include "furrow/tensor/kernels/tiles.h"
#include "furrow/train/session.h"
#include "tests/testing/run_ranks.h"
#include "tests/testing/training_runs_torch.h"

namespace furrow::train {
namespace {

using tensor::kernels::Tiles;
using tensor::kernels::TilesScope;
using ::testing::HasSubstr;
using ::testing::Not;

struct RankLayout {
  std::string name;
  int ranks = 1;
  std::vector<std::string> settings;
  int stages = 1;  // of the pipeline, each of which reads every sample
};

RankLayout layout(int replicate, int shard, int zero_stage = 3) {
  return {fmt::format("r{}s{}z{}", replicate, shard, zero_stage),
          replicate * shard,
          {"--parallelism.data_parallel_replicate_degree", fmt::format("{}", replicate),
           "--parallelism.data_parallel_shard_degree", fmt::format("{}", shard), "--parallelism.zero_stage",
           fmt::format("{}", zero_stage)}};
}

RankLayout pipeline(const std::string& schedule, RankLayout data) {
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
    if (fail_after_ >= 0 && reads_++ >= fail_after_) throw Error(ErrorCode::kDataLoss, "the disk is gone");
    if (ledger_ != nullptr) ledger_->add(indices);
    source_->read(indices, arrays);
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

class RankSession : public ::testing::Test, protected testing::TrainingRuns {
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
    testing::run_ranks(
        layout.ranks,
        [&](comm::Communicator& communicator) {
          const TilesScope scope(tiles_);
          const int rank = communicator.rank();
          std::vector<std::string> settings = layout.settings;
          settings.insert(settings.end(), more.begin(), more.end());
          if (rank == 1)
            settings.insert(settings.end(), meddling.only_rank_1.begin(), meddling.only_rank_1.end());
          TrainRequest request;
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
          summaries[static_cast<size_t>(rank)] = train(request);
        },
        {.timeout_ms = testing::kPatienceMs});
    return summaries;
  }

  observe::Summary train_alone(const std::string& name, SampleLedger* ledger = nullptr) const {
    return train_on(name, layout(1, 1), false, {}, {.ledger = ledger}).front();
  }

  void expect_chain_equals_alone();

  std::string precision_ = "float32";
  Tiles tiles_ = tensor::kernels::usable_tiles();
  std::vector<std::string> network_;  // settings of every run
};

struct Precision {
  std::string name, setting;
  Tiles tiles = tensor::kernels::usable_tiles();
};
class InEveryPrecision : public RankSession, public ::testing::WithParamInterface<Precision> {
 protected:
  void SetUp() override {
    RankSession::SetUp();
    precision_ = GetParam().setting;
    tiles_ = GetParam().tiles;
  }
};
INSTANTIATE_TEST_SUITE_P(Ranks, InEveryPrecision,
                         ::testing::Values(Precision{"float32", "float32"}, Precision{"bfloat16", "bfloat16"},
                                           Precision{"bfloat16_on_tiles", "bfloat16", Tiles::kEmulated},
                                           Precision{"float16", "float16"}),
                         [](const auto& info) { return info.param.name; });

std::string message_of(const std::function<void()>& fn) {
  try {
    fn();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

void expect_same_figures(const observe::Summary& a, const observe::Summary& b) {
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

// One run that goes from layout to layout, stopped in each but the last, loses no sample and reads none
// twice.
TEST_P(InEveryPrecision, GoesFromLayoutToLayoutThroughCheckpoints) {
  for (const std::string mode : {"disabled", "async"}) {
    SampleLedger alone_samples, samples;
    const observe::Summary alone = train_alone("alone_" + mode, &alone_samples);
    const std::string name = "chain_" + mode;
    const std::vector<RankLayout> chain = {layout(1, 2, 3),
                                           layout(2, 2, 2),
                                           layout(1, 1),
                                           pipeline("1F1B", layout(1, 2, 3)),
                                           layout(3, 1),
                                           layout(1, 4, 1),
                                           pipeline("GPipe", layout(2, 1)),
                                           layout(2, 1)};
    int64_t stop = 3;
    for (const RankLayout& each : chain) {
      SCOPED_TRACE(each.name);
      const bool last = &each == &chain.back();
      Meddling meddling{.ledger = &samples};
      if (!last) {
        meddling.cancel_rank = each.ranks - 1;
        meddling.cancel_step = stop;
      }
      const auto summaries =
          train_on(name, each, &each != &chain.front(), {"--checkpoint.async_mode", mode}, meddling);
      for (const observe::Summary& summary : summaries) {
        EXPECT_EQ(summary.status, last ? "finished" : "interrupted");
        // The vote is part of a step: one process stops at once, several after the next step at the latest.
        if (!last) {
          EXPECT_GE(summary.steps, stop);
          EXPECT_LE(summary.steps, stop + 1);
          EXPECT_EQ(summary.steps, summaries[0].steps);
        }
      }
      stop = summaries[0].steps + 2;
      if (last) expect_same_figures(summaries[0], alone);
    }
    EXPECT_EQ(weights(name), weights("alone_" + mode));
    EXPECT_EQ(samples.sorted(), alone_samples.sorted());
  }
}

// States of every form, an average and frozen parameters go through checkpoints into any layout.
TEST_F(RankSession, EveryOptimizerGoesFromLayoutToLayout) {
  for (const plan::OptimizerSpec& optimizer : plan::optimizer_specs()) {
    const std::string name(optimizer.name);
    SCOPED_TRACE(name);
    const std::vector<std::string> settings = {
        "--optimizer.name", name,  "--optimizer.momentum", "0.9",
        "--ema.decay",      "0.9", "--optimizer.groups",   "fc1.bias frozen=true"};
    const observe::Summary alone = train_on(name, layout(1, 1), false, settings).front();
    const std::vector<RankLayout> chain = {layout(1, 3, 3), pipeline("1F1B", layout(1, 2, 2)),
                                           layout(1, 2, 1)};
    for (const RankLayout& each : chain) {
      Meddling meddling;
      if (&each != &chain.back()) {
        meddling.cancel_rank = each.ranks - 1;
        meddling.cancel_step = 5 * (1 + (&each - chain.data()));
      }
      const auto summaries = train_on(name + "_chain", each, &each != &chain.front(), settings, meddling);
      if (&each == &chain.back()) expect_same_figures(summaries[0], alone);
    }
    EXPECT_EQ(weights(name + "_chain"), weights(name));
  }
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

// Masters of adapters alone, and frozen weights of 16 bits without any.
TEST_F(RankSession, AdaptersOf16BitsGoFromLayoutToLayout) {
  const std::vector<std::string> settings = {
      "--training.mixed_precision_param", "bfloat16", "--lora.rank", "4", "--lora.target_modules", "fc*"};
  const observe::Summary alone = train_on("alone", layout(1, 1), false, settings).front();
  const std::vector<RankLayout> chain = {layout(1, 3, 3), pipeline("1F1B", layout(1, 2, 2)), layout(2, 2, 1),
                                         layout(1, 2, 1)};
  for (const RankLayout& each : chain) {
    Meddling meddling;
    if (&each != &chain.back()) {
      meddling.cancel_rank = each.ranks - 1;
      meddling.cancel_step = 5 * (1 + (&each - chain.data()));
    }
    const auto summaries = train_on("chain", each, &each != &chain.front(), settings, meddling);
    if (&each == &chain.back()) expect_same_figures(summaries[0], alone);
  }
  EXPECT_EQ(weights("chain"), weights("alone"));
  EXPECT_EQ(read_file(run("chain") + "/adapter/adapter_model.safetensors"),
            read_file(run("alone") + "/adapter/adapter_model.safetensors"));
}

// Running statistics are in checkpoints, in the best model and in the export, from any layout to any other.
// A run that four layouts take turns at ends as one process does.
void RankSession::expect_chain_equals_alone() {
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

TEST_F(RankSession, StatisticsGoFromLayoutToLayoutToo) {
  network_ = {"--model.name", "blocks", "--model.units",
              R"(["stem: conv_norm out_channels=4", "b: residual_block out_channels=8 stride=2",)"
              R"( "fc: pool_linear out=classes"])"};
  expect_chain_equals_alone();
  EXPECT_THAT(weights("alone"), HasSubstr("stem.bn1.num_batches_tracked"));
  EXPECT_THAT(weights("alone"), HasSubstr("b.downsample.1.running_var"));
}

// So does their average, which is what is validated, kept as the best and exported.
TEST_F(RankSession, AveragedStatisticsGoFromLayoutToLayoutToo) {
  network_ = {"--model.name",
              "blocks",
              "--model.units",
              R"(["stem: conv_norm out_channels=4", "b: residual_block out_channels=8 stride=2",)"
              R"( "fc: pool_linear out=classes"])",
              "--ema.decay",
              "0.9"};
  expect_chain_equals_alone();
}

// A generator and a discriminator of one hidden layer each.
std::vector<std::string> small_gan() {
  return {"--model.name",
          "gan",
          "--training.objective",
          "gan",
          "--validation.enable",
          "false",
          "--data.normalize",
          "false",
          "--model.generator_hidden",
          "[24]",
          "--model.discriminator_hidden",
          "[24]",
          "--optimizer.groups",
          R"(["generator.* lr=1e-3", "discriminator.* lr=5e-4"])"};
}

// Both phases of its steps, and noise that follows the samples.
TEST_F(RankSession, AGanGoesFromLayoutToLayoutToo) {
  network_ = small_gan();
  expect_chain_equals_alone();
  EXPECT_THAT(weights("alone"), HasSubstr("generator.fc2.weight"));
  EXPECT_THAT(weights("alone"), HasSubstr("discriminator.fc2.weight"));
  EXPECT_THAT(weights("alone"), Not(HasSubstr("fooled")));
  EXPECT_EQ(read_file(run("chain") + "/samples.svg"), read_file(run("alone") + "/samples.svg"));
}

// The chain stops and resumes in the middle of overflows and of intervals of growth.
TEST_F(RankSession, AGanInFloat16GoesOnWithItsTwoLossScales) {
  network_ = small_gan();
  network_.insert(network_.end(), {"--grad_scaler.init_scale", "536870912", "--grad_scaler.growth_interval",
                                   "3", "--metrics.log_freq", "1"});
  precision_ = "float16";
  expect_chain_equals_alone();
  std::map<std::string, double> last;
  bool alike = true;
  for (const observe::StepRecord& record : observe::read_metrics(run("alone") + "/metrics.jsonl")) {
    for (const auto& [name, value] : record.values) last[name] = value;
    alike = alike && last.at("loss_scale_discriminator") == last.at("loss_scale_generator");
  }
  EXPECT_FALSE(alike) << "each has its own";
  for (const std::string phase : {"discriminator", "generator"}) {
    EXPECT_GT(last.at("skipped_steps_" + phase), 2) << phase;
    EXPECT_LT(last.at("skipped_steps_" + phase), 15) << phase;
  }
  EXPECT_FALSE(last.contains("loss_scale"));
}

TEST_F(RankSession, AdaptersOfAGanGoFromLayoutToLayoutToo) {
  network_ = small_gan();
  network_.erase(network_.end() - 2, network_.end());  // groups, of what is frozen now
  network_.insert(network_.end(), {"--lora.rank", "3"});
  expect_chain_equals_alone();
  EXPECT_THAT(weights("alone"), Not(HasSubstr("lora")));
  const auto adapters = [&](const std::string& name) {
    return read_file(run(name) + "/adapter/adapter_model.safetensors");
  };
  EXPECT_EQ(adapters("chain"), adapters("alone"));
  EXPECT_THAT(adapters("alone"), AllOf(HasSubstr("generator.fc2.lora_B"),
                                       HasSubstr("discriminator.fc1.lora_A"), Not(HasSubstr("generated"))));
}

// The teacher, with statistics of its own, is no part of what is exported and evaluated.
TEST_F(RankSession, AStudentGoesFromLayoutToLayoutToo) {
  network_ = {"--model.name", "blocks", "--model.units",
              R"(["stem: conv_norm out_channels=4", "fc: pool_linear out=classes"])"};
  train_on("teacher", layout(1, 1));
  network_ = {"--training.objective", "distillation", "--distillation.teacher", run("teacher") + "/model"};
  expect_chain_equals_alone();
  EXPECT_THAT(weights("alone"), Not(HasSubstr("teacher")));
  const EvalResult test = evaluate(run("alone"), "test", config({}));
  EXPECT_EQ(test.samples, 100);
  network_ = {};
  train_on("untaught", layout(1, 1));
  EXPECT_NE(weights("untaught"), weights("alone")) << "control: the teacher counts";
  network_ = {"--training.objective", "distillation", "--distillation.teacher", run("nowhere")};
  EXPECT_THROW(train_on("none", layout(1, 1)), Error);
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
