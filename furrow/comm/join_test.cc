// Joining a world, ranks as threads: numbers that no launcher gives, transports by choice, leaving and
// failing.
#include "furrow/comm/join.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <mutex>
#include <thread>

#include "furrow/base/clock.h"
#include "furrow/base/log.h"
#include "furrow/comm/socket.h"

namespace furrow::comm {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// A port that was free a moment ago; the fifteen after it are candidates, too.
int free_port() { return local_port(*listen_at("127.0.0.1", 0)); }

World world_of(int rank, int size, int port) {
  World world;
  world.rank = rank;
  world.size = size;
  world.local_rank = world.local_size = world.node = -1;
  world.master_address = "127.0.0.1";
  world.master_port = port;
  world.token = "token " + std::to_string(port);
  return world;
}

JoinOptions tcp() {
  JoinOptions options;
  options.comm.transport = "tcp";
  options.comm.init_timeout_seconds = 60;
  options.comm.train_timeout_seconds = 60;
  return options;
}

std::vector<std::string> run_ranks(int size, const std::function<JoinOptions(int)>& options,
                                   const std::function<void(int, Membership&)>& body) {
  std::vector<std::string> errors(static_cast<size_t>(size));
  std::vector<std::jthread> threads;
  const int port = free_port();
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      std::unique_ptr<Membership> membership;
      try {
        membership = join(world_of(rank, size, port), options(rank));
        body(rank, *membership);
        membership->leave();
      } catch (const Error& error) {
        errors[static_cast<size_t>(rank)] = error.what();
        if (membership) membership->fail(error);
      }
    });
  }
  threads.clear();
  return errors;
}

TEST(Join, NumbersTransportsAndSums) {
  for (const char* transport : {"tcp", "auto"}) {
    const auto options = [&](int) {
      JoinOptions made = tcp();
      made.comm.transport = transport;
      return made;
    };
    const auto errors = run_ranks(4, options, [&](int rank, Membership& membership) {
      EXPECT_EQ(membership.world().local_rank, rank);
      EXPECT_EQ(membership.world().local_size, 4);
      EXPECT_EQ(membership.world().node, 0);
      Communicator& communicator = membership.communicator();
      const std::string used = communicator.transport_of((rank + 1) % 4);
      EXPECT_EQ(used, transport == std::string("tcp") ? "tcp" : "shm");
      for (const size_t size : {size_t{1}, size_t{100'000}}) {
        std::vector<double> x(size, rank + 1);
        communicator.world().all_reduce(std::span(x));
        EXPECT_EQ(x.front(), 10);
        EXPECT_EQ(x.back(), 10);
      }
      membership.store().set("rank " + std::to_string(rank), "here");
      EXPECT_EQ(membership.store().get("rank 3", INT64_MAX / 2), "here");
    });
    for (const std::string& error : errors) EXPECT_EQ(error, "") << transport;
  }
}

TEST(Join, AWorldOfOneIsShort) {
  const auto membership = join({}, {});
  std::vector<float> x = {3};
  membership->communicator().world().all_reduce(std::span(x));
  EXPECT_EQ(x[0], 3);
  membership->store().set("a", "b");
  EXPECT_EQ(membership->store().take("a", 0), "b");
  membership->leave();
}

// The payload of an all-reduce is 2(n-1)/n of its size on each rank, frames and checksums within one percent
// more.
TEST(Join, BytesAreAtTheBound) {
  const auto errors = run_ranks(
      3, [](int) { return tcp(); },
      [&](int, Membership& membership) {
        constexpr size_t kElements = 300'000;
        std::vector<float> x(kElements, 1);
        const WireBytes before = membership.communicator().wire_bytes();
        membership.communicator().world().all_reduce(std::span(x));
        const WireBytes after = membership.communicator().wire_bytes();
        const auto bound = static_cast<int64_t>(kElements * sizeof(float)) * 4 / 3;
        EXPECT_EQ(after.received - before.received, bound);
        EXPECT_LT(after.overhead_received - before.overhead_received, bound / 100);
      });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

TEST(Join, ARankThatFailsEndsTheOthersWithItsReason) {
  const auto errors = run_ranks(
      3, [](int) { return tcp(); },
      [&](int rank, Membership& membership) {
        std::vector<float> x = {1};
        membership.communicator().world().all_reduce(std::span(x), Reduction::kSum, "first");
        if (rank == 1) throw Error(ErrorCode::kDataLoss, "the shard is damaged");
        membership.communicator().world().all_reduce(std::span(x), Reduction::kSum, "second");
      });
  EXPECT_EQ(errors[1], "the shard is damaged");
  for (const int rank : {0, 2}) {
    const std::string& error = errors[static_cast<size_t>(rank)];
    // Of the first, where the failing rank was through with it before this one.
    EXPECT_THAT(error, HasSubstr("of 1 float32 (sum) in group world on rank " + std::to_string(rank)));
    EXPECT_THAT(error, HasSubstr("rank 1 (host "));
    EXPECT_THAT(
        error, HasSubstr("): the shard is damaged; last progress: all_reduce 'first' #0 of 1 float32 (sum)"));
  }
}

TEST(Join, AnotherConfigurationIsRefusedOnEveryRank) {
  const auto options = [](int rank) {
    JoinOptions made = tcp();
    made.config = rank == 1 ? "[optimizer]\nlr = 0.5\n" : "[optimizer]\nlr = 0.1\n";
    return made;
  };
  const auto errors = run_ranks(3, options, [](int, Membership&) { ADD_FAILURE() << "joined"; });
  for (const std::string& error : errors) {
    EXPECT_THAT(error, HasSubstr("rank 1 (host "));
    EXPECT_THAT(error, HasSubstr("has optimizer.lr = 0.5, but rank 0 (host "));
  }
}

TEST(Join, TwoJobsBesideEachOther) {
  const int port = free_port();
  std::vector<std::jthread> threads;
  for (const int job : {0, 1}) {
    for (const int rank : {0, 1}) {
      threads.emplace_back([=] {
        World world = world_of(rank, 2, port);  // the same port, another token
        world.token = "job " + std::to_string(job);
        const auto membership = join(world, tcp());
        std::vector<int32_t> x = {job};
        membership->communicator().world().all_reduce(std::span(x));
        EXPECT_EQ(x[0], 2 * job);
        membership->leave();
      });
    }
  }
}

TEST(Join, AThrottleThatIsNoneIsToldToAll) {
  for (const int odd : {0, 1}) {
    const auto options = [&](int rank) {
      JoinOptions made = tcp();
      if (rank == odd) made.comm.throttle = "fast";
      return made;
    };
    for (const std::string& error :
         run_ranks(3, options, [](int, Membership&) { ADD_FAILURE() << "joined"; }))
      EXPECT_THAT(error, AllOf(HasSubstr(fmt::format("rank {} (host ", odd)), HasSubstr("fast")));
  }
}

// Ranks that fail before they join, `odd` or all of them: what the others end with.
std::vector<std::string> fail_early(int odd) {
  constexpr int kRanks = 3, kPatienceSeconds = 60;
  std::vector<std::string> errors(kRanks);
  std::vector<std::jthread> threads;
  const int port = free_port();
  for (int rank = 0; rank < kRanks; ++rank) {
    threads.emplace_back([&, rank] {
      const World world = world_of(rank, kRanks, port);
      if (odd < 0 || rank == odd)
        return tell_world(world, Error(ErrorCode::kDataLoss, "its disk is gone"), kPatienceSeconds);
      try {
        join(world, tcp());
      } catch (const Error& error) {
        errors[static_cast<size_t>(rank)] = error.what();
      }
    });
  }
  threads.clear();
  return errors;
}

TEST(Join, ARankThatFailsBeforeItJoinsTellsTheOthersWhy) {
  for (const int odd : {0, 1, 2}) {
    const int64_t begin_ns = system_clock().monotonic_ns();
    const auto errors = fail_early(odd);
    for (int rank = 0; rank < 3; ++rank) {
      if (rank == odd) continue;
      EXPECT_THAT(errors[static_cast<size_t>(rank)],
                  AllOf(HasSubstr(fmt::format("rank {} (host ", odd)), HasSubstr("): its disk is gone")));
    }
    EXPECT_LT(system_clock().monotonic_ns() - begin_ns, 20'000'000'000);  // not at a time limit
  }
}

TEST(Join, RanksThatAllFailBeforeTheyJoinDoNotWaitForEachOther) {
  const int64_t begin_ns = system_clock().monotonic_ns();
  fail_early(-1);
  EXPECT_LT(system_clock().monotonic_ns() - begin_ns, 20'000'000'000);
}

// What ends ranks before all have come is told by rank 0 also to those that start long after.
class LateRank : public ::testing::Test {
 protected:
  ~LateRank() override { set_log_writer({}); }

  // Ranks 0 and 1 of three, of which rank 1 fails before it joins, until rank 0 says that it stays.
  void start() {
    set_log_writer([this](std::string_view line) {
      if (line.find("stays until the others are there") != std::string_view::npos) stays_ = true;
    });
    zero_ = std::jthread([this] {
      JoinOptions options = tcp();
      options.cancel = &cancel_;
      error_ = error_of([&] { join(world_of(0, 3, port_), options); });
      ended_ = true;
    });
    tell_world(world_of(1, 3, port_), Error(ErrorCode::kDataLoss, "its disk is gone"), 60);
    while (!stays_ && !ended_) std::this_thread::yield();
    EXPECT_TRUE(stays_);
  }

  static Error error_of(const std::function<void()>& action) {
    try {
      action();
    } catch (const Error& error) {
      return error;
    }
    return Error(ErrorCode::kInternal, "no error");
  }

  const int port_ = free_port();
  CancelToken cancel_;
  std::atomic<bool> stays_{false}, ended_{false};
  Error error_{ErrorCode::kInternal, "none"};
  std::jthread zero_;
};

TEST_F(LateRank, HearsWhyTheOthersEnded) {
  start();
  JoinOptions options = tcp();
  options.comm.init_timeout_seconds = 10;
  const Error late = error_of([&] { join(world_of(2, 3, port_), options); });
  EXPECT_THAT(late.what(), AllOf(HasSubstr("rank 1 (host "), HasSubstr("): its disk is gone")));
  zero_.join();
  EXPECT_STREQ(error_.what(), late.what());
}

TEST_F(LateRank, IsNotWaitedForAfterAnInterrupt) {
  start();
  const int64_t begin_ns = system_clock().monotonic_ns();
  cancel_.cancel(2);
  zero_.join();
  EXPECT_LT(system_clock().monotonic_ns() - begin_ns, 2'000'000'000);  // less than seconds, and no minute
  EXPECT_THAT(error_.what(), HasSubstr("): its disk is gone"));
}

// Whoever trains agrees with the others on when to stop.
TEST(Join, AnInterruptAfterTheJoinIsNotItsMatter) {
  CancelToken cancel;
  const auto options = [&](int) {
    JoinOptions made = tcp();
    made.cancel = &cancel;
    return made;
  };
  const auto errors = run_ranks(2, options, [&](int rank, Membership& membership) {
    membership.communicator().world().barrier();
    cancel.cancel(2);
    membership.store().set("rank " + std::to_string(rank), "here");
    EXPECT_EQ(membership.store().get("rank " + std::to_string(1 - rank), INT64_MAX / 2), "here");
  });
  EXPECT_THAT(errors, ::testing::Each(""));
}

TEST(Join, OperationsBeforeTheEndOfTheStartWaitTheTimeOfTheStart) {
  const auto options = [](int) {
    JoinOptions made = tcp();
    made.comm.train_timeout_seconds = 7;
    return made;
  };
  const auto errors = run_ranks(2, options, [](int, Membership& membership) {
    Communicator& communicator = membership.communicator();
    EXPECT_EQ(communicator.timeout_ms(), 60'000);
    communicator.end_start();
    EXPECT_EQ(communicator.timeout_ms(), 7'000);
  });
  EXPECT_THAT(errors, ::testing::Each(""));
}

TEST(Join, OneRankOpensNoEngine) {
  JoinOptions options = tcp();
  options.comm.backend = "nccl";
  EXPECT_EQ(join(World{}, options)->communicator().options().backend, "native");
  options.comm.backend = "mpi";
  EXPECT_THAT([&] { join(World{}, options); },
              ::testing::ThrowsMessage<Error>(
                  HasSubstr("no MPI has started this process: start the ranks with mpirun")));
  World started;
  started.launcher = "openmpi";
  EXPECT_EQ(join(started, options)->communicator().options().backend, "native");
}

TEST(Join, SettingsOfOwnWiresAreRefusedForAnotherEngine) {
  for (const char* backend : {"mpi", "nccl"}) {
    JoinOptions options = tcp();
    options.comm.backend = backend;
    options.comm.throttle = "100Mbit";
    World started;
    started.launcher = "openmpi";
    EXPECT_THAT([&] { join(started, options); },
                ::testing::ThrowsMessage<Error>(HasSubstr("comm.throttle is about furrow's own backend")));
  }
}

// What the log says while ranks of one host join with `options`; "" for a world of one too.
std::string said_while_joining(int size, const JoinOptions& options) {
  std::mutex mutex;
  std::string log;
  set_log_writer([&](std::string_view line) {
    const std::lock_guard lock(mutex);
    log += line;
  });
  if (size == 1) join(World{}, options)->leave();
  if (size > 1) {
    for (const std::string& error : run_ranks(size, [&](int) { return options; }, [](int, Membership&) {}))
      EXPECT_EQ(error, "");
  }
  set_log_writer({});
  return log;
}

// A setting that does nothing is said, by one rank.
TEST(Join, SettingsWithoutEffectAreSaid) {
  JoinOptions options;
  EXPECT_EQ(said_while_joining(1, options), "");
  EXPECT_EQ(said_while_joining(2, options), "");
  options.comm.connections = 4;
  options.comm.interface = "lo";
  const std::string in_memory = said_while_joining(2, options);
  EXPECT_THAT(in_memory,
              HasSubstr("comm.interface, comm.connections: without effect, as all ranks see each"));
  EXPECT_EQ(std::ranges::count(in_memory, '\n'), 1) << in_memory;
  options.comm.transport = "tcp";
  EXPECT_EQ(said_while_joining(2, options), "");
  options.comm.throttle = "100Mbit";
  options.comm.algorithm = "ring";
  EXPECT_THAT(said_while_joining(1, options),
              HasSubstr("comm.transport, comm.algorithm, comm.throttle, comm.interface, comm.connections: "
                        "without effect, as one rank talks to nobody"));
}

// What messages take, for those that choose by it; nothing where none are sent.
TEST(Join, TheLinkIsThatOfThePeers) {
  const auto link_with = [](const std::function<void(JoinOptions&)>& change) {
    std::optional<AlgorithmTable::Link> link;
    const auto options = [&](int) {
      JoinOptions made = tcp();
      change(made);
      return made;
    };
    const auto errors = run_ranks(2, options, [&](int rank, Membership& membership) {
      if (rank == 0) link = membership.link();
    });
    for (const std::string& error : errors) EXPECT_EQ(error, "");
    return link;
  };
  EXPECT_FALSE(link_with([](JoinOptions& options) { options.comm.transport = "auto"; }));
  const auto tcp_link = link_with([](JoinOptions& options) { options.comm.connections = 3; });
  ASSERT_TRUE(tcp_link);
  EXPECT_EQ(tcp_link->interface, "lo");
  EXPECT_EQ(tcp_link->connections, 3);
  EXPECT_EQ(tcp_link->hosts, 1);
  EXPECT_FALSE(tcp_link->emulated);
  const auto slow = link_with([](JoinOptions& options) { options.comm.throttle = "1Gbit"; });
  EXPECT_TRUE(slow && slow->emulated);
}

TEST(Join, AnUnknownInterfaceListsTheKnownOnes) {
  const auto options = [](int) {
    JoinOptions made = tcp();
    made.comm.interface = "nosuch0";
    return made;
  };
  for (const std::string& error : run_ranks(2, options, [](int, Membership&) {})) {
    EXPECT_THAT(error, HasSubstr("no network interface 'nosuch0'"));
    EXPECT_THAT(error, HasSubstr("lo"));
  }
}

}  // namespace
}  // namespace furrow::comm
