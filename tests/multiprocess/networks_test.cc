// Every network that a pipeline takes, on up to four processes of the real binary, dropout on: stages x data
// x ZeRO x recompute x schedules end with the bits of one process.
#include <gtest/gtest.h>

#include "furrow/base/file.h"
#include "tests/testing/made_up_idx.h"
#include "tests/testing/outcome.h"
#include "tests/testing/rank_runs.h"

namespace furrow {
namespace {

using Settings = std::vector<std::string>;
using testing::kPipeline;
using testing::kReplicate;
using testing::kSchedule;
using testing::kShard;
using testing::kStage;

constexpr const char* kRecompute = "--activation_checkpoint.mode";

struct Network {
  const char* name;
  const char* model;    // of its TOML
  const char* dataset;  // its files are in the test's folder
};
constexpr Network kNetworks[] = {
    {"gpt_tied", "name = 'gpt'\nlayers = 3\nheads = 2\nwidth = 16\ndropout = 0.1\n", "text.txt"},
    {"gpt_untied", "name = 'gpt'\nlayers = 3\nheads = 2\nwidth = 16\ndropout = 0.1\ntie_embeddings = false\n",
     "text.txt"},
    {"llama_tied", "name = 'llama'\nlayers = 3\nheads = 4\nkv_heads = 2\nwidth = 16\ntie_embeddings = true\n",
     "text.txt"},
    {"llama_untied",
     "name = 'llama'\nlayers = 3\nheads = 4\nkv_heads = 2\nwidth = 16\ntie_embeddings = false\n"
     "qkv_bias = true\n",
     "text.txt"},
    {"mlp", "name = 'mlp'\nhidden = [24, 16, 12]\ndropout = 0.1\n", "images"},
    {"convnet", "name = 'convnet'\n", "images"},
};

// Six microbatches a step, the last one smaller.
constexpr const char* kTraining = R"(
local_batch_size = 4
global_batch_size = 23
steps = 3
max_norm = 1.0
threads = 1

[optimizer]
name = "adamw"
lr = 3e-3

[data]
validation_fraction = 0.1

[checkpoint]
enable = true
interval = 3

[debug]
deterministic = "strict"

[metrics]
log_freq = 1
enable_plots = false
)";

struct Case {
  const char* name;
  int ranks;
  Settings settings;
};
const Case kCases[] = {
    {"1f1b", 2, {kPipeline, "2", kSchedule, "1F1B"}},
    {"gpipe_of_3", 3, {kPipeline, "3", kSchedule, "GPipe"}},
    {"zbv", 2, {kPipeline, "2", kSchedule, "ZBVZeroBubble"}},
    {"dual_pipe_v_recompute", 2, {kPipeline, "2", kSchedule, "DualPipeV", kRecompute, "full"}},
    {"zero3_interleaved", 4, {kPipeline, "2", kSchedule, "Interleaved1F1B", kShard, "2", kStage, "3"}},
    {"replicated_zero_bubble", 4, {kPipeline, "2", kSchedule, "InterleavedZeroBubble", kReplicate, "2"}},
    {"zero1_zbh1", 4, {kPipeline, "2", kSchedule, "ZBH1", kShard, "2", kStage, "1", kRecompute, "full"}},
};

class Networks : public ::testing::TestWithParam<Network> {
 protected:
  void SetUp() override {
    testing::write_made_up_words(folder_.path() + "/text.txt", 3000);
    testing::write_made_up_idx(folder_.path() + "/images", 120, 20, 28);
    write_file_atomic(config(), toml(GetParam()));
  }

  std::string config() const { return folder_.path() + "/network.toml"; }
  std::string run(const std::string& name) const { return folder_.path() + "/runs/" + name; }

  std::string toml(const Network& network) const {
    const bool text = std::string(network.dataset) == "text.txt";
    return std::string("[model]\n") + network.model + "\n[training]\ndataset = \"" + (text ? "text" : "idx") +
           "\"\ndataset_path = \"" + folder_.path() + "/" + network.dataset + "\"\n" +
           (text ? "seq_len = 8\n" : "") + kTraining;
  }

  testing::ChildResult train(const std::string& name, int ranks, const Settings& settings) const {
    Settings command = {testing::environment("FURROW_BIN"),
                        "train",
                        config(),
                        "--job.dump_folder",
                        run(name),
                        "--nproc",
                        std::to_string(ranks)};
    command.insert(command.end(), settings.begin(), settings.end());
    return testing::run_child(command);
  }

  testing::TemporaryFolder folder_;
};

TEST_P(Networks, OnProcessesEndWithTheBitsOfOne) {
  const testing::ChildResult alone = train("one", 1, {});
  ASSERT_EQ(alone.exit_status, 0) << alone.err;
  const testing::Outcome expected = testing::outcome_of(run("one"));
  for (const Case& each : kCases) {
    SCOPED_TRACE(each.name);
    const testing::ChildResult result = train(each.name, each.ranks, each.settings);
    ASSERT_EQ(result.exit_status, 0) << result.err;
    EXPECT_EQ(testing::difference(testing::outcome_of(run(each.name)), expected), "");
  }
  ASSERT_EQ(train("seed", 2, {kPipeline, "2", "--debug.seed", "7"}).exit_status, 0);
  EXPECT_NE(testing::difference(testing::outcome_of(run("seed")), expected), "");
}

INSTANTIATE_TEST_SUITE_P(All, Networks, ::testing::ValuesIn(kNetworks),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace furrow
