// The launcher with shell scripts as ranks.  tests/multiprocess has it with real ones.
#include "apps/furrow/launcher.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "apps/furrow/launch_environment.h"
#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/process.h"
#include "tests/testing/child.h"

namespace furrow::app {
namespace {

using testing::ChildOptions;
using testing::ChildResult;

LaunchRequest script(const std::string& text, int ranks = 2) {
  LaunchRequest request;
  request.program = "/bin/sh";
  request.words = {"-c", text};
  request.ranks = ranks;
  return request;
}

// In a process of its own, as the binary does it.
ChildResult run(const LaunchRequest& request, const ChildOptions& options = {}) {
  return testing::run_forked(
      [&request] {
        const Launched launched = launch(request);
        if (!launched.error.empty()) std::fprintf(stderr, "final: %s\n", launched.error.c_str());
        return launched.exit_status;
      },
      options);
}

// "name value" lines of stderr, with the rank in front or not: name -> values, sorted.
std::vector<std::string> values_of(const std::string& text, const std::string& name) {
  std::vector<std::string> values;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const size_t at = line.find(name + " ");
    if (at != std::string::npos) values.push_back(line.substr(at + name.size() + 1));
  }
  std::sort(values.begin(), values.end());
  return values;
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// Sends `number` to the launcher once `ranks` lines say "ready".
ChildOptions signal_when_ready(std::vector<int> numbers, size_t ranks = 2) {
  ChildOptions options;
  options.watch = [=, sent = false](pid_t launcher, const ChildResult& so_far) mutable {
    if (sent || values_of(so_far.err, "ready").size() < ranks) return;
    sent = true;
    for (const int number : numbers) {
      kill(launcher, number);
      // One at a time: a signal that is already pending would be lost.
      while (has(read_file("/proc/" + std::to_string(launcher) + "/status"), "ShdPnd:\t0000000000004")) {
      }
    }
  };
  return options;
}

TEST(Launcher, GivesEachRankTheEnvironmentOfTorchrun) {
  const ChildResult result = run(
      script("echo \"me $RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $MASTER_ADDR $OMP_NUM_THREADS\" >&2; "
             "echo \"port $MASTER_PORT\" >&2; echo \"token $FURROW_JOB_TOKEN\" >&2",
             3));
  EXPECT_EQ(result.exit_status, 0) << result.err;
  EXPECT_EQ(values_of(result.err, "me"),
            (std::vector<std::string>{"0 0 3 3 127.0.0.1 1", "1 1 3 3 127.0.0.1 1", "2 2 3 3 127.0.0.1 1"}));
  const auto ports = values_of(result.err, "port"), tokens = values_of(result.err, "token");
  ASSERT_EQ(ports.size(), 3u);
  EXPECT_EQ(ports.front(), ports.back());
  EXPECT_GT(std::stoi(ports.front()), 1023);
  EXPECT_EQ(tokens.front(), tokens.back());
  EXPECT_EQ(tokens.front().size(), 32u);
  EXPECT_NE(values_of(run(script("echo \"token $FURROW_JOB_TOKEN\" >&2")).err, "token"), tokens);
}

TEST(Launcher, ThreadsAreTheUsersWhereGiven) {
  LaunchRequest request = script("echo \"threads $OMP_NUM_THREADS\" >&2", 1);
  EXPECT_EQ(values_of(run(request, {.environment = {{"OMP_NUM_THREADS", "3"}}}).err, "threads")[0], "3");
  request.threads = 2;
  EXPECT_EQ(values_of(run(request, {.environment = {{"OMP_NUM_THREADS", "3"}}}).err, "threads")[0], "2");
}

TEST(Launcher, OnlyRankZeroHasStdoutAndNobodyHasStdin) {
  const ChildResult result = run(script("echo \"from $RANK\"; read -r line || echo \"no stdin\" >&2"));
  EXPECT_EQ(result.out, "from 0\n");
  EXPECT_TRUE(has(result.err, "[rank 1] from 1\n")) << result.err;
  EXPECT_EQ(values_of(result.err, "no"), (std::vector<std::string>{"stdin", "stdin"}));
}

TEST(Launcher, CanTakeTheStdoutOfRankZero) {
  std::string output;
  LaunchRequest request = script("echo \"from $RANK\"");
  request.output = &output;
  const ChildResult result = testing::run_forked([&] {
    const int status = launch(request).exit_status;
    std::printf("<%s>", output.c_str());
    return status;
  });
  EXPECT_EQ(result.out, "<from 0\n>");
}

TEST(Launcher, IndependentRanksKnowNothingOfEachOther) {
  LaunchRequest request = script("echo \"me {rank} ${RANK-none} ${WORLD_SIZE-none}\" >&2", 2);
  request.independent = true;
  EXPECT_EQ(values_of(run(request).err, "me"), (std::vector<std::string>{"0 none none", "1 none none"}));
}

TEST(Launcher, QuietRanksAreHeardWhenTheyFail) {
  LaunchRequest request = script("echo chatter >&2; echo 'furrow: error: bad' >&2; exit 2", 2);
  request.quiet = true;
  EXPECT_EQ(run(request).err, "final: bad\n");
}

TEST(Launcher, TheFirstFailureEndsTheOthersAndIsTheResult) {
  const ChildResult result =
      run(script("if [ $RANK = 1 ]; then echo 'furrow: error: no data' >&2; exit 3; fi; exec sleep 1000"));
  EXPECT_EQ(result.exit_status, 3);
  EXPECT_LT(result.seconds, 5);
  EXPECT_EQ(values_of(result.err, "final:"), std::vector<std::string>{"rank 1: no data"}) << result.err;
  EXPECT_FALSE(has(result.err, "furrow: error")) << "told twice: " << result.err;
}

TEST(Launcher, WhatAllRanksSayIsSaidOnce) {
  const ChildResult result = run(script("echo 'furrow: error: no data\nusage: x' >&2; exit 3", 4));
  EXPECT_EQ(result.exit_status, 3);
  EXPECT_EQ(result.err.substr(result.err.find("final")), "final: no data\nusage: x\n");
}

TEST(Launcher, ASignalledRankIsTheCauseEvenWhenAPeerNoticesFirst) {
  const ChildResult result = run(script(
      "if [ $RANK = 0 ]; then echo 'furrow: error: rank 1 is gone' >&2; exit 8; fi; sleep 0.2; kill -9 $$"));
  EXPECT_EQ(result.exit_status, 128 + SIGKILL);
  EXPECT_TRUE(has(result.err, "final: rank 1 was killed by signal 9")) << result.err;
  EXPECT_TRUE(has(result.err, "[rank 0] error: rank 1 is gone\n")) << result.err;
}

TEST(Launcher, ARankThatPassesOnAnErrorIsNotTheCause) {
  const ChildResult result = run(script(
      "if [ $RANK = 0 ]; then echo 'furrow: error: rank 1 failed: no data' >&2; exit 3; fi; sleep 0.1; "
      "echo 'furrow: error: no data' >&2; exit 3"));
  EXPECT_EQ(result.exit_status, 3);
  EXPECT_TRUE(has(result.err, "final: rank 1: no data")) << result.err;
  EXPECT_FALSE(has(result.err, "rank 1 failed")) << result.err;
}

// The same where each says its own name and how far it was, and whichever comes first.
TEST(Launcher, ARankThatPassesOnAnErrorWithItsOwnNameIsNotTheCause) {
  for (const char* first : {"0", "1"}) {
    const ChildResult result = run(script(
        std::string("[ $RANK = ") + first +
        " ] || sleep 0.2; other=; [ $RANK = 0 ] || other='rank 0: '; echo \"furrow: error: rank $RANK (host "
        "a, pid "
        "$$): ${other}no data; last progress: barrier #$RANK in group world, begun 3 ms ago\" >&2; exit 3"));
    EXPECT_EQ(result.exit_status, 3);
    EXPECT_TRUE(has(result.err, "final: rank 0 (host a, pid ") &&
                has(result.err, "): no data; last progress"))
        << result.err;
    EXPECT_FALSE(has(result.err, "rank 0: no data")) << result.err;
  }
}

TEST(Launcher, ACrashNamesItsSignal) {
  const ChildResult result = run(script("[ $RANK = 1 ] || exec sleep 1000; kill -SEGV $$"));
  EXPECT_EQ(result.exit_status, 128 + SIGSEGV);
  EXPECT_TRUE(has(result.err, "rank 1 was killed by signal 11 (Segmentation fault)")) << result.err;
}

TEST(Launcher, AStatusWithoutAWordIsTold) {
  EXPECT_TRUE(has(run(script("exit $RANK")).err, "final: rank 1 ended with status 1"));
}

TEST(Launcher, AStoppedRankIsKilledToo) {
  const ChildResult result = run(script("if [ $RANK = 1 ]; then kill -STOP $$; fi; sleep 0.1; exit 9"));
  EXPECT_EQ(result.exit_status, 9);
  EXPECT_LT(result.seconds, 5);
}

TEST(Launcher, ARankThatFinishesDoesNotEndTheOthers) {
  const ChildResult result = run(script("[ $RANK = 0 ] || exit 0; sleep 1.2; echo done"));
  EXPECT_EQ(result.exit_status, 0);
  EXPECT_EQ(result.out, "done\n");
}

TEST(Launcher, WhatARankStartedGoesWithIt) {
  const ChildResult result = run(script("sleep 1000 & echo \"pid $!\" >&2; exit 0", 1));
  EXPECT_EQ(result.exit_status, 0);
  const int pid = std::stoi(values_of(result.err, "pid").at(0));
  while (kill(pid, 0) == 0 && !has(read_file("/proc/" + std::to_string(pid) + "/stat"), ") Z")) {
  }
}

// Each says its own name and how far it was; what went wrong is one thing.
TEST(Launcher, RanksThatFailAlikeAreOneError) {
  const ChildResult result =
      run(script("echo \"furrow: error: rank $RANK (host a, pid $$): the loss is not finite; "
                 "last progress: barrier #$RANK in group world, begun 3 ms ago\" >&2; exit 7"));
  EXPECT_EQ(result.exit_status, 7);
  EXPECT_TRUE(has(result.err, "final: the loss is not finite\n")) << result.err;
  EXPECT_FALSE(has(result.err, "[rank 1] error:")) << result.err;
}

TEST(Launcher, PassesSignalsOnAndWaitsForTheRanks) {
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) {
    const std::string status = std::to_string(128 + number);
    const ChildResult result = run(script("trap 'sleep 0.1; echo saved; exit " + status +
                                          "' TERM INT HUP; echo ready $$ >&2; "
                                          "while :; do sleep 0.01; done"),
                                   signal_when_ready({number}));
    EXPECT_EQ(result.exit_status, 128 + number) << result.err;
    EXPECT_EQ(result.out, "saved\n");
    EXPECT_TRUE(has(result.err, "[rank 1] saved")) << result.err;
    EXPECT_FALSE(has(result.err, "final")) << result.err;
  }
}

TEST(Launcher, ARankThatCouldNotYetTakeTheSignalEndsTheOthers) {
  const ChildResult result =
      run(script("[ $RANK = 0 ] || trap '' TERM; echo ready $$ >&2; while :; do sleep 0.01; done"),
          signal_when_ready({SIGTERM}));
  EXPECT_EQ(result.exit_status, 128 + SIGTERM);
  EXPECT_LT(result.seconds, 5);
}

// The system and the shell both tell of a terminal that closes.
TEST(Launcher, MoreHangupsAreNoSecondWish) {
  const ChildResult result = run(script("trap 'sleep 0.1; echo saved; exit 129' HUP; echo ready $$ >&2; "
                                        "while :; do sleep 0.01; done"),
                                 signal_when_ready({SIGHUP, SIGHUP, SIGHUP}));
  EXPECT_EQ(result.exit_status, 128 + SIGHUP) << result.err;
  EXPECT_EQ(result.out, "saved\n");
}

TEST(Launcher, TheThirdSignalKills) {
  const ChildResult result = run(script("trap '' TERM; echo ready $$ >&2; while :; do sleep 0.01; done"),
                                 signal_when_ready({SIGTERM, SIGTERM, SIGTERM}));
  EXPECT_EQ(result.exit_status, 128 + SIGTERM);
  EXPECT_LT(result.seconds, 4);
}

TEST(Launcher, NoRankOutlivesALauncherThatIsKilled) {
  prctl(PR_SET_CHILD_SUBREAPER, 1);  // orphans become ours
  const ChildResult result =
      run(script("echo ready $$ >&2; exec sleep 20", 4), signal_when_ready({SIGKILL}, 4));
  EXPECT_EQ(result.signal, SIGKILL);
  for (const std::string& pid : values_of(result.err, "ready")) {
    int status = 0;
    EXPECT_EQ(waitpid(std::stoi(pid), &status, 0), std::stoi(pid));
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  }
}

TEST(Launcher, LogsAppearWithTheRun) {
  testing::TemporaryFolder folder;
  LaunchRequest request = script("echo \"early $RANK\" >&2");
  request.run_folder = folder.path() + "/run";
  run(request);
  EXPECT_FALSE(path_exists(request.run_folder));
  request = script("echo \"early $RANK\" >&2; mkdir -p " + folder.path() + "/run; echo x >" + folder.path() +
                   "/run/config.toml; echo late >&2");
  request.run_folder = folder.path() + "/run";
  run(request);
  EXPECT_EQ(read_file(request.run_folder + "/logs/rank-0.log"), "early 0\nlate\n");
  EXPECT_EQ(read_file(request.run_folder + "/logs/rank-1.log"), "early 1\nlate\n");
}

TEST(Launcher, AProgramThatIsNotThereIsAnError) {
  LaunchRequest request;
  request.program = "/no/such/program";
  const ChildResult result = run(request);
  EXPECT_EQ(result.exit_status, 127);
  EXPECT_TRUE(has(result.err, "final: cannot execute /no/such/program")) << result.err;
}

TEST(Launcher, RanksAreBoundToTheirShare) {
  if (core_count() < 2) GTEST_SKIP() << "one core: ranks are not bound";
  const std::string text = "echo cores $(grep Cpus_allowed_list /proc/self/status) >&2";
  const auto cores = values_of(run(script(text)).err, "cores");
  ASSERT_EQ(cores.size(), 2u);
  EXPECT_NE(cores[0], cores[1]);
  const auto shared = values_of(run(script(text, core_count() + 1)).err, "cores");
  ASSERT_EQ(shared.size(), static_cast<size_t>(core_count()) + 1);
  EXPECT_EQ(shared.front(), shared.back());
}

// A folder as the system has it: each core's processor and the threads of its physical core.
class Topology {
 public:
  void add(int core, const std::string& processor, const std::string& siblings) const {
    const std::string folder = fmt::format("{}/cpu{}/topology", path(), core);
    std::filesystem::create_directories(folder);
    std::ofstream(folder + "/physical_package_id") << processor << "\n";
    std::ofstream(folder + "/thread_siblings_list") << siblings << "\n";
  }
  const std::string& path() const { return folder_.path(); }

 private:
  testing::TemporaryFolder folder_;
};

TEST(Cores, ThreadsOfOnePhysicalCoreAreNeighbours) {
  const Topology topology;
  for (const int core : {0, 1, 2, 3, 4, 5, 6, 7})
    topology.add(core, "0", fmt::format("{},{}", core % 4, core % 4 + 4));
  const std::vector<int> cores = side_by_side({0, 1, 2, 3, 4, 5, 6, 7}, topology.path());
  EXPECT_EQ(cores, (std::vector<int>{0, 4, 1, 5, 2, 6, 3, 7}));
  EXPECT_EQ(shares_of_cores(cores, 2, 1), (std::vector<std::vector<int>>{{0, 4, 1, 5}, {2, 6, 3, 7}}));
}

TEST(Cores, OfOneProcessorAreNeighbours) {
  const Topology topology;
  for (const int core : {0, 1, 2, 3}) topology.add(core, std::to_string(core % 2), std::to_string(core));
  EXPECT_EQ(side_by_side({0, 1, 2, 3}, topology.path()), (std::vector<int>{0, 2, 1, 3}));
  EXPECT_EQ(side_by_side({1, 2, 3}, topology.path()), (std::vector<int>{2, 1, 3}));
}

TEST(Cores, StayAsTheyAreWhereTheSystemSaysNothing) {
  EXPECT_EQ(side_by_side({0, 2, 5}, "/no/such/folder"), (std::vector<int>{0, 2, 5}));
  const Topology topology;
  topology.add(0, "-1", "none");
  topology.add(1, "", "");
  EXPECT_EQ(side_by_side({0, 1, 2}, topology.path()), (std::vector<int>{0, 1, 2}));
}

TEST(Cores, AreSharedEquallyOrNotAtAll) {
  using Shares = std::vector<std::vector<int>>;
  EXPECT_EQ(shares_of_cores({0, 1, 2, 3}, 2, 1), (Shares{{0, 1}, {2, 3}}));
  EXPECT_EQ(shares_of_cores({4, 6, 8}, 2, 1), (Shares{{4}, {6}}));
  EXPECT_EQ(shares_of_cores({0, 1, 2, 3}, 2, 2), (Shares{{0, 1}, {2, 3}}));
  EXPECT_EQ(shares_of_cores({0, 1, 2, 3}, 2, 3), (Shares{{}, {}}));
  EXPECT_EQ(shares_of_cores({0}, 2, 1), (Shares{{}, {}}));
  EXPECT_EQ(shares_of_cores({}, 1, 1), (Shares{{}}));
}

TEST(Ranks, AreANumber) {
  EXPECT_EQ(parse_ranks("1"), 1);
  EXPECT_EQ(parse_ranks("1024"), 1024);
  for (const char* wrong : {"0", "-1", "1025", "two", "", "2x", "1.5", "99999999999"}) {
    try {
      parse_ranks(wrong);
      ADD_FAILURE() << wrong;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      EXPECT_TRUE(has(error.message(), "1 to 1024")) << error.message();
    }
  }
}

}  // namespace
}  // namespace furrow::app
