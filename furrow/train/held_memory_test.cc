// What runs hold by kind of memory, beside what was planned before their first step: every network, in every
// precision and mode of recompute, with adapters too.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "furrow/base/file.h"
#include "furrow/base/memory.h"
#include "furrow/train/session.h"
#include "tests/testing/child.h"
#include "tests/testing/made_up_idx.h"

namespace furrow::train {
namespace {

using Settings = std::vector<std::string>;

constexpr double kSmall = 8192;  // what is not worth a word, tables of a block for one

struct Network {
  std::string name;
  bool images = false;
  std::string model;  // [model], and what else it needs
  std::vector<std::string> types = {"float32", "bfloat16", "float16"};
  Settings settings = {};
  std::string mixed = {};  // mixed_precision_units of a run in bfloat16
  int rank = 2;            // of adapters
  int characters = 26;     // of the text
  bool colours = false;    // images of three channels
  Settings adapters = {};  // of a run with them
};
void PrintTo(const Network& network, std::ostream* out) { *out << network.name; }

class HeldMemory : public ::testing::TestWithParam<Network> {
 protected:
  void SetUp() override {
    testing::write_made_up_idx(images(), 200, 20, 28);
    write_colours();
    std::string letters;
    for (int i = 0; i < 3000; ++i) letters += static_cast<char>('a' + i * i % 26);
    write_file_atomic(text(), GetParam().characters > 26 ? written(GetParam().characters) : letters);
    run({});  // so that kernels have their block
  }

  std::string images() const { return folder_.path() + "/images"; }
  std::string colours() const { return folder_.path() + "/colours"; }
  std::string text() const { return folder_.path() + "/text"; }

  // As CIFAR-10's: a label and three planes of 32 x 32.
  void write_colours() const {
    constexpr size_t kPixels = 3 * 32 * 32;
    std::string records;
    for (size_t i = 0; i < 200; ++i) {
      records += static_cast<char>(i % 10);
      for (size_t p = 0; p < kPixels; ++p) records += static_cast<char>(i * 131 + p * 29);
    }
    make_directories(colours());
    write_file_atomic(colours() + "/data_batch_1.bin", records);
  }

  Settings data() const {
    const Network& network = GetParam();
    if (network.colours) {
      return {"--training.dataset",      "cifar10",
              "--training.dataset_path", colours(),
              "--data.train_files",      "[\"data_batch_1.bin\"]",
              "--data.test_files",       "[]"};
    }
    return {"--training.dataset", network.images ? "idx" : "text", "--training.dataset_path",
            network.images ? images() : text()};
  }

  // So many characters of three bytes, twice.
  static std::string written(int characters) {
    std::string all;
    for (int i = 0; i < 2 * characters; ++i) {
      const int code = 0x4E00 + i % characters;
      for (const int byte : {0xE0 | code >> 12, 0x80 | (code >> 6 & 0x3F), 0x80 | (code & 0x3F)})
        all += static_cast<char>(byte);
    }
    return all;
  }

  observe::Summary run(const Settings& settings) {
    const Network& network = GetParam();
    Settings all = data();
    all.insert(all.end(), network.settings.begin(), network.settings.end());
    all.insert(all.end(), settings.begin(), settings.end());
    TrainRequest request;
    request.config = config::parse(R"(
      [training]
      local_batch_size = 16
      global_batch_size = 32
      seq_len = 32
      steps = 1
      threads = 1
      [validation]
      enable = false
      [checkpoint]
      enable = false
      [metrics]
      enable_plots = false
    )" + network.model,
                                   "held_memory_test", all);
    request.run_folder = fmt::format("{}/run-{}", folder_.path(), runs_++);
    reset_memory_peaks();
    return train(request);
  }

  // Of the workspace what comes on top of a kernels' block, which the process keeps; of data the plan is what
  // there may be, as how many batches are ready is a matter of time.
  void expect_as_planned(const Settings& settings, const std::string& what) {
    const bool composed = std::ranges::find(settings, "composed") != settings.end();
    const double block = composed ? 0 : 4 << 20;
    const auto before = static_cast<double>(memory_usage(MemoryKind::kOther).current_bytes);
    const observe::Summary summary = run(settings);
    for (size_t k = 0; k < kMemoryKinds; ++k) {
      const auto kind = static_cast<MemoryKind>(k);
      const bool other = kind == MemoryKind::kOther;
      const double planned = static_cast<double>(summary.planned_memory_bytes[k]) - (other ? block : 0);
      const double held = static_cast<double>(summary.memory_bytes[k]) - (other ? before : 0);
      const double more = held - planned, least = kind == MemoryKind::kData ? 0 : more;
      EXPECT_LE(std::max(more, -least), std::max(0.02 * planned, kSmall))
          << fmt::format("{}, {}: {} held, {} planned, {:+.1f} %", what, to_string(kind), held, planned,
                         100 * (planned / held - 1));
    }
  }

  void compare_all(const Settings& settings, const std::string& what) {
    for (const std::string& type : GetParam().types) {
      for (const char* mode : {"none", "selective", "full"}) {
        Settings all = {"--training.mixed_precision_param", type, "--activation_checkpoint.mode", mode};
        all.insert(all.end(), settings.begin(), settings.end());
        expect_as_planned(all, fmt::format("{}{}, {}, recompute {}", GetParam().name, what, type, mode));
      }
    }
  }

  testing::TemporaryFolder folder_;
  int runs_ = 0;
};

TEST_P(HeldMemory, IsAsPlanned) { compare_all({}, ""); }

class HeldMemoryOfTheBest : public HeldMemory {};

// With the statistics of its norms, and their averages.
TEST_P(HeldMemoryOfTheBest, IsAsPlanned) {
  const observe::Summary summary =
      run({"--validation.enable", "true", "--data.validation_fraction", "0.2", "--ema.decay", "0.9"});
  constexpr auto kind = static_cast<size_t>(MemoryKind::kCheckpoint);
  EXPECT_GT(summary.memory_bytes[kind], 0);
  EXPECT_EQ(summary.memory_bytes[kind], summary.planned_memory_bytes[kind]);
}

class HeldMemoryOfAdapters : public HeldMemory {};

TEST_P(HeldMemoryOfAdapters, IsAsPlanned) {
  Settings settings = GetParam().adapters;
  settings.insert(settings.end(), {"--lora.rank", std::to_string(GetParam().rank)});
  compare_all(settings, " with adapters");
}

class HeldMemoryOfDistillation : public HeldMemory {};

class HeldMemoryOfMixedPrecision : public HeldMemory {};

// Units of all three types beside one another.
TEST_P(HeldMemoryOfMixedPrecision, IsAsPlanned) {
  compare_all({"--training.mixed_precision_units", GetParam().mixed}, " of several types");
}

// Scores are most of what such a model holds.
TEST_P(HeldMemoryOfDistillation, IsAsPlanned) {
  run({});
  compare_all(
      {"--training.objective", "distillation", "--distillation.teacher", folder_.path() + "/run-0/model"},
      " with a teacher");
}

// On the CPU by the operations that run on GPUs: what tables' gradients and losses take there.  (Attention on
// the CPU has blocks of its own, which are no GPU's.)
class HeldMemoryOfCompositions : public HeldMemory {};

TEST_P(HeldMemoryOfCompositions, IsAsPlanned) { compare_all({"--training.device", "composed"}, " composed"); }

class HeldMemoryOfComposedDistillation : public HeldMemory {};

TEST_P(HeldMemoryOfComposedDistillation, IsAsPlanned) {
  run({});
  compare_all({"--training.device", "composed", "--training.objective", "distillation",
               "--distillation.teacher", folder_.path() + "/run-0/model"},
              " composed, with a teacher");
}

const std::vector<std::string> kTypes = {"float32", "bfloat16", "float16"};
const Settings kMany = {"--training.local_batch_size", "64", "--training.global_batch_size", "128"};
const Network kMlp{"mlp", true, "[model]\nname = 'mlp'\nhidden = [256, 128, 64]\n", kTypes, kMany};
const Network kGelu{"mlp_gelu", true, "[model]\nname = 'mlp'\nhidden = [256, 128]\nactivation = 'gelu'\n",
                    kTypes, kMany};
const Network kConvnet{"convnet", true, "[model]\nname = 'convnet'\n", kTypes, kMany};
const Network kResnet{"resnet20", true, "[model]\nname = 'resnet20'\n"};
const Network blocks{"blocks", true, R"([model]
name = "blocks"
units = ["conv1: conv_relu_pool out_channels=8 kernel=3 padding=1 pool=true",
         "conv2: conv_relu_pool out_channels=12 kernel=3 padding=1",
         "fc1: linear out=128 activation=relu", "fc2: linear out=classes"]
)"};
const Network kLayers{"layers", true, R"([model]
name = "blocks"
units = ["c1: conv out_channels=8 kernel=3 padding=1 activation=silu", "n1: group_norm groups=2",
         "p1: max_pool kernel=2", "c2: conv out_channels=16 kernel=3 stride=2 padding=1 activation=relu",
         "d: dropout p=0.2", "c3: conv out_channels=16 kernel=3 padding=1 bias=false",
         "a: activation activation=tanh", "p2: avg_pool kernel=2", "g: global_avg_pool", "n2: layer_norm",
         "fc: linear out=classes activation=none"]
)",
                      kTypes, kMany};
const Network kNorms{"norms", true, R"([model]
name = "blocks"
units = ["n0: batch_norm", "c1: conv out_channels=8 kernel=3 padding=1 bias=false",
         "n1: batch_norm activation=relu", "c2: conv out_channels=16 kernel=3 stride=2 padding=1 activation=leaky_relu",
         "n2: batch_norm activation=silu", "c3: conv out_channels=16 kernel=3 padding=1 activation=gelu_tanh",
         "n3: batch_norm activation=tanh", "g: global_avg_pool", "fc1: linear out=256 activation=softplus",
         "n4: batch_norm", "fc2: linear out=192 activation=gelu_tanh", "fc3: linear out=128 activation=tanh",
         "fc: linear out=classes"]
)",
                     kTypes, kMany};
const Network kBottlenecks{"bottlenecks", true, R"([model]
name = "blocks"
units = ["stem: conv_norm out_channels=8", "b1: bottleneck_block width=8 out_channels=32",
         "b2: bottleneck_block width=16 out_channels=64 stride=2",
         "b3: bottleneck_block width=16 out_channels=64",
         "b4: bottleneck_block width=16 out_channels=80 shortcut=pad", "fc: pool_linear out=classes"]
)"};
const Network kPooledNorm{"pooled_norm", true, R"([model]
name = "blocks"
units = ["stem: conv_norm out_channels=16 kernel=7 stride=2 pool=true", "r: residual_block out_channels=16",
         "fc: pool_linear out=classes"]
)"};
Network of_colours(const std::string& name, const std::string& units) {
  Network network{name, true, "[model]\nname = \"blocks\"\nunits = [" + units + "]\n", kTypes, kMany};
  network.colours = true;
  return network;
}
// Batches have planes, which a first layer copies; what is flattened is copied too.
const Network kFirstNorm = of_colours("colours_norm", R"("stem: conv_norm out_channels=8",
  "b1: residual_block out_channels=8", "fc: pool_linear out=classes")");
const Network kFirstConv =
    of_colours("colours_conv", R"("c: conv out_channels=8 kernel=3 padding=1 activation=relu",
  "p: max_pool kernel=2", "fc1: linear out=64 activation=relu", "fc: linear out=classes")");
const Network kFlattened = of_colours("colours_flattened", R"("n: batch_norm",
  "c: conv out_channels=24 kernel=3 stride=2", "fc: linear out=classes")");
// A bias without an activation behind it.
const Network kPlainConv = of_colours("colours_plain", R"("c: conv out_channels=24 kernel=3 stride=2",
  "g: global_avg_pool", "fc: linear out=classes")");
const Network kGan{"gan",
                   true,
                   R"([model]
name = "gan"
latent = 100
[optimizer]
name = "adam"
weight_decay = 0
[data]
normalize = false
)",
                   kTypes,
                   {"--training.objective", "gan"}};
// The gradient of a bias is as much as a sample that is generated.
Network of_wide_bias() {
  Network network = kGan;
  network.name = "gan_of_a_wide_bias";
  network.colours = true;
  network.model.replace(network.model.find("latent = 100"), 12,
                        "latent = 8\ngenerator_hidden = [16]\ndiscriminator_hidden = [16]");
  for (const char* batch : {"local", "global"}) {
    network.settings.push_back(fmt::format("--training.{}_batch_size", batch));
    network.settings.push_back("4");
  }
  return network;
}
const Network kGpt{"gpt", false, "[model]\nname = 'gpt'\nwidth = 64\nlayers = 3\nheads = 4\n"};
const Network kDropout{"gpt_dropout", false,
                       "[model]\nname = 'gpt'\nwidth = 64\nlayers = 2\nheads = 2\ndropout = 0.1\n"};
const Network kLlama{"llama", false,
                     "[model]\nname = 'llama'\nwidth = 64\nlayers = 3\nheads = 4\nkv_heads = 2\n"};
const Network kQwen2{
    "qwen2", false,
    "[model]\nname = 'llama'\nwidth = 64\nlayers = 3\nheads = 4\nkv_heads = 2\nqkv_bias = true\n"};
const Network kRnn{"rnn", false, "[model]\nname = 'rnn'\nwidth = 64\nlayers = 1\n"};
const Network kLstm{"lstm", false, "[model]\nname = 'lstm'\nwidth = 64\nlayers = 3\n"};
const Network kLstmDropout{"lstm_dropout", false,
                           "[model]\nname = 'lstm'\nwidth = 64\nlayers = 3\ndropout = 0.2\n"};
const Network kRecurrent{"recurrent", false, R"([model]
name = "blocks"
units = ["e: embedding width=64", "r: rnn hidden=96 out=64", "s: rnn hidden=64 out=32", "fc: linear out=classes flatten=false"]
)"};
const Network kLstmAlone{"lstm_alone", false, R"([model]
name = "blocks"
units = ["e: embedding width=64", "l: lstm hidden=64", "fc: linear out=classes flatten=false"]
)"};
const Network kGroupNorm{"group_norm", true, R"([model]
name = "blocks"
units = ["c: conv out_channels=16 kernel=3 padding=1", "n: group_norm groups=4", "g: global_avg_pool",
         "fc: linear out=classes"]
)",
                         kTypes, kMany};
// What a table's mask needs is the most.
const Network kMaskedTable{"masked_table", false, R"([model]
name = "blocks"
units = ["e: token_embedding width=96 dropout=0.1", "h: linear out=classes flatten=false"]
)"};
// Each of several kinds above a convolution: what it reads needs no gradient where that is frozen.
Network above(const std::string& unit) {
  Network network = kGroupNorm;
  network.name = "above_" + unit.substr(0, unit.find(' '));
  network.model = fmt::format(R"([model]
name = "blocks"
units = ["c: conv out_channels=16 kernel=3 padding=1 bias=false", "n: {}", "g: global_avg_pool", "fc: linear out=classes"]
)",
                              unit);
  return network;
}
const Network kConvs{"convs", true, R"([model]
name = "blocks"
units = ["c1: conv out_channels=12 kernel=3 padding=1 activation=relu", "c2: conv out_channels=16 kernel=3 padding=1",
         "c3: conv out_channels=16 kernel=3 stride=2 activation=silu bias=false", "g: global_avg_pool", "fc: linear out=classes"]
)",
                     kTypes, kMany};
// Blocks that read planes among those that read pixels.
const Network kForms{"forms", true, R"([model]
name = "blocks"
units = ["c1: conv out_channels=12 kernel=3 padding=1", "d: dropout p=0.2", "c2: conv out_channels=12 kernel=3 padding=1",
         "q: conv_relu_pool out_channels=12 kernel=3 padding=1 pool=true", "n: layer_norm", "p: max_pool kernel=2",
         "g: global_avg_pool", "fc: linear out=classes"]
)",
                     kTypes, kMany};
const Network kBytes{
    "gpt", false, "[model]\nname = 'gpt'\nwidth = 32\nlayers = 1\nheads = 2\n[data]\ntokenizer = 'byte'\n"};

Network with(Network network, const std::string& name, const Settings& more) {
  network.name += name;
  network.settings.insert(network.settings.end(), more.begin(), more.end());
  return network;
}
// Less is kept where less trains.
Network frozen(const Network& network, const std::string& name, const std::string& groups) {
  return with(network, fmt::format("_{}", name), {"--optimizer.groups", groups});
}

const auto kName = [](const auto& info) { return info.param.name; };
INSTANTIATE_TEST_SUITE_P(Networks, HeldMemoryOfTheBest, ::testing::Values(kMlp, kResnet, kNorms), kName);
INSTANTIATE_TEST_SUITE_P(
    Networks, HeldMemory,
    ::testing::Values(
        kMlp, kGelu, kConvnet, kResnet, blocks, kLayers, kNorms, kBottlenecks, kPooledNorm, kFirstNorm,
        kFirstConv, kFlattened, kPlainConv, kGan, kGpt, kDropout, kLlama, kQwen2, kRnn, kLstm, kLstmDropout,
        frozen(kGpt, "without_mlp", R"(["h.*.mlp.* frozen=true"])"),
        frozen(kLlama, "without_first", R"(["*.0.* frozen=true"])"),
        frozen(kResnet, "without_first", R"(["*.conv1.* frozen=true"])"),
        frozen(kLayers, "without_c2", R"(["c2.* frozen=true"])"),
        frozen(kGpt, "of_last_norm", R"(["h.* frozen=true", "wte.* frozen=true", "wpe.* frozen=true"])"),
        of_wide_bias(), kMaskedTable, kRecurrent,
        frozen(kRecurrent, "of_head", R"(["r.* frozen=true", "s.* frozen=true", "e.* frozen=true"])"),
        frozen(kRecurrent, "above_the_first", R"(["r.* frozen=true", "e.* frozen=true"])"),
        frozen(kLstmAlone, "of_head", R"(["l.* frozen=true", "e.* frozen=true"])"), kGroupNorm,
        frozen(kGroupNorm, "above_frozen", R"(["c.* frozen=true"])"),
        frozen(above("batch_norm"), "frozen", R"(["c.* frozen=true"])"),
        frozen(above("layer_norm"), "frozen", R"(["c.* frozen=true"])"), kForms,
        frozen(kForms, "without_q", R"(["q.* frozen=true", "c1.* frozen=true"])"),
        frozen(kLstm, "of_head", R"(["lstm.* frozen=true", "embed.* frozen=true"])"),
        frozen(kMlp, "of_biases", R"(["*.weight frozen=true"])")),
    kName);
Network of_rank(Network network, int rank) {
  network.name += fmt::format("_rank_{}", rank);
  network.rank = rank;
  return network;
}
Network frozen_adapters(Network network, const std::string& name, const std::string& groups) {
  network.name += "_" + name;
  network.adapters = {"--optimizer.groups", groups};
  return network;
}
INSTANTIATE_TEST_SUITE_P(
    Networks, HeldMemoryOfAdapters,
    ::testing::Values(
        kMlp, kGelu, kConvnet, kResnet, blocks, kLayers, kNorms, kBottlenecks, kGan, kGpt, kDropout, kLlama,
        kRnn, kLstm, of_rank(kResnet, 4), of_rank(kConvnet, 5), kConvs,
        frozen_adapters(kConvs, "of_a", R"(["*.lora_A.* frozen=true"])"),
        frozen_adapters(kConvs, "of_b", R"(["*.lora_B.* frozen=true"])"),
        frozen_adapters(kConvs, "some_frozen", R"(["c1.lora_* frozen=true", "c2.lora_* frozen=true"])"),
        frozen_adapters(kRecurrent, "of_a", R"(["*.lora_A.* frozen=true"])"), kForms, kLstmAlone,
        with(kRecurrent, "_i2h", {"--lora.target_modules", R"(["i2h"])"}),
        with(kRecurrent, "_i2o", {"--lora.target_modules", R"(["i2o"])"}),
        with(kGpt, "_tables",
             {"--lora.target_modules", R"(["wte", "wpe", "c_proj"])", "--model.tie_embeddings", "false"}),
        with(kGpt, "_masked", {"--lora.dropout", "0.1"}),
        with(kLlama, "_tables", {"--lora.target_modules", R"(["embed_tokens", "down_proj"])"}),
        with(kConvnet, "_masked", {"--lora.dropout", "0.1"})),
    kName);
Network mixed(Network network, const std::string& units) {
  network.types = {"bfloat16"};
  network.mixed = units;
  return network;
}
INSTANTIATE_TEST_SUITE_P(
    Networks, HeldMemoryOfMixedPrecision,
    ::testing::Values(mixed(kMlp, R"(["fc2 param=float32", "fc3 param=float16"])"),
                      mixed(kGelu, R"(["fc1 param=float32", "fc3 param=float16"])"),
                      mixed(kGan, R"(["generator.fc2 param=float32", "discriminator.fc2 param=float16"])"),
                      mixed(kConvnet, R"(["linear param=float32", "conv2 param=float16"])"),
                      mixed(kResnet, R"(["layer2.* param=float32", "fc param=float16"])"),
                      mixed(kGpt, R"(["h.0 param=float32", "h.2 param=float16"])"),
                      mixed(kLlama, R"(["llama_head param=float32", "embedding param=float32"])"),
                      mixed(kLstm, R"(["lstm param=float32"])")),
    kName);
// Scores of a large vocabulary: in one chunk of rows, and in several (rows_at_a_time() of tensor/loss.cc).
Network scores(const std::string& name, const std::string& samples) {
  return {name,
          false,
          R"([model]
name = "blocks"
units = ["e: embedding width=16", "h: linear out=classes flatten=false"]
)",
          {"float32"},
          {"--training.local_batch_size", samples, "--training.global_batch_size", samples},
          {},
          0,
          4000};
}
INSTANTIATE_TEST_SUITE_P(Networks, HeldMemoryOfCompositions,
                         ::testing::Values(scores("one_chunk", "16"), scores("chunks", "200")), kName);
INSTANTIATE_TEST_SUITE_P(Networks, HeldMemoryOfComposedDistillation,
                         ::testing::Values(scores("taught", "16")), kName);
INSTANTIATE_TEST_SUITE_P(Networks, HeldMemoryOfDistillation, ::testing::Values(kMlp, kBytes, kResnet), kName);

}  // namespace
}  // namespace furrow::train
