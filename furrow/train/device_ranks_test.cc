// Ranks whose units compute by the operations of devices, on the CPU: in every layout the bits of one such
// process (of one group of ranks that share their layers, where they do), over furrow's own backend, and over
// NCCL's where all memory counts as a device's (comm/nccl/fake_nccl.cc).
#include <dlfcn.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/train/device_torch.h"
#include "furrow/train/session.h"
#include "tests/testing/training_runs_torch.h"

namespace furrow::train {
namespace {

using ::testing::HasSubstr;

struct RankLayout {
  std::string name;
  int ranks = 1;
  std::vector<std::string> settings = {};
  bool by_pairs = false;  // transfers among its operations
  bool in_half = false;   // bfloat16 too
  bool by_tree = false;   // three or more ranks share an axis of data, or 16 bits travel: NCCL must not add
};

const RankLayout kLayouts[] = {
    {"replicated", 2, {"--parallelism.data_parallel_replicate_degree", "2"}},
    {"replicated_3", 3, {"--parallelism.data_parallel_replicate_degree", "3"}, true, false, true},
    {"replicated_4", 4, {"--parallelism.data_parallel_replicate_degree", "4"}, true, true, true},
    {"zero1", 2, {"--parallelism.zero_stage", "1"}},
    {"zero1_4", 4, {"--parallelism.zero_stage", "1"}, true, false, true},
    {"zero2", 4, {"--parallelism.zero_stage", "2"}, true, false, true},
    {"zero3", 3, {}, true, true, true},
    {"zero3_4", 4, {}, true, true, true},
    {"both", 4, {"--parallelism.data_parallel_replicate_degree", "2"}},
    {"both_wide", 8, {"--parallelism.data_parallel_replicate_degree", "2"}, true, false, true},
    {"pipeline", 2, {"--parallelism.pipeline_parallel_degree", "2"}, true},
    {"pipeline_zero1",
     4,
     {"--parallelism.pipeline_parallel_degree", "2", "--parallelism.pipeline_parallel_schedule", "ZBH1",
      "--parallelism.zero_stage", "1"},
     true,
     true},
};

// Of ranks that share every layer.
const RankLayout kCutLayouts[] = {
    {"tensor", 2, {}},
    {"tensor_zero3", 4, {}, false, true},
    {"tensor_pipeline", 4, {"--parallelism.pipeline_parallel_degree", "2"}, true},
};

class DeviceRanks : public ::testing::TestWithParam<std::string>, protected testing::TrainingRuns {
 protected:
  void SetUp() override {
    write_made_up_text();
    const std::string fake =
        std::filesystem::read_symlink("/proc/self/exe").parent_path() / "libfurrow_fake_nccl.so";
    ::setenv("FURROW_NCCL_LIBRARY", fake.c_str(), 1);
    ::setenv("FURROW_CUDART_LIBRARY", fake.c_str(), 1);
    fake_ = ::dlopen(fake.c_str(), RTLD_NOW);
    ASSERT_NE(fake_, nullptr) << ::dlerror();
  }
  void TearDown() override {
    manage(false);
    EXPECT_EQ(fake<int64_t (*)()>("fake_nccl_live")(), 0);
    EXPECT_EQ(fake<int64_t (*)()>("fake_nccl_lonely_ends")(), 0) << "ranks end in one order";
  }

  template <class Function>
  Function fake(const char* name) const {
    return reinterpret_cast<Function>(::dlsym(fake_, name));
  }
  void manage(bool on) const { fake<void (*)(bool)>("fake_nccl_manage")(on); }
  // all_reduce, reduce_scatter, all_gather, broadcast, reduce, send, recv
  std::array<int64_t, 7> take_calls() const {
    std::array<int64_t, 7> calls{};
    fake<void (*)(int64_t*)>("fake_nccl_take_calls")(calls.data());
    return calls;
  }

  // Bytes that went from devices to the host or back.
  int64_t take_host_copies() const {
    std::array<int64_t, 5> bytes{};  // by cudaMemcpyKind
    fake<void (*)(int64_t*)>("fake_cuda_take_copies")(bytes.data());
    return bytes[1] + bytes[2];
  }

  config::Config config(const std::vector<std::string>& settings) const {
    std::vector<std::string> all = {"--training.device", "composed", "--training.steps", "4",
                                    "--validation.freq", "2"};
    all.insert(all.end(), settings.begin(), settings.end());
    return tiny_gpt(all);
  }

  observe::Summary train_on(const std::string& name, const RankLayout& layout, const std::string& backend,
                            const std::vector<std::string>& more) const {
    std::vector<std::string> settings = layout.settings;
    settings.insert(settings.end(), more.begin(), more.end());
    return train_on_ranks(name, layout.ranks, config(settings), backend);
  }

  void expect_weights_of(const std::string& run, const RankLayout& layout,
                         const std::vector<std::string>& more) const {
    SCOPED_TRACE(layout.name);
    train_on(layout.name, layout, "native", more);
    EXPECT_TRUE(weights(layout.name) == weights(run));
    take_calls();
    take_host_copies();
    manage(true);
    const observe::Summary told = train_on(layout.name + "_nccl", layout, "nccl", more);
    manage(false);
    EXPECT_EQ(take_host_copies(), 0) << "nothing goes over the host";
    EXPECT_EQ(told.audit->sums.find("added on the device") != std::string::npos, layout.by_tree)
        << told.audit->sums;
    EXPECT_TRUE(weights(layout.name + "_nccl") == weights(run)) << "over NCCL";
    const auto [reduced, scattered, gathered, spread, added, sent, received] = take_calls();
    EXPECT_GT(gathered + spread + reduced + scattered + added, 0);
    EXPECT_EQ(sent, received);
    if (layout.by_pairs) {
      EXPECT_GT(sent, 0);
    }
  }

  void* fake_ = nullptr;
};

TEST_P(DeviceRanks, EndWithTheBitsOfOneProcess) {
  const std::vector<std::string> precision = {"--training.mixed_precision_param", GetParam()};
  train_run("alone", config(precision));
  for (const RankLayout& layout : kLayouts) {
    if (GetParam() != "float32" && !layout.in_half) continue;
    expect_weights_of("alone", layout, precision);
  }
  std::vector<std::string> other = precision;
  other.insert(other.end(), {"--debug.seed", "9"});
  train_run("control", config(other));
  EXPECT_FALSE(weights("control") == weights("alone")) << "control";
}

// Gradients that travel in 16 bits: every node is rounded on the device as on the host.
TEST_P(DeviceRanks, RoundNodesThatTravel) {
  const std::vector<std::string> rounded = {"--training.mixed_precision_param", GetParam(),
                                            "--training.mixed_precision_reduce", "bfloat16"};
  train_run("rounded", config(rounded));
  RankLayout layout{"rounded_4", 4, {"--parallelism.zero_stage", "2"}, true, true, true};
  expect_weights_of("rounded", layout, rounded);
  expect_weights_of("rounded",
                    {"rounded_2", 2, {"--parallelism.data_parallel_replicate_degree", "2"}, true, true, true},
                    rounded);
  train_run("control", config({"--training.mixed_precision_param", GetParam()}));
  EXPECT_FALSE(weights("control") == weights("rounded")) << "control";
}

// Control of "nothing goes over the host": without who adds on the device everything does.
TEST_P(DeviceRanks, GoOverTheHostWhereNobodyAdds) {
  manage(true);
  take_host_copies();
  testing::run_ranks(3,
                     [](comm::Communicator& communicator) {
                       communicator.use_device({.index = 0});
                       std::vector<float> sum(300, 1);
                       communicator.world().all_reduce(std::span(sum));
                       EXPECT_EQ(sum, std::vector<float>(300, 3));
                     },
                     {.backend = "nccl"});
  EXPECT_EQ(take_host_copies(), 3 * (1200 + 400));
}

TEST_P(DeviceRanks, MeetBeforeThereIsAModel) {
  manage(true);
  testing::run_ranks(4,
                     [&](comm::Communicator& communicator) {
                       RankContext rank;
                       rank.device = {"composed", 0};
                       join(&communicator, plan::Layout({1, 2, 2, 1, 1, 1}, 4), &rank);
                       communicator.world().barrier();
                       EXPECT_EQ(fake<int64_t (*)()>("fake_nccl_live")(), 2 * 4) << "replicas and shards";
                       communicator.world().barrier();
                     },
                     {.backend = "nccl"});
}

// Ranks that share layers beside one process (other sums: nn/tensor_parallel_test.cc has their bound), and in
// every layout around them.
TEST_P(DeviceRanks, ShareTheirLayers) {
  const std::vector<std::string> cut = {"--training.mixed_precision_param", GetParam(),
                                        "--parallelism.tensor_parallel_degree", "2"};
  std::vector<std::string> alone = cut;
  alone.back() = std::string("1");
  const bool half = GetParam() != "float32";
  train_run("one_rank", config(alone));
  train_on("pair", {"pair", 2, {}}, "native", cut);
  const auto loss = [&](const std::string& name) {
    return evaluate(run(name), "validation", config(alone)).loss;
  };
  EXPECT_NEAR(loss("pair"), loss("one_rank"), (half ? 1e-2 : 1e-4) * loss("one_rank"));
  EXPECT_FALSE(weights("pair") == weights("one_rank")) << "sums of parts have another order";
  for (const RankLayout& layout : kCutLayouts) {
    if (half && !layout.in_half) continue;
    expect_weights_of("pair", layout, cut);
  }
}

// Statistics of batch norm, gathered and folded in the order of microbatches.
TEST_P(DeviceRanks, TrainResidualNetworks) {
  const std::vector<std::string> residual = {"--model.name",
                                             "resnet20",
                                             "--training.dataset",
                                             "idx",
                                             "--training.dataset_path",
                                             made_up_images(64, 16, 8),
                                             "--training.steps",
                                             "2",
                                             "--training.mixed_precision_param",
                                             GetParam()};
  train_run("whole", config(residual));
  expect_weights_of("whole", {"residual_zero2", 2, {"--parallelism.zero_stage", "2"}}, residual);
  if (GetParam() != "float32") return;  // one layout is enough
  expect_weights_of("whole", {"residual_pipeline", 2, {"--parallelism.pipeline_parallel_degree", "2"}, true},
                    residual);
}

// Optimizers that step whole parameters or in blocks, on their slices.
TEST_P(DeviceRanks, StepWholeParametersAndBlocks) {
  if (GetParam() != "float32") GTEST_SKIP() << "masters are float32 whatever units read";
  for (const std::string name : {"adafactor", "adamw8bit", "lamb", "muon"}) {
    const std::vector<std::string> settings = {"--optimizer.name", name, "--training.steps", "2"};
    train_run(name, config(settings));
    train_on(name + "_zero3", {"", 3, {}}, "native", settings);
    EXPECT_TRUE(weights(name + "_zero3") == weights(name)) << name;
  }
  EXPECT_FALSE(weights("lamb") == weights("muon")) << "control";
}

INSTANTIATE_TEST_SUITE_P(Precisions, DeviceRanks, ::testing::Values("float32", "bfloat16"),
                         [](const auto& info) { return info.param; });

TEST(DeviceOfRank, IsThatOfItsPlaceOnTheHost) {
  EXPECT_EQ(device_of_local_rank(0, 8), 0);
  EXPECT_EQ(device_of_local_rank(7, 8), 7);
  EXPECT_EQ(device_of_local_rank(3, 1), 0);  // shown to this rank alone
  EXPECT_THAT(
      [] { device_of_local_rank(2, 2); },
      ::testing::ThrowsMessage<Error>(HasSubstr("this is rank 2 of its host (from 0), which shows 2")));
}

}  // namespace
}  // namespace furrow::train
