// Optimizer state and masters in the host's memory ([training] enable_cpu_offload): where the device is the
// CPU too, which a config refuses, the bits of a run without, whatever the layout, type and optimizer.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "furrow/base/file.h"
#include "furrow/base/memory.h"
#include "furrow/train/session.h"
#include "tests/testing/training_runs_torch.h"

namespace furrow::train {
namespace {

using ::testing::HasSubstr;

struct OffloadCase {
  std::string name;
  int ranks = 1;
  std::vector<std::string> settings;
};

const OffloadCase kCases[] = {
    {"adamw", 1, {}},
    {"sgd", 1, {"--optimizer.name", "sgd", "--optimizer.momentum", "0"}},
    {"averaged_float16", 1, {"--training.mixed_precision_param", "float16", "--ema.decay", "0.9"}},
    {"frozen", 1, {"--optimizer.groups", "[\"* frozen=true\", \"h.1.* frozen=false\"]"}},
    {"replicated_bfloat16",
     2,
     {"--training.mixed_precision_param", "bfloat16", "--parallelism.data_parallel_replicate_degree", "2"}},
    {"muon_zero1", 2, {"--optimizer.name", "muon", "--parallelism.zero_stage", "1"}},
    {"adamw8bit_zero2", 2, {"--optimizer.name", "adamw8bit", "--parallelism.zero_stage", "2"}},
    {"averaged_zero3", 3, {"--ema.decay", "0.9"}},
    {"pipeline_zero3_bfloat16",
     4,
     {"--training.mixed_precision_param", "bfloat16", "--parallelism.pipeline_parallel_degree", "2"}},
};

class Offload : public ::testing::Test, protected testing::TrainingRuns {
 protected:
  void SetUp() override { write_made_up_text(); }

  config::Config config(const std::vector<std::string>& settings, bool offload) const {
    std::vector<std::string> all = {"--training.steps",  "6", "--training.max_norm", "0.1",
                                    "--validation.freq", "3"};
    all.insert(all.end(), settings.begin(), settings.end());
    config::Config config = tiny_gpt(all);
    config.training.enable_cpu_offload = offload;
    return config;
  }

  void train_on(const std::string& name, const OffloadCase& each, bool offload) const {
    if (each.ranks == 1) {
      train_run(name, config(each.settings, offload));
      return;
    }
    train_on_ranks(name, each.ranks, config(each.settings, offload));
  }
};

TEST_F(Offload, EndsWithTheBitsOfARunWithout) {
  for (const OffloadCase& each : kCases) {
    SCOPED_TRACE(each.name);
    train_on(each.name, each, false);
    train_on(each.name + "_host", each, true);
    EXPECT_TRUE(weights(each.name + "_host") == weights(each.name));
  }
  EXPECT_FALSE(weights("adamw") == weights("sgd")) << "control";
}

// What is planned for the host is what it holds.
TEST_F(Offload, HoldsWhatIsPlanned) {
  constexpr auto kOptimizer = static_cast<size_t>(MemoryKind::kOptimizer),
                 kGradients = static_cast<size_t>(MemoryKind::kGradients);
  reset_memory_peaks();
  const observe::Summary plain = train_run("plain", config({}, false));
  reset_memory_peaks();
  const observe::Summary host = train_run("host", config({}, true));
  EXPECT_EQ(host.memory_bytes[kOptimizer], host.planned_memory_bytes[kOptimizer]);
  EXPECT_EQ(host.memory_bytes[kGradients], plain.memory_bytes[kGradients]);
  // Two states, masters, and what passes through of two units at a time.
  EXPECT_GT(host.memory_bytes[kOptimizer], plain.memory_bytes[kOptimizer] * 3 / 2);
  EXPECT_LT(host.memory_bytes[kOptimizer], plain.memory_bytes[kOptimizer] * 2);
}

// In the trace of a step and in the metrics of the run, beside what was predicted.
TEST_F(Offload, ShowsItsCopies) {
  for (const bool offload : {false, true}) {
    const std::string name = offload ? "host" : "plain";
    train_run(name, config({}, offload));
    const std::string trace = read_file(run(name) + "/trace.json"),
                      metrics = read_file(run(name) + "/metrics.jsonl");
    for (const std::string word : {"\"copy_down ", "\"copy_up ", "exposed_copies_ms"})
      EXPECT_EQ((trace + metrics).find(word) != std::string::npos, offload) << word;
    EXPECT_THAT(trace, HasSubstr("predicted copy"));
  }
}

// Stopped after some step and gone on from the checkpoint.
TEST_F(Offload, ResumesWithTheSameBits) {
  train_run("whole", config({}, true));
  CancelToken cancel;
  struct StopAt final : observe::Sink {
    explicit StopAt(CancelToken* to_cancel) : cancel(to_cancel) {}
    void begin(const std::string&, const std::string&, int64_t) override {}
    void log(const observe::StepRecord&) override {}
    void progress(int64_t step, int64_t) override {
      if (step == 4) cancel->cancel();
    }
    void artifact(const std::string&, const std::string&) override {}
    void end(const std::string&) override {}
    CancelToken* cancel;
  } stop(&cancel);
  TrainRequest request;
  request.config = config({}, true);
  request.run_folder = run("cut");
  request.cancel = &cancel;
  request.sinks = {&stop};
  EXPECT_EQ(train(request).status, "interrupted");
  EXPECT_EQ(train_run("cut", config({}, true), /*resume=*/true).status, "finished");
  EXPECT_TRUE(weights("cut") == weights("whole"));
}

// By the operations of devices, stepped by the host's kernels: about the same as either all along.
TEST_F(Offload, StepsForDevices) {
  for (const std::string optimizer : {"adamw", "muon"}) {
    const std::vector<std::string> kernels = {"--optimizer.name", optimizer};
    std::vector<std::string> composed = kernels;
    composed.insert(composed.end(), {"--training.device", "composed"});
    const observe::Summary cpu = train_run(optimizer, config(kernels, false));
    const observe::Summary device = train_run(optimizer + "_device", config(composed, true));
    EXPECT_NEAR(*device.loss, *cpu.loss, 2e-4 * std::abs(*cpu.loss));
    train_run(optimizer + "_stepped_there", config(composed, false));
    EXPECT_FALSE(weights(optimizer) == weights(optimizer + "_device")) << "another rounding";
    EXPECT_FALSE(weights(optimizer + "_stepped_there") == weights(optimizer + "_device")) << "and of steps";
  }
}

}  // namespace
}  // namespace furrow::train
