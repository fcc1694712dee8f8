// A tensor axis over processes of the real binary: the bits of the same layout over threads, no byte more
// than the bound and than was predicted, and checkpoints that go on at any other degree.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "furrow/base/file.h"
#include "furrow/base/memory.h"
#include "furrow/config/config.h"
#include "furrow/observe/metrics_log.h"
#include "furrow/observe/summary.h"
#include "furrow/storage/safetensors.h"
#include "furrow/train/session.h"
#include "tests/testing/child.h"
#include "tests/testing/made_up_idx.h"
#include "tests/testing/outcome.h"
#include "tests/testing/rank_runs.h"
#include "tests/testing/run_ranks.h"

namespace furrow {
namespace {

using Settings = std::vector<std::string>;
using testing::kPipeline;
using testing::kReplicate;
using testing::kSchedule;
using testing::kShard;
using testing::kTensor;

struct Layout {
  const char* name;
  int ranks;
  Settings settings;
};
const Layout kOne{"one", 1, {kPipeline, "1", kReplicate, "1", kShard, "1", kTensor, "1"}};
const Layout kTp2{"tp2", 2, {kPipeline, "1", kReplicate, "1", kShard, "1", kTensor, "2"}};
const Layout kPp2{"pp2", 2, {kPipeline, "2", kReplicate, "1", kShard, "1", kTensor, "1"}};
const Layout kPp2Tp2{"pp2tp2", 4, {kPipeline, "2", kReplicate, "1", kShard, "1", kTensor, "2"}};
const Layout kZeroBubbleTp2{
    "zero_bubble_tp2",
    4,
    {kPipeline, "2", kReplicate, "1", kShard, "1", kTensor, "2", kSchedule, "ZBVZeroBubble"}};
const Layout kDp2Tp2{"dp2tp2", 4, {kPipeline, "1", kReplicate, "2", kShard, "1", kTensor, "2"}};
const Layout kShard2Tp2{"shard2tp2",
                        4,
                        {kPipeline, "1", kReplicate, "1", kShard, "2", kTensor, "2",
                         "--training.mixed_precision_param", "bfloat16"}};

Settings operator+(Settings a, const Settings& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class TensorAxis : public ::testing::Test {
 protected:
  void SetUp() override { testing::write_made_up_words(folder_.path() + "/text.txt", 6000); }

  std::string run(const std::string& name) const { return folder_.path() + "/" + name; }
  std::string config() const {
    return testing::environment("FURROW_SOURCE_DIR") + "/tests/multiprocess/tensor_axis.toml";
  }
  Settings of_run(const std::string& name) const {
    return {"--job.dump_folder", run(name), "--training.dataset_path", folder_.path() + "/text.txt"};
  }

  static void furrow(const Settings& words) {
    const testing::ChildResult result =
        testing::run_child(Settings{testing::environment("FURROW_BIN")} + words);
    ASSERT_EQ(result.exit_status, 0) << result.err;
  }
  void as_processes(const std::string& name, const Layout& layout) const {
    furrow(Settings{"train", config(), "--nproc", std::to_string(layout.ranks)} + of_run(name) +
           layout.settings);
  }
  void as_threads(const std::string& name, const Layout& layout) const {
    testing::run_ranks(layout.ranks, [&](comm::Communicator& communicator) {
      train::TrainRequest request;
      request.config = config::load(config(), of_run(name) + layout.settings);
      if (communicator.rank() == 0) request.run_folder = run(name);
      request.communicator = &communicator;
      train::train(request);
    });
  }
  // The run `from` as it was in the middle goes on in another layout, and from its end as `name`.
  void go_on(const std::string& from, const std::string& name, const Layout& layout) const {
    std::filesystem::copy(run(from), run(name), std::filesystem::copy_options::recursive);
    furrow(Settings{"train", run(name), "--resume", "--nproc", std::to_string(layout.ranks),
                    "--checkpoint.load_step", "4"} +
           layout.settings);
  }

  std::string difference(const std::string& a, const std::string& b) const {
    return testing::difference(testing::outcome_of(run(a)), testing::outcome_of(run(b)));
  }
  double last_loss(const std::string& name) const {
    return *observe::parse_summary(read_file(run(name) + "/summary.json")).loss;
  }

  testing::TemporaryFolder folder_;
};

void expect_bytes_as_predicted(const observe::Summary& summary) {
  ASSERT_TRUE(summary.audit && summary.prediction);
  EXPECT_EQ(summary.prediction->measured.wire_bytes, summary.prediction->predicted.wire_bytes);
  EXPECT_GE(summary.audit->bytes.size(), 3U);
  for (const observe::CollectiveAudit& kind : summary.audit->bytes)
    EXPECT_EQ(kind.wire_bytes, kind.bound_bytes) << kind.name;
}

TEST_F(TensorAxis, ProcessesEndWithTheBitsOfThreads) {
  for (const Layout& layout : {kPp2Tp2, kDp2Tp2, kShard2Tp2}) {
    SCOPED_TRACE(layout.name);
    const std::string name = layout.name;
    as_processes(name, layout);
    as_threads(name + "_threads", layout);
    EXPECT_EQ(difference(name, name + "_threads"), "");
    expect_bytes_as_predicted(observe::parse_summary(read_file(run(name) + "/summary.json")));
  }
  EXPECT_EQ(difference("pp2tp2", "dp2tp2"), "");
  as_processes(kZeroBubbleTp2.name, kZeroBubbleTp2);
  EXPECT_EQ(difference(kZeroBubbleTp2.name, "dp2tp2"), "");
  as_processes("one", kOne);
  EXPECT_NE(difference("one", "dp2tp2"), "");  // sums of another order
  EXPECT_NEAR(last_loss("one"), last_loss("dp2tp2"), 1e-3);
}

// With adapters, of tables too: the same, and what is exported has the same tensors and goes on anywhere.
TEST_F(TensorAxis, AdaptersAreCutAsTheirWeights) {
  const auto adapted = [](Layout layout, const Settings& more = {}) {
    layout.settings = layout.settings + Settings{"--lora.rank",           "3",
                                                 "--lora.dropout",        "0.1",
                                                 "--lora.target_modules", R"(["*", "wte", "wpe", "lm_head"])",
                                                 "--optimizer.lr",        "0.02"} +
                      more;
    return layout;
  };
  for (const Layout& layout : {kTp2, kPp2Tp2, kDp2Tp2, kOne}) as_processes(layout.name, adapted(layout));
  EXPECT_EQ(difference("tp2", "pp2tp2"), "");
  EXPECT_EQ(difference("tp2", "dp2tp2"), "");
  expect_bytes_as_predicted(observe::parse_summary(read_file(run("pp2tp2") + "/summary.json")));
  EXPECT_NE(difference("one", "tp2"), "");
  EXPECT_NEAR(last_loss("one"), last_loss("tp2"), 1e-3);
  go_on("tp2", "tp2_one", kOne);
  go_on("tp2", "tp2_pp2", kPp2);
  EXPECT_EQ(difference("tp2_one", "tp2_pp2"), "");
  EXPECT_NEAR(last_loss("tp2_one"), last_loss("tp2"), 1e-3);
  const auto names = [&](const std::string& name) {
    std::vector<std::string> all;
    const storage::SafetensorsFile file(run(name) + "/adapter/adapter_model.safetensors");
    for (const storage::TensorInfo& each : file.tensors()) all.push_back(each.name + to_string(each.shape));
    return all;
  };
  EXPECT_EQ(names("tp2"), names("one"));
  const Settings from = {"--lora.adapter_path", run("tp2") + "/adapter"};
  as_processes("one_from_tp2", adapted(kOne, from));
  as_processes("tp2_from_tp2", adapted(kTp2, from));
  EXPECT_NEAR(last_loss("one_from_tp2"), last_loss("tp2_from_tp2"), 1e-3);
  EXPECT_GT(std::abs(last_loss("one") - last_loss("one_from_tp2")), 3e-3) << "control: it starts there";
}

// A rank's activations and buffers, by kind: in 16 bits, with adapters, with classes that are cut.
struct Held {
  std::string name, model;
  bool images = false;
  Settings settings = {};
};

TEST_F(TensorAxis, RanksHoldWhatWasPlanned) {
  testing::write_made_up_idx(folder_.path() + "/images", 1100, 20, 28);
  const std::string gpt = "name = 'gpt'\nwidth = 64\nlayers = 3\nheads = 4\n";
  const std::string llama = "name = 'llama'\nwidth = 64\nlayers = 3\nheads = 4\nkv_heads = 2\n";
  const Settings bf16 = {"--training.mixed_precision_param", "bfloat16"};
  const Settings again = {"--activation_checkpoint.mode", "full"}, lora = {"--lora.rank", "4"};
  const Settings dropout = {"--lora.dropout", "0.1"};
  const Settings tables = {"--lora.rank", "8", "--lora.target_modules", R"(["*", "wte", "wpe"])"};
  const std::vector<Held> runs = {
      {"gpt", gpt},
      {"gpt_again", gpt, false, again},
      {"gpt_bf16", gpt, false, bf16},
      {"gpt_lora_again", gpt, false, lora + again},
      {"gpt_lora_bf16_again", gpt, false, lora + bf16 + again},
      {"gpt_lora_dropout_bf16", gpt, false, lora + dropout + bf16},
      {"gpt_lora_tables", gpt, false, tables},
      {"gpt_lora_tables_bf16_again", gpt, false, tables + bf16 + again},
      {"llama_lora_tables",
       llama,
       false,
       {"--lora.rank", "8", "--lora.target_modules", R"(["embed_tokens"])"}},
      {"gpt_frozen_bf16", gpt, false, bf16 + Settings{"--optimizer.groups", R"(["h.*.mlp.* frozen=true"])"}},
      {"gpt_dropout_bf16", gpt + "dropout = 0.1\n", false, bf16},
      {"llama_bf16", llama, false, bf16},
      {"llama_lora", llama, false, lora},
      {"llama_lora_bf16_again", llama, false, lora + bf16 + again},
      {"mlp", "name = 'mlp'\nhidden = [256, 128, 64]\n", true},
      {"mlp_bf16", "name = 'mlp'\nhidden = [256, 128, 64]\n", true, bf16},
      {"mlp_gelu_bf16", "name = 'mlp'\nhidden = [256, 128]\nactivation = 'gelu'\n", true, bf16 + again},
      {"mlp_lora_bf16", "name = 'mlp'\nhidden = [256, 128, 64]\n", true, lora + bf16}};
  for (const Held& held : runs) {
    write_file_atomic(run(held.name) + ".toml", "[model]\n" + held.model);
    const Settings data = {"--training.dataset", held.images ? "idx" : "text", "--training.dataset_path",
                           folder_.path() + (held.images ? "/images" : "/text.txt")};
    furrow(Settings{"train",
                    run(held.name) + ".toml",
                    "--nproc",
                    "2",
                    kTensor,
                    "2",
                    "--job.dump_folder",
                    run(held.name),
                    "--training.local_batch_size",
                    held.images ? "512" : "16",
                    "--training.global_batch_size",
                    held.images ? "1024" : "32",
                    "--training.seq_len",
                    "32",
                    "--training.steps",
                    "2",
                    "--training.threads",
                    "1",
                    "--validation.enable=false",
                    "--checkpoint.enable=false",
                    "--metrics.enable_plots=false"} +
           data + held.settings);
    const observe::Summary summary = observe::parse_summary(read_file(run(held.name) + "/summary.json"));
    for (const MemoryKind kind : {MemoryKind::kParameters, MemoryKind::kGradients, MemoryKind::kOptimizer,
                                  MemoryKind::kActivations, MemoryKind::kOther}) {
      const auto k = static_cast<size_t>(kind);
      const auto planned = static_cast<double>(summary.planned_memory_bytes[k]);
      const auto taken = static_cast<double>(summary.memory_bytes[k]);
      EXPECT_LE(std::abs(taken - planned), std::max(0.02 * planned, 8192.0))
          << held.name << ", " << to_string(kind) << ": " << taken << " held, " << planned << " planned, "
          << 100 * (planned / taken - 1) << " %";
    }
  }
}

// Beside the axis no layout changes a bit; at another degree every reader of the checkpoint ends alike.
TEST_F(TensorAxis, CheckpointsGoOnAtAnyDegree) {
  as_processes("tp2", kTp2);
  for (const Layout& layout : {kPp2Tp2, kDp2Tp2}) {
    go_on("tp2", std::string("tp2_") + layout.name, layout);
    EXPECT_EQ(difference("tp2", std::string("tp2_") + layout.name), "") << layout.name;
  }
  go_on("tp2", "tp2_one", kOne);
  go_on("tp2", "tp2_pp2", kPp2);
  EXPECT_EQ(difference("tp2_one", "tp2_pp2"), "");
  EXPECT_NE(difference("tp2_one", "tp2"), "");
  EXPECT_NEAR(last_loss("tp2_one"), last_loss("tp2"), 1e-3);
  as_processes("pp2", kPp2);
  go_on("pp2", "pp2_tp2", kTp2);
  go_on("pp2", "pp2_pp2tp2", kPp2Tp2);
  EXPECT_EQ(difference("pp2_tp2", "pp2_pp2tp2"), "");
  EXPECT_NE(difference("pp2_tp2", "tp2"), "");
  EXPECT_NEAR(last_loss("pp2_tp2"), last_loss("pp2"), 1e-3);
}

}  // namespace
}  // namespace furrow
