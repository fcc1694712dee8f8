// The store and its watch, ranks as threads over real sockets: values, the door, every way of leaving, and
// strangers.
#include "furrow/comm/store.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <functional>
#include <latch>
#include <thread>

#include "furrow/base/clock.h"
#include "furrow/base/failpoint.h"
#include "furrow/base/log.h"
#include "furrow/comm/store_server.h"
#include "tests/testing/fault_proxy.h"
#include "tests/testing/spinning_child.h"

namespace furrow::comm {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kSecond = 1'000'000'000;
int64_t in_seconds(int64_t seconds) { return system_clock().monotonic_ns() + seconds * kSecond; }

constexpr const char* kConfigured = "[job]\nname = \"a\"\n\n[optimizer]\nlr = 0.1\n";

Member member(int rank, int size) {
  return {.rank = rank,
          .size = size,
          .pid = 100 + rank,
          .host = "host" + std::to_string(rank),
          .version = "1.0",
          .commit = "c0ffee",
          .config_digest = "d1",
          .config = kConfigured};
}

// A server and what its ranks need to find it.
struct Fixture {
  explicit Fixture(int size, int64_t silence_ms = 20'000, const std::string& token = "token")
      : Fixture(member(0, size), silence_ms, token) {}
  explicit Fixture(const Member& host, int64_t silence_ms = 20'000, const std::string& token = "token")
      : secret(token), silence(silence_ms), server(*listen_at("127.0.0.1", 0), secret, host, silence_ms) {
    where = {"127.0.0.1", {server.endpoint().port}};
  }
  std::unique_ptr<Store> join(const Member& self) {
    return std::make_unique<Store>(where, secret, self, silence, in_seconds(20));
  }
  Secret secret;
  int64_t silence;
  StoreServer server;
  StoreAddress where;
};

Error error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error;
  }
  return Error(ErrorCode::kInternal, "no error");
}

// Each rank's error ("" for none); `body` gets its store.
std::vector<std::string> run_ranks(Fixture& fixture, int size, const std::function<void(int, Store&)>& body,
                                   const std::function<void(Member&)>& change = {}) {
  std::vector<std::string> errors(static_cast<size_t>(size));
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        Member self = member(rank, size);
        if (change) change(self);
        const auto store = fixture.join(self);
        body(rank, *store);
      } catch (const Error& error) {
        errors[static_cast<size_t>(rank)] = error.what();
      }
    });
  }
  threads.clear();
  return errors;
}

// Waits for the failure that the watch reports.
Error await_failure(Store& store) {
  return error_of([&] { store.get("never set", in_seconds(30)); });
}

TEST(Store, ValuesCountersAndGoodbye) {
  Fixture fixture(3);
  const auto errors = run_ranks(fixture, 3, [&](int rank, Store& store) {
    store.set("from " + std::to_string(rank), std::string(static_cast<size_t>(rank) * 1'000'000, 'x'));
    for (int other = 0; other < 3; ++other) {
      EXPECT_EQ(store.get("from " + std::to_string(other), in_seconds(20)).size(),
                static_cast<size_t>(other) * 1'000'000);
    }
    const int64_t count = store.add("count", 1);
    EXPECT_GE(count, 1);
    EXPECT_LE(count, 3);
    EXPECT_EQ(store.members()[2].host, "host2");
    if (rank == 0) {  // a message to one reader is gone once it was read
      store.set("to 1", "a");
    } else if (rank == 1) {
      EXPECT_EQ(store.take("to 1", in_seconds(20)), "a");
      EXPECT_THROW(store.take("to 1", system_clock().monotonic_ns() + kSecond / 20), Error);
    }
    store.set("done " + std::to_string(rank), "");
    for (int other = 0; other < 3; ++other) store.get("done " + std::to_string(other), in_seconds(20));
    EXPECT_EQ(store.add("count", 0), 3);
    store.leave(in_seconds(20));
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
  fixture.server.wait_until_left();
}

TEST(Store, GetWaitsAndThenSaysWhatIsMissing) {
  Fixture fixture(1);
  const auto store = fixture.join(member(0, 1));
  const Error error = error_of([&] { store->get("absent", system_clock().monotonic_ns() + kSecond / 50); });
  EXPECT_EQ(error.code(), ErrorCode::kDeadlineExceeded);
  EXPECT_THAT(error.what(), HasSubstr("no rank has set 'absent'"));
  store->set("absent", "there now");
  EXPECT_EQ(store->get("absent", in_seconds(20)), "there now");
}

TEST(Store, ARankThatLeavesWithoutGoodbyeIsNamedWithItsProgress) {
  Fixture fixture(3);
  std::latch reported(1);
  const auto errors = run_ranks(fixture, 3, [&](int rank, Store& store) {
    if (rank == 1) {
      std::atomic<int> asked = 0;
      store.report_progress([&]() -> Report {
        ++asked;
        return {"all_reduce 'h.3' #17, begun", system_clock().monotonic_ns()};
      });
      while (asked < 2) std::this_thread::yield();  // the first report is on its way
      store.report_progress({});
      return;  // destroyed without leave()
    }
    const Error error = await_failure(store);
    EXPECT_EQ(error.code(), ErrorCode::kUnavailable);
    throw error;
  });
  for (const int rank : {0, 2}) {
    EXPECT_THAT(errors[static_cast<size_t>(rank)],
                HasSubstr("rank 1 (host host1, pid 101) ended its connection without a goodbye"));
    EXPECT_THAT(errors[static_cast<size_t>(rank)], HasSubstr("last progress: all_reduce 'h.3' #17, begun "));
  }
}

TEST(Store, ARankThatFailsSaysWhy) {
  Fixture fixture(2);
  const auto errors = run_ranks(fixture, 2, [&](int rank, Store& store) {
    if (rank == 1) return store.fail(Error(ErrorCode::kDataLoss, "the disk is gone"));
    const Error error = await_failure(store);
    EXPECT_EQ(error.code(), ErrorCode::kDataLoss);
    throw error;
  });
  EXPECT_EQ(errors[0], "rank 1 (host host1, pid 101): the disk is gone");
}

TEST(Store, FailureReachesTheHandler) {
  Fixture fixture(2);
  run_ranks(fixture, 2, [&](int rank, Store& store) {
    if (rank == 1) return;
    std::latch called(1);
    store.on_failure([&](const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("rank 1"));
      called.count_down();
    });
    called.wait();
    std::latch again(1);
    store.on_failure([&](const Error&) { again.count_down(); });  // it has happened: at once
    again.wait();
  });
}

TEST(Store, TheDoorRefusesByNameOnEveryRank) {
  struct Case {
    std::function<void(Member&)> change;
    std::string expected;
  };
  const Case cases[] = {
      {[](Member& m) { m.version = "1.1"; }, "is furrow 1.1, but rank 0 (host host0, pid 100) is furrow 1.0"},
      {[](Member& m) { m.commit = "beef"; }, "is furrow of commit beef, but"},
      {[](Member& m) { m.config_digest = "d2", m.config = kConfigured; },
       "has the configuration d2, but rank 0 (host host0, pid 100) has the configuration d1: start"},
      {[](Member& m) { m.config_digest = "d2", m.config = "[optimizer]\nlr = 0.5\n"; },
       "has optimizer.lr = 0.5, but rank 0 (host host0, pid 100) has optimizer.lr = 0.1: start every rank"},
      {[](Member& m) { m.size = 4; }, "counts a world of 4, but"},
  };
  for (const Case& one : cases) {
    Fixture fixture(3);
    const auto errors = run_ranks(
        fixture, 3, [](int, Store&) { FAIL() << "joined"; },
        [&](Member& m) {
          if (m.rank == 2) one.change(m);
        });
    for (const std::string& error : errors) {
      EXPECT_THAT(error, HasSubstr("rank 2 (host host2, pid 102) " + one.expected));
    }
  }
}

TEST(Store, ASecondRankOfANumberIsRefusedAlone) {
  Fixture fixture(2);
  const auto errors = run_ranks(fixture, 2, [&](int rank, Store& store) {
    if (rank == 0) {
      const Error error = error_of([&] { fixture.join(member(1, 2)); });
      EXPECT_EQ(error.code(), ErrorCode::kAlreadyExists);
      EXPECT_THAT(
          error.what(),
          HasSubstr("two processes say that they are rank 1: rank 1 (host host1, pid 101) and rank 1 ("));
      store.set("tried", "");
    }
    store.get("tried", in_seconds(20));
    store.leave(in_seconds(20));
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

// While somebody is still missing it is everybody's problem: perhaps the missing one came under that number.
TEST(Store, TwoOfOneNumberEndAJobThatWaits) {
  Fixture fixture(3);
  std::array<Error, 2> errors = {Error(ErrorCode::kInternal, ""), Error(ErrorCode::kInternal, "")};
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 2; ++i) {
      threads.emplace_back([&, i] {
        Member self = member(1, 3);
        self.pid = 700 + i;
        errors[static_cast<size_t>(i)] = error_of([&] { fixture.join(self); });
      });
    }
  }
  for (const Error& error : errors) {
    EXPECT_EQ(error.code(), ErrorCode::kAlreadyExists);
    EXPECT_THAT(error.what(),
                HasSubstr("two processes say that they are rank 1: rank 1 (host host1, pid 70"));
    for (const char* pid : {"pid 700", "pid 701"}) EXPECT_THAT(error.what(), HasSubstr(pid));
  }
}

TEST(Store, ReportsOfARankCanBeAskedFor) {
  Fixture fixture(2);
  std::latch told(1);
  const auto errors = run_ranks(fixture, 2, [&](int rank, Store& store) {
    if (rank == 1) {
      std::atomic<int> asked = 0;
      store.report_progress([&]() -> Report {
        ++asked;
        return {"barrier 'a' #3, begun", system_clock().monotonic_ns()};
      });
      while (asked < 2) std::this_thread::yield();
      told.wait();
      store.report_progress({});
    } else {
      std::optional<Report> report;
      do report = store.progress_of(1);
      while (!report || report->text.empty());
      EXPECT_EQ(report->text, "barrier 'a' #3, begun");
      told.count_down();
    }
    store.leave(in_seconds(20));
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

// Who sees a rank's memory knows more than the store.
TEST(Store, TheExactProgressStandsBeforeTheReported) {
  Fixture fixture(2);
  std::latch ready(1);
  const auto errors = run_ranks(fixture, 2, [&](int rank, Store& store) {
    if (rank == 1) return ready.wait();  // destroyed without leave()
    store.look_at_progress([](int who, const Report&) { return "step " + std::to_string(who); });
    ready.count_down();
    throw await_failure(store);
  });
  EXPECT_THAT(errors[0],
              HasSubstr("without a goodbye: it was killed, or has crashed; last progress: step 1"));
}

TEST(Store, AnAddressThatIsNoNameIsSaid) {
  Fixture fixture(1);
  fixture.where.address = "no-such-host.invalid";
  const Error error = error_of([&] {
    Store(fixture.where, fixture.secret, member(0, 1), 20'000, system_clock().monotonic_ns() + kSecond / 100);
  });
  EXPECT_THAT(error.what(), HasSubstr("MASTER_ADDR=no-such-host.invalid: "));
  EXPECT_THAT(error.what(), HasSubstr("add the name to DNS or /etc/hosts"));
}

TEST(Store, SaysWhoHasNotCome) {
  Fixture fixture(4);
  const Error error = error_of([&] {
    Store(fixture.where, fixture.secret, member(0, 4), 20'000, system_clock().monotonic_ns() + kSecond / 2);
  });
  EXPECT_EQ(error.code(), ErrorCode::kDeadlineExceeded);
  EXPECT_THAT(error.what(), HasSubstr("of 4 ranks these have not come to 127.0.0.1 in time: 1, 2, 3"));
}

TEST(Store, AnotherTokenIsToldApartFromNobody) {
  Fixture fixture(2);
  const Secret other("another token");
  const int64_t soon = system_clock().monotonic_ns() + kSecond / 2;
  const Error refused = error_of([&] { Store(fixture.where, other, member(1, 2), 5'000, soon); });
  EXPECT_EQ(refused.code(), ErrorCode::kDeadlineExceeded);
  EXPECT_THAT(refused.what(), HasSubstr("there is a furrow with another token"));
  const Error nobody = error_of([&] { Store({"127.0.0.1", {1}}, other, member(1, 2), 5'000, soon); });
  EXPECT_THAT(nobody.what(), HasSubstr("no store of rank 0 at 127.0.0.1"));
}

// The server's half: whoever cannot prove to hold the token gets no proof back, only the end.
TEST(Store, AWrongProofEndsTheConnection) {
  Fixture fixture(2);
  const auto guest = connect_to("127.0.0.1", fixture.where.ports[0], in_seconds(5));
  ASSERT_TRUE(guest);
  std::array<std::byte, 32> opening;
  receive_all(*guest, opening, in_seconds(20), "the store");
  const std::array<std::byte, 48> wrong{};
  send_all(*guest, wrong, in_seconds(20), "the store");
  std::byte proof;
  EXPECT_EQ(error_of([&] { receive_all(*guest, std::span(&proof, 1), in_seconds(20), "the store"); }).code(),
            ErrorCode::kUnavailable);
}

TEST(Store, IsFoundBehindAPortThatSomebodyElseHas) {
  const auto silent = listen_at("127.0.0.1", 0);  // accepts in the kernel, says nothing
  Fixture fixture(1);
  fixture.where.ports.insert(fixture.where.ports.begin(), local_port(*silent));
  const auto store = fixture.join(member(0, 1));
  store->leave(in_seconds(20));
}

// Strangers at the ports before it: some say nothing, one what no furrow says, one a byte.  None of them
// keeps a rank from the store, which starts while it is at their ports.
TEST(Store, IsFoundBesideWhoeverElseListens) {
  constexpr size_t kStrangers = 6, kSpeaks = 1, kBegins = 2;
  std::vector<Socket> listeners, callers;
  StoreAddress where{"127.0.0.1", {}};
  for (size_t i = 0; i < kStrangers; ++i) {
    listeners.push_back(*listen_at("127.0.0.1", 0));
    where.ports.push_back(local_port(listeners.back()));
  }
  where.ports.push_back(local_port(*listen_at("127.0.0.1", 0)));
  const Secret secret("token");
  std::optional<StoreServer> server;
  int64_t started = 0;
  const std::jthread others([&] {
    const std::string garbage(1000, 'x');
    for (size_t i = 0; i < kStrangers; ++i) {
      std::optional<Socket> caller;
      while (!caller) caller = accept_from(listeners[i]);
      if (i == kSpeaks) send(caller->descriptor(), garbage.data(), garbage.size(), MSG_NOSIGNAL);
      if (i == kBegins) send(caller->descriptor(), garbage.data(), 1, MSG_NOSIGNAL);
      callers.push_back(std::move(*caller));
    }
    started = system_clock().monotonic_ns();
    server.emplace(*listen_at("127.0.0.1", where.ports.back()), secret, member(0, 1), 20'000);
  });
  Store(where, secret, member(0, 1), 20'000, in_seconds(60)).leave(in_seconds(20));
  EXPECT_LT(system_clock().monotonic_ns() - started, 2 * kSecond);
}

// The process may open `count` more files and sockets while this lives.
class Room {
 public:
  explicit Room(int count) {
    int limit = 0;
    for (int free = 0; free < count; ++limit) free += fcntl(limit, F_GETFD) < 0 ? 1 : 0;
    getrlimit(RLIMIT_NOFILE, &before_);
    const rlimit few{static_cast<rlim_t>(limit), before_.rlim_max};
    setrlimit(RLIMIT_NOFILE, &few);
  }
  ~Room() { setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_{};
};

// A rank has its connection and none is left for the store's end of it: what the store held back is.
TEST(Store, WhoComesWhenNoDescriptorIsLeftHearsOfIt) {
  Fixture fixture(1);
  const Room room(2);  // for what a rank opens
  const Error error = error_of([&] { fixture.join(member(0, 1)); });
  EXPECT_EQ(error.code(), ErrorCode::kResourceExhausted);
  EXPECT_THAT(error.what(),
              HasSubstr("rank 0 (host host0, pid 100): cannot accept a connection: Too many open"));
}

// A rank that cannot come says why without a connection that it keeps: those who wait hear it, and who comes
// later.
TEST(Store, ARankThatCannotComeIsHeardByAll) {
  Fixture fixture(3);
  std::string early;
  std::jthread waits([&] { early = error_of([&] { fixture.join(member(0, 3)); }).what(); });
  const Error reason(ErrorCode::kResourceExhausted, "cannot join: raise `ulimit -n`");
  EXPECT_TRUE(tell_store(fixture.where, fixture.secret, member(1, 3), reason, in_seconds(20)));
  waits.join();
  EXPECT_EQ(early, "rank 1 (host host1, pid 101): cannot join: raise `ulimit -n`");
  const Error late = error_of([&] { fixture.join(member(2, 3)); });
  EXPECT_EQ(late.code(), ErrorCode::kResourceExhausted);
  EXPECT_EQ(std::string(late.what()), early);
  const int64_t soon = system_clock().monotonic_ns() + kSecond / 10;
  EXPECT_FALSE(tell_store({"127.0.0.1", {1}}, fixture.secret, member(1, 3), reason, soon));  // nobody there
}

// Strangers: garbage, half a handshake, a torrent of connections, silence.  The job does not notice.
TEST(Store, StrangersNeitherCrashNorBlock) {
  std::string log;
  set_log_writer([&log](std::string_view line) { log += line; });
  Fixture fixture(2);
  const int port = fixture.where.ports[0];
  std::vector<Socket> guests;
  for (size_t i = 0; i < Door::kMostGuests + 50; ++i) {
    auto guest = connect_to("127.0.0.1", port, in_seconds(5));
    ASSERT_TRUE(guest);
    const std::string garbage(i % 97, static_cast<char>(i));
    send(guest->descriptor(), garbage.data(), garbage.size(), MSG_NOSIGNAL);
    guests.push_back(std::move(*guest));
  }
  const auto errors = run_ranks(fixture, 2, [](int, Store& store) { store.leave(in_seconds(20)); });
  set_log_writer({});
  for (const std::string& error : errors) EXPECT_EQ(error, "");
  EXPECT_EQ(std::ranges::count(log, '\n'), 1) << log;  // one line for all of them
  EXPECT_THAT(log, HasSubstr("a caller from 127.0.0.1:"));
}

// One that holds the token but sends what is no message is dropped before it is a member, and fails the job
// after.
TEST(Store, GarbageAfterTheHandshake) {
  Fixture fixture(2);
  auto guest = connect_to("127.0.0.1", fixture.where.ports[0], in_seconds(5));
  ASSERT_TRUE(guest);
  ASSERT_EQ(greet(*guest, kStorePurpose, fixture.secret, in_seconds(5)), Greeting::kFriend);
  const std::string huge = "\xff\xff\xff\x7f";  // claims 2 GB
  send(guest->descriptor(), huge.data(), huge.size(), MSG_NOSIGNAL);
  std::byte nothing;
  EXPECT_THROW(receive_all(*guest, std::span(&nothing, 1), in_seconds(20), "the store"), Error);
  const auto errors = run_ranks(fixture, 2, [](int, Store& store) { store.leave(in_seconds(20)); });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

// A member that stops talking (as a stopped process does) is declared so after the silence.
TEST(Store, ASilentRankIsReported) {
  Fixture fixture(2, 300);
  auto mute = connect_to("127.0.0.1", fixture.where.ports[0], in_seconds(5));
  ASSERT_TRUE(mute);
  ASSERT_EQ(greet(*mute, kStorePurpose, fixture.secret, in_seconds(5)), Greeting::kFriend);
  const std::string hello = to_bytes({.kind = StoreKind::kHello, .members = {member(1, 2)}});
  send_all(*mute, std::as_bytes(std::span(hello)), in_seconds(5), "the store");
  const int64_t start = system_clock().monotonic_ns();
  const Error error = error_of([&] {  // on a busy machine already of the join
    const auto store = fixture.join(member(0, 2));
    store->get("never set", in_seconds(30));
  });
  EXPECT_EQ(error.code(), ErrorCode::kDeadlineExceeded);
  EXPECT_THAT(error.what(), HasSubstr("rank 1 (host host1, pid 101) has been silent for"));
  EXPECT_LT(system_clock().monotonic_ns() - start, 15 * kSecond);
}

TEST(Store, LosingTheStoreIsRankZerosEnd) {
  auto fixture = std::make_unique<Fixture>(2);
  std::latch joined(2);
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      const auto store = fixture->join(member(rank, 2));
      joined.count_down();
      if (rank == 0) return joined.wait();
      const Error error = await_failure(*store);
      EXPECT_THAT(error.what(), HasSubstr("rank 0 (host host0, pid 100)"));
    });
  }
  threads.clear();
}

// A rank that gives the store up may be wrong: whoever is still there hears why it has gone.
TEST(Store, ARankThatGivesTheStoreUpSaysWhy) {
  Fixture fixture(2);  // its beats come every quarter of a second
  std::string error;
  std::jthread zero([&] {
    const auto store = fixture.join(member(0, 2));
    error = await_failure(*store).what();
  });
  constexpr int64_t kImpatientMs = 40;
  const std::string own =
      error_of([&] {
        Store store(fixture.where, fixture.secret, member(1, 2), kImpatientMs, in_seconds(20));
        throw await_failure(store);
      }).what();
  zero.join();
  EXPECT_THAT(own, HasSubstr("which serves the store, has been silent for"));
  EXPECT_THAT(error, HasSubstr("rank 1 (host host1, pid 101): rank 0 (host host0, pid 100), which serves the "
                               "store, has been silent for"));
}

// The first to have waited long enough; the others have been told to wait longer, or started later.
TEST(Store, WhoHasWaitedLongEnoughTellsTheOthersForWhom) {
  Fixture fixture(3);
  std::string error;
  std::jthread zero([&] { error = error_of([&] { fixture.join(member(0, 3)); }).what(); });
  const int64_t soon = system_clock().monotonic_ns() + kSecond / 2;
  const Error own = error_of([&] { Store(fixture.where, fixture.secret, member(1, 3), 20'000, soon); });
  EXPECT_EQ(own.code(), ErrorCode::kDeadlineExceeded);
  zero.join();
  EXPECT_THAT(error,
              ::testing::MatchesRegex("rank 1 .host host1, pid 101.: of 3 ranks these have not come to "
                                      "127.0.0.1 in time: (0, )?2: .*"));
}

// The first message of that kind.
StoreMessage await_message(StoreConnection& connection, StoreKind kind) {
  while (connection.flush() && connection.receive()) {
    while (const auto message = connection.inbox().next()) {
      if (message->kind == kind) return *message;
    }
    pollfd one{connection.socket().descriptor(), connection.poll_events(), 0};
    poll(&one, 1, 10'000);
  }
  throw Error(ErrorCode::kUnavailable, "the connection ended");
}

// What a rank that knows the token has of the store once it has said who it is.
StoreConnection enter(const Fixture& fixture, const Member& self) {
  auto socket = connect_to("127.0.0.1", fixture.where.ports[0], in_seconds(5));
  FURROW_CHECK(socket, "the store listens");
  FURROW_CHECK(greet(*socket, kStorePurpose, fixture.secret, in_seconds(5)) == Greeting::kFriend, "a friend");
  StoreConnection connection(std::move(*socket));
  connection.send({.kind = StoreKind::kHello, .members = {self}});
  return connection;
}

// A thread that is made may get no core for longer than the limit: by then it has not been listening.
TEST(Store, WhoListensLateHasNotHeardASilence) {
  Fixture fixture(2, 1'000);
  arm_failpoints("comm.listen=delay:1500");
  const auto errors = run_ranks(fixture, 2, [](int, Store& store) { store.leave(in_seconds(20)); });
  arm_failpoints("");
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

// `self` as if it ran in that process, which all ranks of the test can see.
Member in_process(Member self, pid_t pid) {
  self.pid = pid;
  self.locality = "here";
  return self;
}

// A rank of that process has said nothing for longer than the limit: first it wants a core, then it stands.
void expect_silent_only_when_stopped(const testing::SpinningChild& process, int64_t limit_ns, Store& store,
                                     const std::string& who) {
  const int64_t later = system_clock().monotonic_ns() + 2 * limit_ns;
  EXPECT_THAT(error_of([&] { store.get("never set", later); }).what(), HasSubstr("no rank has set"));
  process.stop();
  EXPECT_THAT(await_failure(store).what(),
              ::testing::AllOf(HasSubstr(who), HasSubstr("has been silent for")));
}

TEST(Store, ARankThatWaitsForACoreIsNotSilent) {
  const testing::SpinningChild process;
  Fixture fixture(in_process(member(0, 2), getpid()), 300);
  StoreConnection mute = enter(fixture, in_process(member(1, 2), process.pid()));
  ASSERT_TRUE(mute.flush());
  const auto store = fixture.join(in_process(member(0, 2), getpid()));
  expect_silent_only_when_stopped(process, kSecond * 3 / 10, *store, "rank 1 (host host1, pid ");
}

TEST(Store, AStoreThatWaitsForACoreIsNotSilent) {
  const testing::SpinningChild process;
  Fixture fixture(in_process(member(0, 2), process.pid()));
  testing::FaultProxy proxy(fixture.where.ports[0]);
  std::jthread zero([&] {
    const auto store = fixture.join(in_process(member(0, 2), process.pid()));
    await_failure(*store);
  });
  Store store({"127.0.0.1", {proxy.port()}}, fixture.secret, in_process(member(1, 2), getpid()), 1'000,
              in_seconds(20));
  proxy.partition(true);
  expect_silent_only_when_stopped(process, kSecond, store, "rank 0 (host host0, pid ");
  proxy.cut();  // the others hear of it
}

// A rank that sends what is no message, or what the store alone says, ends the job by its name.
TEST(Store, WhatNoRankSaysEndsTheJob) {
  for (const bool is_message : {false, true}) {
    Fixture fixture(2);
    std::string heard;
    std::jthread zero([&] {
      heard = error_of([&] {
                const auto store = fixture.join(member(0, 2));
                throw await_failure(*store);
              }).what();
    });
    StoreConnection odd = enter(fixture, member(1, 2));
    await_message(odd, StoreKind::kWelcome);
    if (is_message) {
      odd.send({.kind = StoreKind::kWelcome});
      odd.flush();
    } else {
      const std::string huge = "\xff\xff\xff\x7f";  // claims 2 GB
      send_all(odd.socket(), std::as_bytes(std::span(huge)), in_seconds(5), "the store");
    }
    zero.join();
    EXPECT_THAT(heard, HasSubstr("rank 1 (host host1, pid 101) sent the store what is no message: "));
    EXPECT_THAT(heard, HasSubstr(is_message ? "a message that only the store sends" : " are allowed"));
  }
}

// Who asks a rank to stop while it waits for others waits for nobody, and they hear of it.
TEST(Store, AnInterruptEndsWaitingForOthers) {
  Fixture fixture(3);
  StoreConnection zero = enter(fixture, member(0, 3));
  CancelToken cancel;
  std::string heard;
  std::jthread user([&] {
    while (await_message(zero, StoreKind::kAbsent).text != "2") {
    }
    cancel.cancel(15);
    heard = await_message(zero, StoreKind::kFailure).text;
  });
  const auto join = [&](const StoreAddress& where) {
    return error_of([&] { Store(where, fixture.secret, member(1, 3), 20'000, in_seconds(60), &cancel); });
  };
  EXPECT_EQ(join(fixture.where).code(), ErrorCode::kCancelled);
  user.join();
  EXPECT_EQ(heard, "rank 1 (host host1, pid 101): interrupted by signal 15 before all ranks had met");
  EXPECT_EQ(join({"127.0.0.1", {1}}).code(), ErrorCode::kCancelled);  // while it looks for the store
}

TEST(Store, AnInterruptIsIgnoredOnRequest) {
  Fixture fixture(1);
  CancelToken cancel;
  Store store(fixture.where, fixture.secret, member(0, 1), 20'000, in_seconds(20), &cancel);
  cancel.cancel(2);
  const auto waits = [&] { store.get("never set", system_clock().monotonic_ns() + kSecond / 20); };
  EXPECT_EQ(error_of([&] { store.check_alive(); }).code(), ErrorCode::kCancelled);
  EXPECT_EQ(error_of(waits).code(), ErrorCode::kCancelled);
  store.ignore_interrupts();
  store.check_alive();
  EXPECT_EQ(error_of(waits).code(), ErrorCode::kDeadlineExceeded);
}

// Those who wait for the others know whom they lose when rank 0 goes.
TEST(Store, RankZeroIsKnownBeforeEverybodyIsThere) {
  Fixture fixture(2);
  StoreConnection waiting = enter(fixture, member(1, 2));
  const StoreMessage absent = await_message(waiting, StoreKind::kAbsent);
  ASSERT_EQ(absent.members.size(), 1U);
  EXPECT_EQ(name_of(absent.members[0]), "rank 0 (host host0, pid 100)");

  Door door(*listen_at("127.0.0.1", 0), kStorePurpose, fixture.secret);
  const StoreAddress where{"127.0.0.1", {local_port(door.listener())}};
  std::jthread goes([&] {
    std::vector<Socket> admitted;
    while (admitted.empty()) admitted = door.admit();
    StoreConnection connection(std::move(admitted[0]));
    await_message(connection, StoreKind::kHello);
    connection.send({.kind = StoreKind::kAbsent, .text = "0", .members = {member(0, 2)}});
    connection.flush();
  });
  const Error error = error_of([&] { Store(where, fixture.secret, member(1, 2), 20'000, in_seconds(20)); });
  EXPECT_THAT(error.what(), HasSubstr("rank 0 (host host0, pid 100), which serves the store, ended"));
}

// The two ends of a connection over loopback.
std::pair<StoreConnection, Socket> connected_pair() {
  const Socket listener = *listen_at("127.0.0.1", 0);
  Socket other = *connect_to("127.0.0.1", local_port(listener), in_seconds(10));
  pollfd one{listener.descriptor(), POLLIN, 0};
  poll(&one, 1, 10'000);
  return {StoreConnection(*accept_from(listener)), std::move(other)};
}

void await_end(StoreConnection& connection) {
  while (connection.receive()) std::this_thread::yield();
}

TEST(StoreConnection, KnowsWhichEndEndedIt) {
  {
    auto [connection, other] = connected_pair();
    other.close();
    await_end(connection);
    EXPECT_FALSE(connection.ended_here());
  }
  for (const bool sends_first : {false, true}) {  // that nothing can be sent tells of no other end
    auto [connection, other] = connected_pair();
    connection.socket().shutdown();
    connection.send({.kind = StoreKind::kBye});
    if (sends_first) {
      EXPECT_FALSE(connection.flush());
    }
    await_end(connection);
    EXPECT_TRUE(connection.ended_here());
  }
  for (const bool sends_first : {false, true}) {  // whoever comes first hears of a reset, and only once
    auto [connection, other] = connected_pair();
    const linger at_once{1, 0};
    setsockopt(other.descriptor(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    other.close();
    connection.send({.kind = StoreKind::kBye});
    pollfd one{connection.socket().descriptor(), POLLIN, 0};
    poll(&one, 1, 10'000);
    if (sends_first) {
      EXPECT_FALSE(connection.flush());
    }
    await_end(connection);
    EXPECT_FALSE(connection.ended_here());
  }
}

// A rank that fails says why, then hangs up; the reset comes first to whoever is just sending.
TEST(StoreConnection, WhatCameBeforeAResetIsRead) {
  auto [connection, other] = connected_pair();
  EXPECT_TRUE(connection.receive());  // nothing yet
  const std::string last = to_bytes({.kind = StoreKind::kFailure, .text = "the disk is gone"});
  send_all(other, std::as_bytes(std::span(last)), in_seconds(10), "the other end");
  const linger at_once{1, 0};
  setsockopt(other.descriptor(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  other.close();
  connection.send({.kind = StoreKind::kBeat});
  EXPECT_FALSE(connection.flush());
  const auto message = connection.inbox().next();
  ASSERT_TRUE(message);
  EXPECT_EQ(message->text, "the disk is gone");
}

TEST(StoreConnection, KnowsWhatIsStillOnItsWay) {
  auto [connection, other] = connected_pair();
  EXPECT_FALSE(connection.undelivered());
  connection.send(
      {.kind = StoreKind::kValue, .text = std::string(30'000'000, 'x')});  // more than buffers hold
  EXPECT_TRUE(connection.flush());
  EXPECT_TRUE(connection.undelivered());
  std::vector<std::byte> buffer(1 << 20);
  while (connection.undelivered()) {
    EXPECT_TRUE(connection.flush());
    (void)recv(other.descriptor(), buffer.data(), buffer.size(), 0);
  }
}

TEST(StoreMessages, RoundTripInPieces) {
  StoreMessage message{.kind = StoreKind::kWelcome,
                       .id = 7,
                       .number = -3,
                       .rank = 2,
                       .key = "k",
                       .text = std::string("a\0b", 3),
                       .members = {member(0, 2), member(1, 2)}};
  for (Member& each : message.members) each.config.clear();  // it does not go along
  const std::string bytes = to_bytes(message) + to_bytes({.kind = StoreKind::kBye});
  StoreInbox inbox;
  std::vector<StoreMessage> received;
  for (const char byte : bytes) {
    inbox.append(std::string_view(&byte, 1));
    while (auto next = inbox.next()) received.push_back(*next);
  }
  ASSERT_EQ(received.size(), 2U);
  EXPECT_EQ(received[0], message);
  EXPECT_EQ(received[1].kind, StoreKind::kBye);
}

}  // namespace
}  // namespace furrow::comm
