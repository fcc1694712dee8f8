// Real processes over shared memory: results, a killed rank, a stopped one, nothing left behind.
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <numeric>
#include <set>

#include "furrow/base/clock.h"
#include "furrow/base/file.h"
#include "furrow/comm/communicator.h"
#include "tests/testing/child.h"
#include "tests/testing/run_ranks.h"
#include "tests/testing/told.h"

namespace furrow {
namespace {

using comm::Communicator;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int64_t kSecond = 1'000'000'000;

// Forked ranks of one world.  What a rank's function throws stands in `folder`/error-N; its exit status is 1
// then.
class Ranks {
 public:
  Ranks(int size, const testing::RankFunction& fn, const comm::CommunicatorOptions& options = {}) {
    for (int r = 0; r < size; ++r) {
      const pid_t pid = fork();
      if (pid == 0) _exit(run(r, size, fn, options));
      pids_.push_back(pid);
    }
  }
  ~Ranks() {
    for (const pid_t pid : pids_) kill(pid, SIGKILL);
    while (!pids_.empty()) wait_for_one();
  }

  pid_t pid(int rank) const { return pids_.at(static_cast<size_t>(rank)); }
  const std::vector<pid_t>& pids() const { return pids_; }
  const std::string& folder() const { return folder_.path(); }
  void signal(int rank, int number) const { kill(pid(rank), number); }
  // Waits until the rank has set `name`, as ranks do by FolderRendezvous(folder()).
  void wait_for(const std::string& name) const {
    testing::FolderRendezvous(folder()).get(name, system_clock().monotonic_ns() + 30 * kSecond);
  }
  std::string error(int rank) const {
    const std::string path = fmt::format("{}/error-{}", folder(), rank);
    return path_exists(path) ? read_file(path) : "";
  }

  // Exit statuses by rank, a signal as 128 + number, and how long after `from_ns` the last one ended.
  std::vector<int> wait_all(int64_t from_ns = 0, double* seconds = nullptr) {
    const std::vector<pid_t> order = pids_;
    while (!pids_.empty()) wait_for_one();
    if (seconds != nullptr) *seconds = static_cast<double>(system_clock().monotonic_ns() - from_ns) * 1e-9;
    std::vector<int> by_rank;
    for (const pid_t pid : order) by_rank.push_back(statuses_[pid]);
    pids_.clear();
    return by_rank;
  }

 private:
  int run(int rank, int size, const testing::RankFunction& fn,
          const comm::CommunicatorOptions& options) const {
    try {
      const auto communicator = testing::join_processes(folder(), rank, size, options);
      fn(*communicator);
      return ::testing::Test::HasFailure() ? 2 : 0;
    } catch (const std::exception& error) {
      write_file_atomic(fmt::format("{}/error-{}", folder(), rank), std::string_view(error.what()));
      return 1;
    }
  }
  void wait_for_one() {
    int status = 0;
    const pid_t pid = waitpid(-1, &status, 0);
    if (pid < 0) return pids_.clear();
    statuses_[pid] = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    std::erase(pids_, pid);
  }

  testing::TemporaryFolder folder_;
  std::vector<pid_t> pids_;
  std::map<pid_t, int> statuses_;
};

// Files of /dev/shm that processes have mapped or open, while they have: of these alone, whatever else the
// machine runs.
std::set<std::string> shared_files_of(const std::vector<pid_t>& pids) {
  const std::string_view folder = "/dev/shm/";
  std::set<std::string> names;
  for (const pid_t pid : pids) {
    std::ifstream maps(fmt::format("/proc/{}/maps", pid));
    for (std::string line; std::getline(maps, line);) {
      if (const size_t at = line.find(folder); at != std::string::npos) names.insert(line.substr(at));
    }
    std::error_code gone;
    for (const auto& open : std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", pid), gone)) {
      const std::string target = std::filesystem::read_symlink(open, gone);
      if (target.starts_with(folder)) names.insert(target);
    }
  }
  return names;
}

// Collectives without an end; says "running" after the first ones.
void loop_forever(Communicator& communicator, const std::string& folder) {
  std::vector<float> plain(100'000, 1.0F);
  comm::Memory memory = communicator.allocate(1 << 22);
  for (int i = 0;; ++i) {
    communicator.world().all_reduce(std::span(plain), comm::Reduction::kAvg, "plain");
    communicator.world().all_reduce(memory.as<float>(), comm::Reduction::kAvg, "seen");
    if (i == 3) testing::FolderRendezvous(folder).set(fmt::format("running/{}", communicator.rank()), "");
  }
}

TEST(CommProcesses, EqualBitsWithThreads) {
  const auto body = [](Communicator& communicator,
                       const std::function<void(const std::vector<float>&)>& check) {
    std::vector<float> x(1'000'003);
    for (size_t i = 0; i < x.size(); ++i) {
      x[i] = 1.0F / static_cast<float>(1 + (i * 7 + static_cast<size_t>(communicator.rank()) * 13) % 1009);
    }
    communicator.world().all_reduce(std::span(x));
    std::vector<float> slice(x.size() / 3);
    comm::Memory seen = communicator.allocate(3 * slice.size() * sizeof(float));
    std::copy_n(x.begin(), 3 * slice.size(), seen.as<float>().begin());
    communicator.world().reduce_scatter(std::span<const float>(seen.as<float>()), std::span(slice));
    x.insert(x.end(), slice.begin(), slice.end());
    check(x);
  };
  std::vector<std::vector<float>> expected(3);
  testing::run_ranks(3, [&](Communicator& c) {
    body(c, [&](const std::vector<float>& x) { expected[static_cast<size_t>(c.rank())] = x; });
  });
  Ranks ranks(3, [&](Communicator& c) {
    body(c, [&](const std::vector<float>& x) { EXPECT_EQ(x, expected[static_cast<size_t>(c.rank())]); });
  });
  EXPECT_EQ(ranks.wait_all(), (std::vector<int>{0, 0, 0})) << ranks.error(0);
}

TEST(CommProcesses, AKilledRankEndsTheOthersWithinASecond) {
  const std::set<std::string> inherited = shared_files_of({getpid()});
  for (int round = 0; round < 10; ++round) {
    std::string folder;
    Ranks ranks(3, [&](Communicator& c) { loop_forever(c, ranks.folder()); });
    for (int r = 0; r < 3; ++r) ranks.wait_for(fmt::format("running/{}", r));
    const std::set<std::string> files = shared_files_of(ranks.pids());
    const pid_t victim = ranks.pid(1);
    const int64_t killed_ns = system_clock().monotonic_ns();
    ranks.signal(1, SIGKILL);
    double seconds = 0;
    EXPECT_EQ(ranks.wait_all(killed_ns, &seconds), (std::vector<int>{1, 128 + SIGKILL, 1}));
    EXPECT_LT(seconds, 1.0);
    for (const int r : {0, 2}) {
      EXPECT_THAT(ranks.error(r),
                  AllOf(HasSubstr("rank 1 (host"), HasSubstr(fmt::format("pid {}", victim)),
                        HasSubstr("ended; last progress: "), testing::TellsOfTheFault(1, victim)));
    }
    for (const std::string& file : files)
      EXPECT_TRUE(!path_exists(file) || inherited.contains(file)) << file << " is left behind";
  }
}

// What the test above looks for can be found: a file that is mapped, and one that is open only.
TEST(CommProcesses, SharedFilesOfAProcessAreSeen) {
  const std::string name = fmt::format("/dev/shm/furrow_seen_{}", getpid());
  const int descriptor = open(name.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  if (descriptor < 0) GTEST_SKIP() << "no /dev/shm here";
  ASSERT_EQ(ftruncate(descriptor, 4096), 0);
  EXPECT_TRUE(shared_files_of({getpid()}).contains(name));
  void* const mapped = mmap(nullptr, 4096, PROT_READ, MAP_SHARED, descriptor, 0);
  close(descriptor);
  EXPECT_TRUE(shared_files_of({getpid()}).contains(name));
  munmap(mapped, 4096);
  EXPECT_FALSE(shared_files_of({getpid()}).contains(name));
  std::filesystem::remove(name);
}

TEST(CommProcesses, AStoppedRankMeetsTheDeadline) {
  Ranks ranks(2, [&](Communicator& c) { loop_forever(c, ranks.folder()); }, {.timeout_ms = 300});
  for (int r = 0; r < 2; ++r) ranks.wait_for(fmt::format("running/{}", r));
  ranks.signal(1, SIGSTOP);
  int status = 0;
  waitpid(ranks.pid(0), &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 1);
  EXPECT_THAT(ranks.error(0),
              AllOf(testing::TellsOfTheFault(1, ranks.pid(1)), HasSubstr("did not answer in time")));
}

TEST(CommProcesses, ARankThatThrowsEndsTheOthers) {
  Ranks ranks(3, [&](Communicator& c) {
    c.world().barrier();
    if (c.rank() == 0) {
      const Error error(ErrorCode::kDataLoss, "the disk is gone");
      c.abort(error);
      throw error;
    }
    loop_forever(c, ranks.folder());
  });
  EXPECT_EQ(ranks.wait_all(), (std::vector<int>{1, 1, 1}));
  EXPECT_THAT(ranks.error(2), HasSubstr("the disk is gone"));
}

// A message lies with whoever sent it: when that process is gone, the error is why, not what cannot be read.
TEST(CommProcesses, ARankThatEndsWithAMessageUnreadIsNamed) {
  for (const bool says_why : {true, false}) {
    Ranks ranks(2, [&](Communicator& communicator) {
      const comm::Memory memory = communicator.allocate(1 << 20);
      const std::span<float> floats = memory.as<float>();
      if (communicator.rank() == 1) {
        const comm::Work send = communicator.world().start(comm::Collective{
            .kind = comm::CollectiveKind::kSend, .in = std::as_bytes(floats), .root_or_peer = 0});
        while (communicator.wire_bytes().sent == 0) usleep(1000);  // until it is there to be read
        if (says_why) communicator.abort(Error(ErrorCode::kDataLoss, "its file is damaged"));
        _exit(1);
      }
      const std::string sender = fmt::format("/proc/{}/fd", communicator.roster().ranks[1].pid);
      const int64_t deadline_ns = system_clock().monotonic_ns() + 30 * kSecond;
      std::error_code error;
      while (std::filesystem::directory_iterator(sender, error) != std::filesystem::directory_iterator() &&
             system_clock().monotonic_ns() < deadline_ns)
        usleep(1000);
      communicator.world().recv(floats, 1);
    });
    EXPECT_EQ(ranks.wait_all(), (std::vector<int>{1, 1}));
    EXPECT_THAT(ranks.error(0), AllOf(testing::NamesRank(1, 0), ::testing::Not(HasSubstr("/proc/"))));
    EXPECT_THAT(ranks.error(0), HasSubstr(says_why ? "its file is damaged" : "ended"));
  }
}

TEST(CommProcesses, MoreRanksThanCores) {
  Ranks ranks(12, [](Communicator& c) {
    std::vector<int64_t> x(1000);
    for (int i = 0; i < 20; ++i) {
      std::iota(x.begin(), x.end(), c.rank());
      c.world().all_reduce(std::span(x));
      EXPECT_EQ(x[5], 12 * 5 + 66);
    }
  });
  EXPECT_EQ(ranks.wait_all(), std::vector<int>(12, 0)) << ranks.error(0);
}

}  // namespace
}  // namespace furrow
