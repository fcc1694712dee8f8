// What the other ranks say, and how soon they end, when one rank dies, stops, throws, is cut off or does not
// fit.  Each case three times, 100 times with FURROW_TEST_FULL=1, or as FURROW_TEST_REPEATS says; on three
// ranks, or FURROW_TEST_RANKS.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/comm/socket.h"
#include "tests/testing/processes.h"
#include "tests/testing/rank_job.h"
#include "tests/testing/strangers.h"
#include "tests/testing/told.h"

namespace furrow {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using testing::Ended;
using ::testing::HasSubstr;
using testing::Processes;

constexpr double kNanosecondsPerSecond = 1e9;

std::string environment(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : otherwise;
}

std::string program() { return environment("FURROW_BUILD_DIR", "build/release") + "/test_bin/comm_rank"; }
int repeats() {
  const char* otherwise = std::getenv("FURROW_TEST_FULL") != nullptr ? "100" : "3";
  return std::stoi(environment("FURROW_TEST_REPEATS", otherwise));
}

const int kSize = std::stoi(environment("FURROW_TEST_RANKS", "3"));

using Words = std::vector<std::string>;

class CommFaults : public ::testing::TestWithParam<const char*> {
 protected:
  // Ranks that run for ever, unless somebody fails; `own` adds words for one rank.
  void start(const std::vector<std::string>& words, int own_rank = -1,
             const std::vector<std::string>& own = {}) {
    const int says = says_ < 0 ? own_rank : says_;
    if (port_ == 0) port_ = comm::local_port(*comm::listen_at("127.0.0.1", 0));
    for (int rank = first_; rank < last_; ++rank) {
      std::vector<std::string> command = below_rank_ < 0 || rank == below_rank_ ? below_ : Words();
      for (const std::string& word :
           {program(), std::string("--steps"), steps_, std::string("--transport"), std::string(GetParam())}) {
        command.push_back(word);
      }
      command.insert(command.end(), words.begin(), words.end());
      if (rank == own_rank) command.insert(command.end(), own.begin(), own.end());
      testing::Variables variables = {{"RANK", std::to_string(rank == own_rank ? says : rank)},
                                      {"WORLD_SIZE", std::to_string(kSize)},
                                      {"MASTER_ADDR", "127.0.0.1"},
                                      {"MASTER_PORT", std::to_string(port_)},
                                      {"FURROW_JOB_TOKEN", fmt::format("secret {}", port_)}};
      if (rank == own_rank && !failpoints_.empty()) variables.emplace_back("FURROW_FAILPOINTS", failpoints_);
      ranks_->start(command, variables);
    }
  }

  void await_running() {
    for (size_t rank = 0; rank < static_cast<size_t>(kSize); ++rank) {
      ASSERT_TRUE(ranks_->await_output(rank, "running")) << ranks_->await_end(rank).err;
    }
  }

  // Every rank but `culprit` has ended within `seconds` of `since_ns`, naming it, what it was itself at, and
  // how far the culprit had come.
  void expect_ends(int culprit, int64_t since_ns, double seconds,
                   const ::testing::Matcher<std::string>& how) {
    const pid_t pid = ranks_->pid(static_cast<size_t>(culprit));
    expect_all_end(culprit, since_ns, seconds, AllOf(how, testing::TellsOfTheFault(culprit, pid)));
  }
  void expect_all_end(int culprit, int64_t since_ns, double seconds,
                      const ::testing::Matcher<std::string>& what) {
    for (int rank = 0; rank < kSize; ++rank) {
      if (rank == culprit) continue;
      const Ended ended = ranks_->await_end(static_cast<size_t>(rank));
      SCOPED_TRACE(fmt::format("rank {}: {}", rank, ended.err));
      EXPECT_GT(ended.exit_status, 0);
      const double after = static_cast<double>(ended.at_ns - since_ns) / kNanosecondsPerSecond;
      ends_s_.push_back(after);
      EXPECT_LT(after, seconds);
      EXPECT_THAT(ended.err, what);
      // Ranks of one collective are at most one apart, and a rank's memory says where it is.
      const testing::ToldNumbers told = testing::told_numbers(ended.err);
      if (told.last >= 0 && std::string(GetParam()) == "auto" && !goes_on_) {
        EXPECT_LE(std::abs(told.own - told.last), 1);
      }
    }
  }

  void begin() {
    ranks_ = std::make_unique<Processes>();
    port_ = 0;
  }

  // Every rank says that it is rank 0 that cannot open more, and how.
  void expect_lack_of_rank_zero(const ::testing::Matcher<std::string>& how) {
    const auto matcher = AllOf(testing::NamesRank(0, ranks_->pid(0)), HasSubstr("`ulimit -n`"), how);
    const Ended zero = ranks_->await_end(0);
    EXPECT_EQ(zero.exit_status, exit_status(ErrorCode::kResourceExhausted));
    EXPECT_THAT(zero.err, matcher);
    expect_all_end(0, zero.at_ns, 1.0, matcher);
  }

  // `body`, on fresh ranks each time.
  template <class Body>
  void repeat(const Body& body) {
    for (int i = 0; i < repeats() && !HasFatalFailure(); ++i) {
      begin();
      body(i);
    }
    if (ends_s_.empty()) return;
    std::ranges::sort(ends_s_);
    fmt::print(
        "{}: {} repetitions on {} ranks; the others ended {:.3f} s (median), {:.2f} s (worst) after it\n",
        ::testing::UnitTest::GetInstance()->current_test_info()->name(), repeats(), kSize,
        ends_s_[ends_s_.size() / 2], ends_s_.back());
  }

  std::unique_ptr<Processes> ranks_;
  Words below_;                   // what starts the ranks
  int below_rank_ = -1;           // or this one alone
  int first_ = 0, last_ = kSize;  // of those that start() starts
  int port_ = 0;
  std::string steps_ = "1000000000";
  int says_ = -1;               // the number that start()'s own_rank says it is; -1: its own
  std::string failpoints_;      // of start()'s own_rank
  bool goes_on_ = false;        // the rank at fault, until it hears of it
  std::vector<double> ends_s_;  // of ranks, after the fault
};

TEST_P(CommFaults, Killed) {
  repeat([&](int i) {
    const int culprit = i % kSize;
    start({});
    ASSERT_NO_FATAL_FAILURE(await_running());
    const int64_t since = testing::monotonic_ns();
    ranks_->send(static_cast<size_t>(culprit), SIGKILL);
    expect_ends(culprit, since, 1.0, HasSubstr("end"));
  });
}

TEST_P(CommFaults, Stopped) {
  repeat([&](int i) {
    const int culprit = (i + 1) % kSize;
    start({"--timeout", "1"});
    ASSERT_NO_FATAL_FAILURE(await_running());
    const int64_t since = testing::monotonic_ns();
    ranks_->send(static_cast<size_t>(culprit), SIGSTOP);
    // The watch over ranks and the operation have the same time-out, and on a busy machine either is first.
    expect_ends(culprit, since, 2.5,
                AnyOf(HasSubstr("has been silent for"), HasSubstr("did not answer in time")));
    ranks_->send(static_cast<size_t>(culprit), SIGCONT);  // it learns that it was given up
    EXPECT_GT(ranks_->await_end(static_cast<size_t>(culprit)).exit_status, 0);
  });
}

// Ctrl-Z and fg, a scheduler that suspends the job, a container that is frozen: nobody was silent but all.
// Later than its time-out it still works, as a rank that is killed then is what the others end with.
TEST_P(CommFaults, AJobThatIsStoppedAsAWholeGoesOn) {
  begin();
  start({"--timeout", "1"});
  ASSERT_NO_FATAL_FAILURE(await_running());
  const auto all = [&](int signal) {
    for (size_t rank = 0; rank < static_cast<size_t>(kSize); ++rank) ranks_->send(rank, signal);
  };
  all(SIGSTOP);
  ::usleep(2'500'000);
  all(SIGCONT);
  ::usleep(1'500'000);
  const int64_t since = testing::monotonic_ns();
  ranks_->send(1, SIGKILL);
  expect_ends(1, since, 1.0, HasSubstr("ended"));
}

TEST_P(CommFaults, Throws) {
  repeat([&](int i) {
    const int culprit = i % kSize;
    start({"--fault", "throw", "--fault-step", "50", "--fault-rank", std::to_string(culprit)});
    const Ended ended = ranks_->await_end(static_cast<size_t>(culprit));
    EXPECT_EQ(ended.exit_status, 11);
    EXPECT_THAT(ended.err, HasSubstr("the shard is damaged"));
    EXPECT_THAT(ended.err, testing::NamesRank(culprit, ranks_->pid(static_cast<size_t>(culprit))));
    EXPECT_TRUE(testing::tells_progress(ended.err)) << ended.err;
    expect_ends(culprit, ended.at_ns, 1.0, HasSubstr("the shard is damaged"));
  });
}

TEST_P(CommFaults, ExitsQuietly) {
  repeat([&](int i) {
    const int culprit = i % kSize;
    start({"--fault", "exit", "--fault-step", "50", "--fault-rank", std::to_string(culprit)});
    const Ended ended = ranks_->await_end(static_cast<size_t>(culprit));
    expect_ends(culprit, ended.at_ns, 1.0, HasSubstr("end"));
  });
}

// Every socket of a rank closes while it lives on: it ends, too.
TEST_P(CommFaults, SocketsClose) {
  goes_on_ = true;
  repeat([&](int i) {
    const int culprit = i % kSize;
    start({"--fault", "close", "--fault-step", "50", "--fault-rank", std::to_string(culprit)});
    const Ended ended = ranks_->await_end(static_cast<size_t>(culprit));
    EXPECT_GT(ended.exit_status, 0);
    expect_ends(culprit, ended.at_ns, 1.0, HasSubstr("ended its connection"));
  });
}

// One that computes for ever is no silent rank; the operation that waits for it has a deadline.
TEST_P(CommFaults, Stalls) {
  begin();
  start({"--timeout", "1", "--fault", "stall", "--fault-step", "50", "--fault-rank", "1"});
  await_running();
  expect_ends(1, testing::monotonic_ns(), 2.5, ::testing::_);
}

// Before anybody has reported anything to the store.
TEST_P(CommFaults, StoppedAtOnce) {
  begin();
  start({"--timeout", "1", "--announce", "0"});
  ASSERT_NO_FATAL_FAILURE(await_running());
  const int64_t since = testing::monotonic_ns();
  ranks_->send(1, SIGSTOP);
  expect_ends(1, since, 2.5, AnyOf(HasSubstr("has been silent for"), HasSubstr("in time")));
}

TEST_P(CommFaults, AnotherConfiguration) {
  repeat([&](int i) {
    const int culprit = 1 + i % (kSize - 1);
    start({"--config", "[optimizer]\nlr = 0.1\n"}, culprit, {"--config", "[optimizer]\nlr = 0.5\n"});
    const int64_t since = ranks_->await_end(static_cast<size_t>(culprit)).at_ns;
    expect_all_end(culprit, since, 1.0,
                   AllOf(testing::NamesRank(culprit, ranks_->pid(static_cast<size_t>(culprit))),
                         HasSubstr("has optimizer.lr = 0.5, but rank 0 (host "),
                         HasSubstr("has optimizer.lr = 0.1: start every rank")));
  });
}

// Each process may open so many files at most, or only until it asks for more; it begins with three, however
// many whoever runs the test has left open.
Words below_a_limit(const std::string& limit, int files = 12) {
  return {"/bin/bash", "-c",
          fmt::format("for fd in /proc/self/fd/*; do fd=${{fd##*/}}; [ $fd -le 2 ] || eval \"exec $fd>&-\"; "
                      "done; ulimit {} {}; exec \"$0\" \"$@\"",
                      limit, files)};
}

struct Descriptors {
  size_t sockets = 0;
  int least_free = 0;
};
Descriptors descriptors_of(pid_t pid) {
  Descriptors found;
  std::set<int> open;
  std::error_code gone;  // between listing and looking
  for (const auto& entry : std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", pid), gone)) {
    open.insert(std::stoi(entry.path().filename()));
    if (std::filesystem::read_symlink(entry.path(), gone).string().starts_with("socket:")) ++found.sockets;
  }
  while (open.contains(found.least_free)) ++found.least_free;
  return found;
}

TEST_P(CommFaults, TooFewDescriptorsAreNamed) {
  begin();
  below_ = below_a_limit("-n");
  start({});
  for (size_t rank = 0; rank < static_cast<size_t>(kSize); ++rank) {
    const Ended ended = ranks_->await_end(rank);
    EXPECT_EQ(ended.exit_status, 10) << ended.err;
    EXPECT_THAT(ended.err, HasSubstr("Too many open files: this process may have 12 files and sockets open"));
    EXPECT_THAT(ended.err, HasSubstr("`ulimit -n`"));
  }
}

// Rank 0 sees at once that it cannot meet so many, and stays until the others know.
TEST_P(CommFaults, TooFewDescriptorsOfRankZeroAreHeardByAll) {
  repeat([&](int) {
    below_ = below_a_limit("-n", 8);
    below_rank_ = 0;
    start({});
    expect_lack_of_rank_zero(AllOf(HasSubstr(fmt::format(
        "cannot meet the ranks of a world of {}, which takes {} more files and sockets where 5 can be "
        "opened: Too many open files: this process may have 8 files and sockets open at once; raise that "
        "to {} with `ulimit -n`",
        kSize, kSize + 8, kSize + 11))));
  });
}

// Another rank that cannot open enough has no connection yet to say so: it makes one, if it must of its
// standard input, and every rank ends at once instead of waiting for it.
TEST_P(CommFaults, TooFewDescriptorsOfAnyRankAreHeardByAll) {
  repeat([&](int i) {
    const int culprit = 1 + i % (kSize - 1), room = i % 3;
    start({}, culprit, {"--room", std::to_string(room)});
    const auto matcher = AllOf(testing::NamesRank(culprit, ranks_->pid(static_cast<size_t>(culprit))),
                               HasSubstr(fmt::format("cannot join a world of {} ranks, which takes ", kSize)),
                               HasSubstr(fmt::format("where {} can be opened", room)),
                               HasSubstr("raise that to "), HasSubstr("`ulimit -n`"));
    const Ended ended = ranks_->await_end(static_cast<size_t>(culprit));
    EXPECT_EQ(ended.exit_status, exit_status(ErrorCode::kResourceExhausted)) << ended.err;
    EXPECT_THAT(ended.err, matcher);
    expect_all_end(culprit, ended.at_ns, 1.0, matcher);
  });
}

// It runs out while the others come: those who knock are let in one by one, to hear of it.
TEST_P(CommFaults, DescriptorsThatRunOutWhileRanksComeAreHeardByAll) {
  repeat([&](int) {
    first_ = 0;
    last_ = kSize - 1;
    start({});
    const pid_t zero = ranks_->pid(0);
    const auto inside =
        static_cast<size_t>(2 + (kSize - 1));  // the port, the own connection, each at the store
    ASSERT_TRUE(testing::wait_until([&] { return descriptors_of(zero).sockets == inside; }));
    const auto least = static_cast<rlim_t>(descriptors_of(zero).least_free);
    const rlimit limit{least, least};
    ASSERT_EQ(::prlimit(zero, RLIMIT_NOFILE, &limit, nullptr), 0);
    first_ = std::exchange(last_, kSize);
    start({});
    expect_lack_of_rank_zero(HasSubstr(fmt::format(
        "cannot accept a connection: Too many open files: this process may have {} files", least)));
  });
}

TEST_P(CommFaults, ALowSoftLimitIsRaised) {
  begin();
  below_ = below_a_limit("-Sn");
  steps_ = "5";
  start({});
  for (size_t rank = 0; rank < static_cast<size_t>(kSize); ++rank) {
    const Ended ended = ranks_->await_end(rank);
    EXPECT_EQ(ended.exit_status, 0) << ended.err;
  }
}

// At once, not when the time to come is over.
TEST_P(CommFaults, TwoOfOneNumber) {
  for (const int twice : {0, 1}) {
    begin();
    says_ = twice;
    start({}, 2);
    for (size_t rank = 0; rank < static_cast<size_t>(kSize); ++rank) {
      const Ended ended = ranks_->await_end(rank);
      EXPECT_GT(ended.exit_status, 0);
      EXPECT_THAT(ended.err, HasSubstr(fmt::format("two processes say that they are rank {}: ", twice)));
      for (const size_t each : {static_cast<size_t>(twice), size_t{2}})
        EXPECT_THAT(ended.err, testing::NamesRank(twice, ranks_->pid(each)));
    }
  }
}

// Before, while and after ranks meet, somebody calls at every port that they have, again and again: the job
// starts, works, and notices a rank's end as if nobody had.  Afterwards nobody but the store listens.
TEST_P(CommFaults, StrangersAtEveryPortDisturbNothing) {
  const bool over_tcp = std::string(GetParam()) == "tcp";
  failpoints_ = "comm.join=delay:2000";  // of the last rank: the others' ports are open meanwhile
  repeat([&](int i) {
    const int culprit = i % kSize;
    start({"--settle", "3000"}, kSize - 1);
    std::vector<pid_t> processes;
    for (size_t rank = 0; rank < static_cast<size_t>(kSize); ++rank) processes.push_back(ranks_->pid(rank));
    const testing::Strangers strangers(processes);
    ASSERT_NO_FATAL_FAILURE(await_running());
    const int64_t before = strangers.calls();
    ASSERT_TRUE(testing::wait_until([&] { return strangers.calls() > before + 300; }));
    const auto called = strangers.called();
    for (int rank = 0; rank < kSize; ++rank) {
      const pid_t pid = processes[static_cast<size_t>(rank)];
      EXPECT_EQ(testing::listening_ports(pid).size(), rank == 0 ? 1U : 0U);
      const size_t ports = (rank == 0 ? 1U : 0U) + (over_tcp && rank < kSize - 1 ? 1U : 0U);
      EXPECT_GE(called.contains(pid) ? called.at(pid).size() : 0, ports) << "rank " << rank;
    }
    const int64_t since = testing::monotonic_ns();
    ranks_->send(static_cast<size_t>(culprit), SIGKILL);
    expect_ends(culprit, since, 1.0, HasSubstr("end"));
  });
}

// A rank that fails before it joins, where whoever started rank 0 has gone: it waits for nobody that nobody
// starts.
TEST_P(CommFaults, AnOrphanDoesNotStayForOthers) {
  begin();
  last_ = 1;
  below_ = {"/bin/sh", "-c", "\"$0\" \"$@\" & sleep 1"};  // ends, and leaves it behind
  start({});
  first_ = 1, last_ = 2;
  below_.clear();
  start({}, 1, {"--room", "0"});
  EXPECT_EQ(ranks_->await_end(1).exit_status, exit_status(ErrorCode::kResourceExhausted));
  const int64_t since = testing::monotonic_ns();
  const Ended zero = ranks_->await_end(0);  // with the last process that writes there
  EXPECT_LT(static_cast<double>(zero.at_ns - since) / kNanosecondsPerSecond, 20);  // of 60
  EXPECT_THAT(zero.err, AllOf(HasSubstr("error: "), HasSubstr("cannot join a world of")));
}

INSTANTIATE_TEST_SUITE_P(Transports, CommFaults, ::testing::Values("tcp", "auto"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace furrow
