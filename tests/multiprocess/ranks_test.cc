// Training on several processes ends with the bits of one, also when the launcher or a rank is killed on the
// way and the run goes on with another number of ranks.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <iostream>
#include <random>

#include "furrow/base/file.h"
#include "furrow/observe/summary.h"
#include "tests/testing/outcome.h"
#include "tests/testing/rank_job.h"
#include "tests/testing/rank_runs.h"

namespace furrow {
namespace {

using testing::ChildResult;
using testing::kPipeline;
using testing::kReplicate;
using testing::kSchedule;
using testing::kShard;
using testing::kStage;
using testing::Outcome;
using testing::run_child;

class Ranks : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    runs_ = new testing::RankRuns;
    const ChildResult result = run_child(runs_->start(runs_->run("one"), 0));
    ASSERT_EQ(result.exit_status, 0) << result.err;
    expected_ = new Outcome(testing::outcome_of(runs_->run("one")));
  }
  static void TearDownTestSuite() {
    delete runs_;
    delete expected_;
  }

  static void expect_equal(const std::string& run) {
    EXPECT_EQ(testing::difference(testing::outcome_of(run), *expected_), "") << run;
  }

  static testing::RankRuns* runs_;
  static Outcome* expected_;
};
testing::RankRuns* Ranks::runs_ = nullptr;
Outcome* Ranks::expected_ = nullptr;

struct LayoutCase {
  const char* name;
  int ranks;
  std::vector<std::string> settings;
};

observe::Summary summary_of(const std::string& run) {
  return observe::parse_summary(read_file(run + "/summary.json"));
}

// What a user is shown of a run that draws its pictures too: every kind, workspace included.  Of data the
// plan is what there may be: how many batches are ready at once, of two loaders while the model is validated,
// is a matter of time.
void expect_memory_as_planned(const observe::Summary& summary) {
  for (size_t k = 0; k < kMemoryKinds; ++k) {
    const auto kind = static_cast<MemoryKind>(k);
    const auto planned = static_cast<double>(summary.planned_memory_bytes[k]);
    EXPECT_TRUE(planned > 0 || kind == MemoryKind::kGathered) << to_string(kind);
    const double less = kind == MemoryKind::kData ? 0.25 : 0.02;
    EXPECT_LE(static_cast<double>(summary.memory_bytes[k]), 1.02 * planned) << to_string(kind);
    EXPECT_GE(static_cast<double>(summary.memory_bytes[k]), (1 - less) * planned) << to_string(kind);
  }
}

class RankLayouts : public Ranks, public ::testing::WithParamInterface<LayoutCase> {};

TEST_P(RankLayouts, EndWithTheBitsOfOneProcess) {
  const std::string run = runs_->run(GetParam().name);
  const ChildResult result = run_child(runs_->start(run, GetParam().ranks, GetParam().settings));
  ASSERT_EQ(result.exit_status, 0) << result.err;
  expect_equal(run);
  const observe::Summary summary = summary_of(run);
  expect_memory_as_planned(summary);
  ASSERT_TRUE(summary.audit.has_value());
  EXPECT_EQ(summary.audit->ranks, GetParam().ranks);
  for (int rank = 0; rank < GetParam().ranks; ++rank) {
    EXPECT_TRUE(path_exists(run + "/logs/rank-" + std::to_string(rank) + ".log"));
  }
}

INSTANTIATE_TEST_SUITE_P(All, RankLayouts,
                         ::testing::Values(LayoutCase{"replicate2", 2, {kReplicate, "2", kShard, "1"}},
                                           LayoutCase{"replicate4", 4, {kReplicate, "4", kShard, "1"}},
                                           LayoutCase{"zero1", 2, {kShard, "2", kStage, "1"}},
                                           LayoutCase{"zero2", 2, {kShard, "2", kStage, "2"}},
                                           LayoutCase{"zero3", 2, {}},
                                           LayoutCase{"hybrid4", 4, {kReplicate, "2", kShard, "2"}},
                                           LayoutCase{"pipeline2", 2, {kPipeline, "2"}},
                                           LayoutCase{"pipeline3", 3, {kPipeline, "3", kSchedule, "ZBH1"}},
                                           LayoutCase{"pipeline2x2", 4, {kPipeline, "2", kStage, "3"}}),
                         [](const auto& info) { return std::string(info.param.name); });

// A run that goes on holds the best model that it found in the checkpoint, and no second one beside a better.
// Where a save behind training reads that one, a second; its snapshots are planned too.
TEST_F(Ranks, AResumedRunHoldsWhatIsPlanned) {
  for (const std::string stage : {"1", "2", "3"}) {
    for (const std::string mode : {"disabled", "async"}) {
      SCOPED_TRACE("zero_stage " + stage + ", async_mode " + mode);
      const std::vector<std::string> settings = {kShard, "2", kStage, stage, "--checkpoint.async_mode", mode};
      const std::string run = runs_->run("resumed" + stage + mode);
      const ChildResult killed = run_child(runs_->start(run, 2, settings),
                                           {.environment = {{"FURROW_FAILPOINTS", "train.step=kill@35"}}});
      ASSERT_NE(killed.exit_status, 0);
      const ChildResult resumed = run_child(runs_->resume(run, 2, settings));
      ASSERT_EQ(resumed.exit_status, 0) << resumed.err;
      EXPECT_THAT(resumed.err, ::testing::HasSubstr("resuming at step"));
      expect_equal(run);
      const observe::Summary summary = summary_of(run);
      expect_memory_as_planned(summary);
      // Pictures of a model in parts take a whole one, after the parts.
      const auto parameters = static_cast<size_t>(MemoryKind::kParameters);
      const int64_t drawn = summary.closing_memory_bytes[parameters];
      if (stage == "3") {
        EXPECT_GT(drawn, summary.memory_bytes[parameters]);
        EXPECT_LE(drawn, 2 * summary.memory_bytes[parameters]);
      } else {
        EXPECT_EQ(drawn, 0);
      }
    }
  }
}

TEST_F(Ranks, AnotherSeedDiffers) {
  const std::string run = runs_->run("seed");
  ASSERT_EQ(run_child(runs_->start(run, 2, {"--debug.seed", "7"})).exit_status, 0);
  EXPECT_NE(testing::difference(testing::outcome_of(run), *expected_), "");
}

// Data parallel, or stages x data parallel.
LayoutCase on(int ranks, int stages = 1) {
  return {"", ranks, {kPipeline, std::to_string(stages), kSchedule, "1F1B"}};
}

// From layout to layout, each but the last killed with `victim` somewhere on the way.
void kill_and_go_on(const testing::RankRuns& runs, const std::string& run, bool launcher,
                    std::mt19937& random, const std::vector<LayoutCase>& layouts) {
  for (size_t i = 0; i < layouts.size(); ++i) {
    const bool begun = std::filesystem::exists(run + "/config.toml");
    const LayoutCase& layout = layouts[i];
    const auto command = begun ? runs.resume(run, layout.ranks, layout.settings)
                               : runs.start(run, layout.ranks, layout.settings);
    testing::Background job(command, {});
    if (i + 1 == layouts.size()) {
      ASSERT_EQ(job.wait().exit_status, 0) << job.wait().err;
      return;
    }
    const int64_t step = std::uniform_int_distribution<int64_t>(1, 15)(random) + 15 * static_cast<int64_t>(i);
    testing::wait_until([&] { return job.ended() || testing::logged_step(run) >= step; });
    const auto ranks = testing::children_of(job.pid());
    if (job.ended() || ranks.empty()) continue;  // it finished first
    kill(launcher ? job.pid() : ranks[random() % ranks.size()], SIGKILL);
    job.wait();
    for (const pid_t rank : ranks) {
      EXPECT_TRUE(testing::wait_until([&] { return !testing::runs(rank); }, 2)) << "an orphan";
    }
  }
}

TEST_F(Ranks, AKilledLauncherOrRankAndAnotherNumberOfRanksChangeNothing) {
  const char* given = std::getenv("FURROW_TEST_SEED");
  const unsigned seed = given != nullptr ? static_cast<unsigned>(std::stoul(given)) : std::random_device()();
  std::cout << "FURROW_TEST_SEED=" << seed << "\n";
  std::mt19937 random(seed);
  for (const bool launcher : {true, false, true, false}) {
    const std::string run = runs_->run("killed" + std::to_string(random()));
    kill_and_go_on(*runs_, run, launcher, random, {on(2), on(4), on(1), on(2)});
    if (HasFatalFailure()) return;
    expect_equal(run);
  }
}

TEST_F(Ranks, AKilledStageAndAnotherPipelineChangeNothing) {
  const char* given = std::getenv("FURROW_TEST_SEED");
  const unsigned seed = given != nullptr ? static_cast<unsigned>(std::stoul(given)) : std::random_device()();
  std::cout << "FURROW_TEST_SEED=" << seed << "\n";
  std::mt19937 random(seed);
  const std::string run = runs_->run("killed_stages");
  kill_and_go_on(*runs_, run, false, random, {on(4, 2), on(3, 3), on(2), on(2, 2)});
  if (HasFatalFailure()) return;
  expect_equal(run);
}

TEST_F(Ranks, SigtermStopsAllAfterTheSameStepAndTheRunGoesOn) {
  const std::string run = runs_->run("sigterm");
  testing::Background job(runs_->start(run, 2), {});
  testing::wait_until([&] { return job.ended() || testing::logged_step(run) >= 10; });
  kill(job.pid(), SIGTERM);
  const ChildResult& stopped = job.wait();
  EXPECT_TRUE(stopped.exit_status == 128 + SIGTERM || stopped.exit_status == 0) << stopped.err;
  if (stopped.exit_status != 0) {
    const observe::Summary summary = summary_of(run);
    EXPECT_EQ(summary.status, "interrupted");
  }
  const ChildResult resumed = run_child(runs_->resume(run, 4));
  ASSERT_EQ(resumed.exit_status, 0) << resumed.err;
  expect_equal(run);
}

// A process below a terminal of its own, which the test closes.
class OnTerminal {
 public:
  explicit OnTerminal(const std::vector<std::string>& command) {
    std::vector<char*> words;
    for (const std::string& word : command) words.push_back(const_cast<char*>(word.c_str()));
    words.push_back(nullptr);
    pid_ = ::forkpty(&terminal_, nullptr, nullptr, nullptr);
    if (pid_ == 0) ::_exit(::execv(words[0], words.data()));
    ::fcntl(terminal_, F_SETFL, O_NONBLOCK);
  }
  void read_all() {
    char buffer[4096];
    while (::read(terminal_, buffer, sizeof(buffer)) > 0) {
    }
  }
  // Closes the terminal; how the process ended.
  int hang_up() {
    ::close(terminal_);
    int status = 0;
    ::waitpid(pid_, &status, 0);
    return status;
  }

 private:
  int terminal_ = -1;
  pid_t pid_ = -1;
};

TEST_F(Ranks, ATerminalThatClosesStopsAllAfterTheSameStep) {
  const std::string run = runs_->run("hangup");
  OnTerminal job(runs_->start(run, 2));
  testing::wait_until(
      [&] {
        job.read_all();
        return testing::logged_step(run) >= 10;
      },
      300);  // a terminal is a session of its own, which a crowded machine may give little time
  const int status = job.hang_up();
  ASSERT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
  EXPECT_TRUE(WEXITSTATUS(status) == 128 + SIGHUP || WEXITSTATUS(status) == 0) << WEXITSTATUS(status);
  if (WEXITSTATUS(status) != 0) {
    EXPECT_EQ(summary_of(run).status, "interrupted");
  }
  const ChildResult resumed = run_child(runs_->resume(run, 1));
  ASSERT_EQ(resumed.exit_status, 0) << resumed.err;
  expect_equal(run);
}

}  // namespace
}  // namespace furrow
