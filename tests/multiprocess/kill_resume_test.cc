// A run that is killed and resumed ends with the bits of one that was not: weights, optimizer state, metrics,
// data position.  Kills at random moments (the seed is printed; FURROW_TEST_SEED repeats it) and at every
// failpoint of a save.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <random>
#include <sstream>
#include <stdexcept>

#include "furrow/base/file.h"
#include "furrow/observe/metrics_log.h"
#include "furrow/storage/checkpoint.h"
#include "tests/testing/child.h"
#include "tests/testing/made_up_idx.h"

namespace furrow {
namespace {

namespace fs = std::filesystem;
using testing::ChildOptions;
using testing::ChildResult;
using testing::run_child;

constexpr int kRandomKills = 20;

// Set by the build for every test.
std::string environment(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr)
    throw std::runtime_error(std::string(name) + " is not set: run this test through ctest");
  return value;
}

// What must be equal at the end: files by name, with their bytes; metrics without those of the machine.
struct Outcome {
  std::string weights;                  // model/model.safetensors
  std::vector<std::string> checkpoint;  // pieces of the newest checkpoint, sorted by name
  std::string run_state;                // step, data position, losses, best
  std::string metrics;
  friend bool operator==(const Outcome&, const Outcome&) = default;
};

std::string deterministic_metrics(const std::string& path) {
  std::ostringstream text;
  for (const observe::StepRecord& record : observe::read_metrics(path)) {
    text << record.step << " " << record.samples;
    for (const auto& [name, value] : record.values) {
      if (observe::is_machine_metric(name)) continue;
      text << " " << name << "=" << std::hexfloat << value;
    }
    text << "\n";
  }
  return text.str();
}

Outcome outcome_of(const std::string& run) {
  Outcome outcome;
  outcome.weights = read_file(run + "/model/model.safetensors");
  outcome.metrics = deterministic_metrics(run + "/metrics.jsonl");
  const auto checkpoint = storage::newest_valid(run + "/checkpoints");
  EXPECT_TRUE(checkpoint.has_value()) << run;
  if (!checkpoint) return outcome;
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(checkpoint->folder())) {
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path().string());
  }
  std::sort(files.begin(), files.end());
  for (const std::string& file : files) outcome.checkpoint.push_back(read_file(file));
  outcome.run_state = checkpoint->manifest().state;
  return outcome;
}

class KillResume : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    testing::write_made_up_idx(folder_.path() + "/data", 1200, 200, 12);
    reference_ = run("reference");
    const ChildResult result = run_child(start_command(reference_));
    ASSERT_EQ(result.exit_status, 0) << result.err;
    seconds_ = result.seconds;
    expected_ = outcome_of(reference_);
    ASSERT_FALSE(expected_.weights.empty());
  }

  std::string run(const std::string& name) const { return folder_.path() + "/runs/" + name; }

  std::vector<std::string> start_command(const std::string& run) const {
    return {environment("FURROW_BIN"),
            "train",
            environment("FURROW_SOURCE_DIR") + "/tests/multiprocess/kill_resume.toml",
            "--job.dump_folder",
            run,
            "--training.dataset_path",
            folder_.path() + "/data",
            "--checkpoint.async_mode",
            GetParam()};
  }
  std::vector<std::string> resume_command(const std::string& run) const {
    return {environment("FURROW_BIN"), "train", run, "--resume"};
  }

  // The run's folder appears once it has a config; a kill before that leaves nothing to resume.
  std::vector<std::string> next_command(const std::string& run) const {
    return fs::exists(run + "/config.toml") ? resume_command(run) : start_command(run);
  }

  void finish(const std::string& run) {
    const ChildResult result = run_child(next_command(run));
    ASSERT_EQ(result.exit_status, 0) << result.err;
    const Outcome outcome = outcome_of(run);
    EXPECT_EQ(outcome.weights, expected_.weights) << "weights differ";
    EXPECT_EQ(outcome.checkpoint, expected_.checkpoint) << "checkpoint differs";
    EXPECT_EQ(outcome.run_state, expected_.run_state);
    EXPECT_EQ(outcome.metrics, expected_.metrics);
  }

  testing::TemporaryFolder folder_;
  std::string reference_;
  double seconds_ = 0;
  Outcome expected_;
};

TEST_P(KillResume, AtRandomMoments) {
  const char* given = std::getenv("FURROW_TEST_SEED");
  const unsigned seed = given != nullptr ? static_cast<unsigned>(std::stoul(given)) : std::random_device()();
  std::cout << "FURROW_TEST_SEED=" << seed << ", uninterrupted run: " << seconds_ << " s\n";
  std::mt19937 random(seed);
  const auto longest_ms = static_cast<int64_t>(seconds_ * 1000);
  int kills = 0;
  for (int chain = 0; kills < kRandomKills; ++chain) {
    const std::string target = run("random" + std::to_string(chain));
    for (int i = 0; i < 4 && kills < kRandomKills; ++i) {
      ChildOptions options;
      options.kill_signal = SIGKILL;
      options.kill_after_ms = std::uniform_int_distribution<int64_t>(1, longest_ms)(random);
      kills += run_child(next_command(target), options).signal == SIGKILL ? 1 : 0;
    }
    finish(target);
  }
}

TEST_P(KillResume, AtEveryFailpointOfASave) {
  for (const std::string& failpoint : storage::checkpoint_failpoints()) {
    for (const char* pass : {"@1", "@4"}) {
      std::string name = failpoint + pass;
      std::replace(name.begin(), name.end(), '.', '_');
      const std::string target = run(name);
      ChildOptions options;
      options.environment = {{"FURROW_FAILPOINTS", failpoint + "=kill" + pass}};
      const ChildResult killed = run_child(start_command(target), options);
      EXPECT_EQ(killed.signal, SIGKILL) << failpoint << pass << " was never passed: " << killed.err;
      finish(target);
    }
  }
}

TEST_P(KillResume, SigtermSavesAndResumes) {
  const std::string target = run("sigterm");
  ChildOptions options;
  options.kill_signal = SIGTERM;
  options.kill_after_ms = static_cast<int64_t>(seconds_ * 600);
  const ChildResult stopped = run_child(start_command(target), options);
  EXPECT_TRUE(stopped.exit_status == 128 + SIGTERM || stopped.exit_status == 0)
      << stopped.exit_status << stopped.err;
  finish(target);
}

TEST_P(KillResume, ADamagedNewestCheckpointIsNamedAndPassedOver) {
  const std::string target = run("damaged");
  ASSERT_EQ(run_child(start_command(target)).exit_status, 0);
  const auto newest = storage::newest_valid(target + "/checkpoints");
  ASSERT_TRUE(newest.has_value());
  fs::path piece;
  for (const auto& entry : fs::directory_iterator(newest->folder())) {
    if (entry.path().extension() == ".safetensors") piece = entry.path();
  }
  std::string bytes = read_file(piece.string());
  bytes[bytes.size() / 2] ^= 1;
  write_file_atomic(piece.string(), bytes);
  fs::remove_all(target + "/model");
  const ChildResult result = run_child(resume_command(target));
  EXPECT_EQ(result.exit_status, 0) << result.err;
  EXPECT_NE(result.err.find(fs::path(newest->folder()).filename().string()), std::string::npos) << result.err;
  EXPECT_EQ(outcome_of(target), expected_);
}

// The comparison itself: another seed must differ in every part.
TEST_P(KillResume, AnotherSeedDiffers) {
  const std::string target = run("other");
  std::vector<std::string> command = start_command(target);
  command.insert(command.end(), {"--debug.seed", "7"});
  ASSERT_EQ(run_child(command).exit_status, 0);
  const Outcome other = outcome_of(target);
  EXPECT_NE(other.weights, expected_.weights);
  EXPECT_NE(other.checkpoint, expected_.checkpoint);
  EXPECT_NE(other.run_state, expected_.run_state);
  EXPECT_NE(other.metrics, expected_.metrics);
}

INSTANTIATE_TEST_SUITE_P(Saves, KillResume, ::testing::Values("disabled", "async"), [](const auto& info) {
  return std::string(info.param) == "async" ? "async" : "sync";
});

}  // namespace
}  // namespace furrow
