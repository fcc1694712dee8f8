// Runs whose units compute elsewhere: on the CPU by the operations of devices, and on a GPU where there is
// one.
#include <ATen/Context.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/observe/metrics_log.h"
#include "furrow/train/device_torch.h"
#include "furrow/train/session.h"
#include "tests/testing/child.h"
#include "tests/testing/training_runs_torch.h"

namespace furrow::train {
namespace {

using ::testing::HasSubstr;

constexpr double kSame = 2e-4;  // of losses after 12 steps

constexpr const char* kCommon = R"(
  [training]
  local_batch_size = 8
  global_batch_size = 20
  steps = 12
  threads = 1
  seq_len = 16
  [optimizer]
  lr = 3e-3
  [validation]
  freq = 6
  [checkpoint]
  interval = 4
  async_mode = "async"
  [metrics]
  log_freq = 1
)";

struct Network {
  std::string name, model;
  bool text = false;
  std::vector<std::string> settings = {};
  double same = kSame;
  friend std::ostream& operator<<(std::ostream& out, const Network& network) { return out << network.name; }
};

const Network kNetworks[] = {
    {"mlp", "[model]\nname = \"mlp\"\nhidden = [32]\n[ema]\ndecay = 0.9\n"},
    {"convnet", "[model]\nname = \"convnet\"\n"},
    {"gpt", "[model]\nname = \"gpt\"\nlayers = 2\nheads = 2\nwidth = 32\ndropout = 0.1\n", true},
    {"gpt_fused", "[model]\nname = \"gpt\"\nlayers = 2\nheads = 2\nwidth = 32\ndropout = 0.0\n", true},
    {"llama", "[model]\nname = \"llama\"\nlayers = 2\nheads = 4\nkv_heads = 2\nwidth = 32\n", true},
    {"lstm", "[model]\nname = \"lstm\"\nlayers = 2\nwidth = 24\ndropout = 0.2\n", true},
    {"rnn", "[model]\nname = \"rnn\"\nlayers = 1\nwidth = 24\n", true},
    // Twenty norms over a microbatch make much of a rounding.
    {"resnet20", "[model]\nname = \"resnet20\"\n", false, {"--optimizer.lr", "3e-4"}, 2e-3},
    {"layers",
     "[model]\nname = \"blocks\"\nunits = [\"c1: conv out_channels=6 kernel=3 stride=2 padding=1 "
     "activation=silu\", \"n1: group_norm groups=2\", \"p1: max_pool kernel=3 stride=2 padding=1\", \"c2: "
     "conv "
     "out_channels=8 kernel=3 bias=false\", \"a: activation activation=softplus\", \"d: dropout p=0.2\", "
     "\"p2: "
     "avg_pool kernel=2\", \"g: global_avg_pool\", \"n2: layer_norm\", \"fc: linear out=classes\"]\n"},
    {"norms",
     "[model]\nname = \"blocks\"\nunits = [\"n0: batch_norm\", \"c1: conv out_channels=6 kernel=3 stride=2 "
     "bias=false\", \"n1: batch_norm activation=relu\", \"b: bottleneck_block width=4 out_channels=8 "
     "stride=2\", \"fc1: linear out=12 "
     "bias=false\", \"n2: batch_norm activation=silu\", \"fc: linear out=classes\"]\n[ema]\ndecay = 0.9\n",
     false,
     {"--optimizer.lr", "3e-4"},
     2e-3},
    {"weighted",
     "[model]\nname = \"mlp\"\nhidden = [24]\n",
     false,
     {"--training.balance_classes", "--training.label_smoothing", "0.1"}},
    {"lora", "[model]\nname = \"gpt\"\nlayers = 2\nheads = 2\nwidth = 32\n[lora]\nrank = 3\n", true},
    {"gan",
     "[model]\nname = \"gan\"\nlatent = 12\ngenerator_hidden = [24]\ndiscriminator_hidden = [24]\n",
     false,
     {"--training.objective", "gan", "--training.max_norm", "0", "--data.normalize", "false",
      "--data.validation_fraction", "0", "--validation.enable", "false"}},
};

class Devices : public ::testing::TestWithParam<std::tuple<Network, std::string>>,
                protected testing::TrainingRuns {
 protected:
  const Network& network() const { return std::get<0>(GetParam()); }
  const std::string& device() const { return std::get<1>(GetParam()); }

  void SetUp() override {
    if (device() == "cuda" && !at::globalContext().hasCUDA())
      GTEST_SKIP() << "no GPU, or a libtorch without CUDA";
    made_up_images(300, 60, network().name == "resnet20" ? 12 : 28);
    write_made_up_text(6000);
  }

  config::Config config(std::vector<std::string> overrides) const {
    overrides.insert(overrides.begin(),
                     {"--training.dataset_path", folder_.path() + (network().text ? "/text.txt" : "/data"),
                      "--training.dataset", network().text ? "text" : "idx"});
    overrides.insert(overrides.begin(), network().settings.begin(), network().settings.end());
    return config::parse(network().model + kCommon, "device_test", overrides);
  }
};

// Losses of the first steps beside the kernels': the same start, samples and masks.
TEST_P(Devices, TrainAsTheCpuDoes) {
  const observe::Summary cpu = train_run("cpu", config({}));
  const observe::Summary other = train_run("other", config({"--training.device", device()}));
  EXPECT_NEAR(*other.loss, *cpu.loss, network().same * std::abs(*cpu.loss));
  if (cpu.validation_loss) {
    EXPECT_NEAR(*other.validation_loss, *cpu.validation_loss, network().same * *cpu.validation_loss);
  }
  EXPECT_EQ(other.arithmetic, "float32 on " + device());
  const observe::Summary elsewhere =
      train_run("control", config({"--training.device", device(), "--debug.seed", "9"}));
  EXPECT_GT(std::abs(*elsewhere.loss - *cpu.loss), network().same * std::abs(*cpu.loss)) << "control";
  if (!cpu.validation_loss) return;
  const EvalResult validation = evaluate(run("other"), "validation", config({"--training.device", device()}));
  EXPECT_GT(validation.samples, 0);
  EXPECT_NEAR(validation.loss, *other.validation_loss, 1e-6);
}

// Stopped after step 8 of 12 and gone on from the checkpoint: the same bits.
TEST_P(Devices, ResumeWithTheSameBits) {
  train_run("whole", config({"--training.device", device()}));
  config::Config cut = config({"--training.device", device()});
  CancelToken cancel;
  TrainRequest request;
  request.config = cut;
  request.run_folder = run("cut");
  request.cancel = &cancel;
  class StopAt final : public observe::Sink {
   public:
    explicit StopAt(CancelToken* cancel) : cancel_(cancel) {}
    void begin(const std::string&, const std::string&, int64_t) override {}
    void log(const observe::StepRecord& record) override {
      if (record.step >= 7) cancel_->cancel();
    }
    void artifact(const std::string&, const std::string&) override {}
    void end(const std::string&) override {}

   private:
    CancelToken* cancel_;
  } stop(&cancel);
  request.sinks = {&stop};
  EXPECT_EQ(train(request).status, "interrupted");
  const observe::Summary resumed = train_run("cut", cut, /*resume=*/true);
  EXPECT_EQ(resumed.status, "finished");
  EXPECT_TRUE(weights("whole") == weights("cut"));
}

// [debug] deterministic = "off" lets a GPU take what adds in any order.
TEST(DeviceOrder, IsOneUnlessItIsOff) {
  if (!at::globalContext().hasCUDA()) GTEST_SKIP() << "no GPU, or a libtorch without CUDA";
  config::Config config;
  config.training.device = "cuda";
  config.debug.deterministic = "off";
  open_device(config, 0);
  EXPECT_FALSE(at::globalContext().deterministicCuDNN());
  EXPECT_TRUE(at::globalContext().userEnabledCuDNNSDP());
  config.debug.deterministic = "auto";
  open_device(config, 0);
  EXPECT_TRUE(at::globalContext().deterministicCuDNN());
  EXPECT_FALSE(at::globalContext().userEnabledCuDNNSDP());
}

TEST_P(Devices, HalfPrecisionLearns) {
  if (network().name == "convnet" || network().name == "rnn")
    GTEST_SKIP() << "one network of a kind is enough";
  const observe::Summary whole = train_run("a", config({"--training.device", device()}));
  const observe::Summary half =
      train_run("b", config({"--training.device", device(), "--training.mixed_precision_param", "bfloat16"}));
  EXPECT_NEAR(*half.loss, *whole.loss, 0.05 * std::abs(*whole.loss));
}

// A unit that is frozen whole has no optimizer state: buffers of nothing.
TEST_P(Devices, TrainPartOfANetwork) {
  if (network().name != "gpt_fused") GTEST_SKIP() << "one network of a kind is enough";
  const auto part = [&](const std::string& where) {
    config::Config frozen = config({"--training.device", where});
    frozen.optimizer.groups = {"* frozen=true", "h.1.* frozen=false", "ln_f.* frozen=false"};
    return train_run(where, frozen);
  };
  const observe::Summary cpu = part("cpu"), other = part(device());
  EXPECT_NEAR(*other.loss, *cpu.loss, kSame * std::abs(*cpu.loss));
}

INSTANTIATE_TEST_SUITE_P(
    All, Devices, ::testing::Combine(::testing::ValuesIn(kNetworks), ::testing::Values("composed", "cuda")),
    [](const auto& info) { return std::get<0>(info.param).name + "_" + std::get<1>(info.param); });

// Every kind whose flat buffers are the device's is taken off once; the host's are not.
TEST(DeviceMemory, ActivationsAreWhatIsNoFlatBuffer) {
  std::array<int64_t, kMemoryKinds> peaks{};
  const auto set = [&](MemoryKind kind, int64_t bytes) { peaks[static_cast<size_t>(kind)] = bytes; };
  set(MemoryKind::kParameters, 1000);
  set(MemoryKind::kGradients, 200);
  set(MemoryKind::kGathered, 4000);
  set(MemoryKind::kOptimizer, 30);
  set(MemoryKind::kData, 500000);
  set(MemoryKind::kCheckpoint, 600000);
  EXPECT_EQ(beside_flat_buffers(5230 + 7, peaks, false), 7);
  EXPECT_EQ(beside_flat_buffers(5200 + 7, peaks, true), 7);
  EXPECT_EQ(beside_flat_buffers(5230, peaks, false), 0);
  EXPECT_EQ(beside_flat_buffers(100, peaks, false), 0) << "peaks of kinds need not coincide";
}

std::string refusal(const std::vector<std::string>& overrides, const plan::Layout& layout = {}) {
  try {
    const config::Config config =
        config::parse("[model]\nname = \"mlp\"\nhidden = [8]\n[training]\nsteps = 1\ndevice = \"composed\"\n",
                      "device_test", overrides);
    plan::ModelSpec spec;
    plan::Unit& unit = spec.units.emplace_back();
    unit.name = "u";
    unit.kind = config.model.name == "mlp" ? "linear" : "delay";
    check_device(config, spec, layout);
  } catch (const Error& error) {
    EXPECT_NE(error.code(), ErrorCode::kInternal);
    return error.message();
  }
  return "";
}

TEST(DeviceRefusals, NameWhatTheDeviceDoesNotDo) {
  EXPECT_EQ(refusal({}), "");
  EXPECT_THAT(refusal({"--model.name", "convnet"}), HasSubstr("does not do unit u of kind delay"));
  EXPECT_EQ(refusal({"--optimizer.name", "muon"}), "");
  EXPECT_EQ(refusal({}, plan::Layout({1, 2, 1, 1, 1, 1}, 2)), "");
  EXPECT_EQ(refusal({}, plan::Layout({1, 1, 1, 1, 2, 1}, 2)), "");
}

TEST(DeviceRefusals, RanksOfGpusTalkOverNccl) {
  const plan::Layout two({1, 2, 1, 1, 1, 1}, 2);
  EXPECT_EQ(refusal({"--training.device", "cuda"}), "");
  EXPECT_THAT(
      refusal({"--training.device", "cuda"}, two),
      HasSubstr("memory of GPUs travels over NCCL alone: set [comm] backend = \"nccl\", not \"native\""));
  EXPECT_EQ(refusal({"--training.device", "cuda", "--comm.backend", "nccl"}, two), "");
}

TEST(DeviceRefusals, ALibtorchWithoutCudaSaysSo) {
  if (at::globalContext().hasCUDA()) GTEST_SKIP() << "here is one";
  config::Config config;
  config.training.device = "cuda";
  try {
    open_device(config, 0);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kFailedPrecondition);
    EXPECT_THAT(error.message(), HasSubstr("device = \"cuda\""));
  }
}

}  // namespace
}  // namespace furrow::train
