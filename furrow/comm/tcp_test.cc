// The tcp transport, ranks as threads over loopback: messages of all sizes and orders, every kind of end,
// damage.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <atomic>
#include <functional>
#include <numeric>
#include <optional>
#include <random>
#include <thread>

#include "furrow/base/clock.h"
#include "furrow/base/failpoint.h"
#include "furrow/comm/rendezvous.h"
#include "furrow/comm/tcp_connect.h"
#include "furrow/comm/tcp_transport.h"

namespace furrow::comm {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kSecond = 1'000'000'000;
int64_t in_seconds(int64_t seconds) { return system_clock().monotonic_ns() + seconds * kSecond; }

struct Options {
  std::string throttle = "";
  std::string address = "127.0.0.1";
  int connections = 2;
};

JoinContext context_of(int rank, int size, Rendezvous& rendezvous, const Options& options) {
  JoinContext context;
  context.roster.rank = rank;
  for (int r = 0; r < size; ++r) context.roster.ranks.push_back({"host" + std::to_string(r), 100 + r, ""});
  context.rendezvous = &rendezvous;
  context.deadline_ns = in_seconds(60);
  context.job_token = "token";
  context.tcp = {
      .address = options.address, .connections = options.connections, .link = parse_link(options.throttle)};
  return context;
}

// What each rank threw, "" for nothing.
std::vector<std::string> run_ranks(
    int size, const Options& options,
    const std::function<void(int rank, std::unique_ptr<TcpTransport>&)>& body) {
  LocalRendezvous rendezvous;
  std::vector<std::string> errors(static_cast<size_t>(size));
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        const JoinContext context = context_of(rank, size, rendezvous, options);
        auto transport = std::make_unique<TcpTransport>(context, connect_tcp(context));
        body(rank, transport);
      } catch (const Error& error) {
        errors[static_cast<size_t>(rank)] = error.what();
      }
    });
  }
  threads.clear();
  return errors;
}

void expect_no_errors(const std::vector<std::string>& errors) {
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

Envelope envelope(uint64_t channel, uint32_t step = 0) {
  Envelope e;
  e.channel = channel;
  e.step = step;
  e.sequence = 17;
  std::snprintf(e.label, sizeof e.label, "h.3");
  return e;
}

std::vector<std::byte> pattern(size_t size, int seed) {
  std::vector<std::byte> bytes(size);
  for (size_t i = 0; i < size; ++i)
    bytes[i] = static_cast<std::byte>((i * 31 + i / 251 + static_cast<size_t>(seed)) & 0xFF);
  return bytes;
}

// Every pair, both ways at once, in order per channel, across the frame size.
TEST(Tcp, EveryPairEverySize) {
  const std::vector<size_t> sizes = {0, 1, 100, 4000, 4096, 131071, 131072, 131073, 3'000'001};
  for (const int connections : {1, 3}) {
    expect_no_errors(
        run_ranks(4, {.connections = connections}, [&](int rank, std::unique_ptr<TcpTransport>& tcp) {
          std::vector<Ticket> tickets;
          std::vector<std::pair<std::vector<std::byte>, std::vector<std::byte>>> expected;
          std::vector<std::vector<std::byte>> outgoing;
          expected.reserve(100), outgoing.reserve(100);
          for (int peer = 0; peer < 4; ++peer) {
            if (peer == rank) continue;
            for (size_t i = 0; i < sizes.size(); ++i) {
              expected.emplace_back(std::vector<std::byte>(sizes[i]), pattern(sizes[i], peer * 10 + rank));
              tickets.push_back(tcp->post_recv(peer, envelope(i % 2), expected.back().first));
              outgoing.push_back(pattern(sizes[i], rank * 10 + peer));
              tickets.push_back(tcp->post_send(peer, envelope(i % 2), outgoing.back()));
            }
          }
          for (const Ticket& ticket : tickets) tcp->wait(ticket, in_seconds(60));
          for (const auto& [got, wanted] : expected) EXPECT_TRUE(got == wanted);
          const WireBytes bytes = tcp->wire().all();
          const auto all = static_cast<int64_t>(3 * std::accumulate(sizes.begin(), sizes.end(), size_t{0}));
          EXPECT_EQ(bytes.sent, all);
          EXPECT_EQ(bytes.received, all);
          EXPECT_LT(bytes.overhead_received, all / 100);
        }));
  }
}

// Sent long before anybody asks, channels asked for in the other order.
TEST(Tcp, EarlyMessages) {
  expect_no_errors(run_ranks(2, {}, [](int rank, std::unique_ptr<TcpTransport>& tcp) {
    constexpr size_t kSize = 1'000'000;
    if (rank == 0) {
      const auto first = pattern(kSize, 1), second = pattern(kSize, 2);
      const Ticket a = tcp->post_send(1, envelope(1), first), b = tcp->post_send(1, envelope(2), second);
      std::byte go;
      tcp->wait(tcp->post_recv(1, envelope(3), std::span(&go, 1)), in_seconds(60));
      tcp->wait(a, in_seconds(60));
      tcp->wait(b, in_seconds(60));
      return;
    }
    const std::byte go{1};
    tcp->wait(tcp->post_send(0, envelope(3), std::span(&go, 1)), in_seconds(60));
    std::vector<std::byte> got(kSize);
    tcp->wait(tcp->post_recv(0, envelope(2), got), in_seconds(60));
    EXPECT_TRUE(got == pattern(kSize, 2));
    tcp->wait(tcp->post_recv(0, envelope(1), got), in_seconds(60));
    EXPECT_TRUE(got == pattern(kSize, 1));
  }));
}

// A large send moves on while its rank waits for something else (here: for nothing of this transport).
TEST(Tcp, MovesWithoutAnybodyWaiting) {
  std::atomic<bool> arrived{false};
  expect_no_errors(run_ranks(2, {}, [&](int rank, std::unique_ptr<TcpTransport>& tcp) {
    constexpr size_t kSize = 64'000'000;  // more than a socket's buffers
    if (rank == 0) {
      const auto bytes = pattern(kSize, 5);
      const Ticket sent = tcp->post_send(1, envelope(1), bytes);
      while (!arrived) std::this_thread::yield();
      return tcp->wait(sent, in_seconds(60));
    }
    std::vector<std::byte> got(kSize);
    tcp->wait(tcp->post_recv(0, envelope(1), got), in_seconds(60));
    arrived = true;
    EXPECT_TRUE(got == pattern(kSize, 5));
  }));
}

TEST(Tcp, MismatchNamesBothOperations) {
  const auto errors = run_ranks(2, {}, [](int rank, std::unique_ptr<TcpTransport>& tcp) {
    std::vector<std::byte> bytes(1000);
    Envelope e = envelope(1);
    if (rank == 0) return tcp->wait(tcp->post_send(1, e, bytes), in_seconds(60));
    e.elements = 3;
    try {
      tcp->wait(tcp->post_recv(0, e, bytes), in_seconds(60));
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kFailedPrecondition);
      throw;
    }
  });
  EXPECT_THAT(errors[1], HasSubstr("rank 1 runs all_reduce 'h.3' #17 of 3"));
  EXPECT_THAT(errors[1], HasSubstr("rank 0 runs all_reduce 'h.3' #17 of 0"));
}

TEST(Tcp, AnotherSizeIsAMismatch) {
  const auto errors = run_ranks(2, {}, [](int rank, std::unique_ptr<TcpTransport>& tcp) {
    std::vector<std::byte> bytes(rank == 0 ? 1000 : 999);
    if (rank == 0) return tcp->wait(tcp->post_send(1, envelope(1), bytes), in_seconds(60));
    tcp->wait(tcp->post_recv(0, envelope(1), bytes), in_seconds(60));
  });
  EXPECT_THAT(errors[1], HasSubstr("run different operations"));
}

TEST(Tcp, DeadlineNamesThePeerAndWhatCame) {
  std::atomic<bool> over{false};
  const auto errors = run_ranks(2, {}, [&](int rank, std::unique_ptr<TcpTransport>& tcp) {
    if (rank == 0) {
      while (!over) std::this_thread::yield();
      return;
    }
    std::vector<std::byte> bytes(10);
    try {
      tcp->wait(tcp->post_recv(0, envelope(1), bytes), system_clock().monotonic_ns() + kSecond / 20);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kDeadlineExceeded);
      over = true;
      throw;
    }
    over = true;
  });
  EXPECT_THAT(errors[1],
              HasSubstr("rank 0 (host host0, pid 100) has sent 0 of 10 bytes of all_reduce 'h.3' #17"));
}

TEST(Tcp, AbortReachesEverybody) {
  const auto errors = run_ranks(3, {}, [&](int rank, std::unique_ptr<TcpTransport>& tcp) {
    if (rank == 2) return tcp->abort(Error(ErrorCode::kDataLoss, "the disk is gone"));
    std::atomic<int> reported{0};
    tcp->on_failure([&](const Error&) { ++reported; });
    std::vector<std::byte> bytes(10);
    try {
      tcp->wait(tcp->post_recv(1 - rank, envelope(1), bytes), in_seconds(60));  // of the other one that waits
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kDataLoss);
      while (reported == 0) std::this_thread::yield();
      EXPECT_THROW(tcp->post_recv(1 - rank, envelope(1), bytes), Error);
      throw;
    }
  });
  EXPECT_EQ(errors[0], "rank 2 (host host2, pid 102): the disk is gone");
  EXPECT_EQ(errors[1], errors[0]);
}

// A peer may fail before this rank has said whom to tell.
TEST(Tcp, AnAbortBeforeTheHandlerIsSetReachesIt) {
  expect_no_errors(run_ranks(2, {}, [&](int rank, std::unique_ptr<TcpTransport>& tcp) {
    if (rank == 1) return tcp->abort(Error(ErrorCode::kDataLoss, "the disk is gone"));
    std::vector<std::byte> bytes(10);
    EXPECT_THROW(tcp->wait(tcp->post_recv(1, envelope(1), bytes), in_seconds(60)), Error);
    int reported = 0;
    const auto count = [&](const Error& error) {
      EXPECT_STREQ(error.what(), "rank 1 (host host1, pid 101): the disk is gone");
      ++reported;
    };
    tcp->on_failure(count);
    EXPECT_EQ(reported, 1);
    tcp->on_failure(count);
    EXPECT_EQ(reported, 1);
  }));
}

// Sockets that close without a goodbye, as those of a killed process do; no operation with that peer is
// needed to see it.
TEST(Tcp, APeersEndIsNoticed) {
  LocalRendezvous rendezvous;
  std::jthread dying(
      [&] { const TcpSockets gone = std::move(connect_tcp(context_of(1, 2, rendezvous, {}))[0]); });
  const JoinContext context = context_of(0, 2, rendezvous, {});
  TcpTransport tcp(context, connect_tcp(context));
  std::atomic<bool> reported{false};
  tcp.on_failure([&](const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnavailable);
    EXPECT_THAT(error.what(),
                HasSubstr("rank 1 (host host1, pid 101) has ended its connections without a goodbye"));
    reported = true;
  });
  const int64_t start = system_clock().monotonic_ns();
  while (!reported) std::this_thread::yield();
  EXPECT_LT(system_clock().monotonic_ns() - start, 10 * kSecond);
}

TEST(Tcp, WaitingForOneThatHasLeft) {
  const auto errors = run_ranks(2, {}, [&](int rank, std::unique_ptr<TcpTransport>& tcp) {
    if (rank == 1) return tcp.reset();
    std::vector<std::byte> bytes(10);
    tcp->wait(tcp->post_recv(1, envelope(1), bytes), in_seconds(60));
  });
  EXPECT_THAT(errors[0],
              HasSubstr("rank 1 (host host1, pid 101) has ended its connection while this rank waits"));
}

// What a rank sent before it left is still received.
TEST(Tcp, LastWordsArrive) {
  constexpr size_t kSize = 2'000'000;
  expect_no_errors(run_ranks(2, {}, [&](int rank, std::unique_ptr<TcpTransport>& tcp) {
    if (rank == 1) {
      const auto bytes = pattern(kSize, 3);
      return tcp->wait(tcp->post_send(0, envelope(1), bytes), in_seconds(60));
    }
    std::vector<std::byte> got(kSize);
    tcp->wait(tcp->post_recv(1, envelope(1), got), in_seconds(60));
    EXPECT_TRUE(got == pattern(kSize, 3));
  }));
}

// A peer that holds the token but sends damaged frames ends the job with its name, not the process.
TEST(Tcp, DamageIsDataLoss) {
  for (const bool in_payload : {false, true}) {
    LocalRendezvous rendezvous;
    std::atomic<bool> over{false};
    std::jthread damaging([&] {
      const TcpSockets sockets = std::move(connect_tcp(context_of(1, 2, rendezvous, {.connections = 1}))[0]);
      std::vector<std::byte> payload(100);
      FrameHeader header;
      header.bytes = 100;
      header.total = 100;
      header.payload_hash = hash_payload(payload);
      header.envelope = envelope(1);
      FrameHeaderBytes bytes = to_bytes(header);
      (in_payload ? payload[50] : bytes[20]) ^= std::byte{4};
      send_all(sockets.data[0], bytes, in_seconds(10), "rank 0");
      send_all(sockets.data[0], payload, in_seconds(10), "rank 0");
      while (!over) std::this_thread::yield();
    });
    const JoinContext context = context_of(0, 2, rendezvous, {.connections = 1});
    TcpTransport tcp(context, connect_tcp(context));
    std::vector<std::byte> got(100);
    try {
      tcp.wait(tcp.post_recv(1, envelope(1), got), in_seconds(60));
      ADD_FAILURE() << "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kDataLoss);
      EXPECT_THAT(error.what(), HasSubstr("from rank 1 (host host1, pid 101): "));
      EXPECT_THAT(error.what(), HasSubstr("checksum"));
    }
    over = true;
  }
}

TEST(Tcp, IPv6) {
  if (!listen_at("::1", 0)) GTEST_SKIP() << "this machine has no IPv6";
  expect_no_errors(run_ranks(2, {.address = "::1"}, [](int rank, std::unique_ptr<TcpTransport>& tcp) {
    std::vector<std::byte> bytes(5);
    if (rank == 0) return tcp->wait(tcp->post_send(1, envelope(1), bytes), in_seconds(60));
    tcp->wait(tcp->post_recv(0, envelope(1), bytes), in_seconds(60));
  }));
}

// 80 Mbit/s and 30 ms: a megabyte takes 100 ms (5 of them from the bucket) and then 30; the answer 30 more.
TEST(Tcp, EmulatedLinkIsAsSlowAsItSays) {
  expect_no_errors(
      run_ranks(2, {.throttle = "80Mbit,30ms"}, [](int rank, std::unique_ptr<TcpTransport>& tcp) {
        std::vector<std::byte> bytes(1'000'000);
        std::byte go{};
        const int64_t start = system_clock().monotonic_ns();
        if (rank == 0) {
          tcp->wait(tcp->post_send(1, envelope(1), bytes), in_seconds(60));
          tcp->wait(tcp->post_recv(1, envelope(1), std::span(&go, 1)), in_seconds(60));
          const double seconds = static_cast<double>(system_clock().monotonic_ns() - start) * 1e-9;
          EXPECT_GE(seconds, 0.155);
          EXPECT_LT(seconds, 1.0);
          return;
        }
        tcp->wait(tcp->post_recv(0, envelope(1), bytes), in_seconds(60));
        tcp->wait(tcp->post_send(0, envelope(1), std::span(&go, 1)), in_seconds(60));
      }));
}

// Strangers at the transport's door while ranks join.
TEST(Tcp, StrangersDoNotKeepRanksFromJoining) {
  LocalRendezvous rendezvous;
  std::vector<Socket> strangers;
  std::jthread other([&] {
    const Error none(ErrorCode::kInternal, "");
    const std::string where = rendezvous.get("tcp/0", in_seconds(60));
    const int port = std::stoi(where);
    for (int i = 0; i < 50; ++i) {
      auto stranger = connect_to("127.0.0.1", port, in_seconds(5));
      if (!stranger) continue;
      const std::string garbage(static_cast<size_t>(i * 3), 'x');
      send(stranger->descriptor(), garbage.data(), garbage.size(), MSG_NOSIGNAL);
      strangers.push_back(std::move(*stranger));
    }
    const JoinContext context = context_of(1, 2, rendezvous, {});
    TcpTransport tcp(context, connect_tcp(context));
    const std::byte byte{9};
    tcp.wait(tcp.post_send(0, envelope(1), std::span(&byte, 1)), in_seconds(60));
  });
  const JoinContext context = context_of(0, 2, rendezvous, {});
  TcpTransport tcp(context, connect_tcp(context));
  std::byte got{};
  tcp.wait(tcp.post_recv(1, envelope(1), std::span(&got, 1)), in_seconds(60));
  EXPECT_EQ(got, std::byte{9});
}

// Whoever holds the token and then says nothing, half of who it is, or that it is somebody who is not waited
// for, keeps nobody waiting: not even for the seconds that it has.
TEST(Tcp, CallersThatDoNotSayWhoTheyAreKeepNobodyWaiting) {
  constexpr int kSilent = 8;
  LocalRendezvous rendezvous;
  std::vector<Socket> callers;
  std::jthread other([&] {
    const int port = parse_endpoint(rendezvous.get("tcp/0", in_seconds(60))).port;
    const auto call = [&](std::span<const std::byte> says) {
      auto caller = connect_to("127.0.0.1", port, in_seconds(5));
      ASSERT_TRUE(caller);
      ASSERT_EQ(greet(*caller, kDataPurpose, Secret("token"), in_seconds(20)), Greeting::kFriend);
      send_all(*caller, says, in_seconds(5), "rank 0");
      callers.push_back(std::move(*caller));
    };
    const IntroductionBytes right = to_bytes(Introduction{1, 0});
    for (size_t i = 0; i < kSilent; ++i) call(std::span(right).first(i));
    for (const Introduction& wrong : {Introduction{-1, 0}, {0, 0}, {2, 0}, {1 << 30, 1}, {1, -1}, {1, 3}})
      call(to_bytes(wrong));
    const JoinContext context = context_of(1, 2, rendezvous, {});
    TcpTransport tcp(context, connect_tcp(context));
    const std::byte byte{9};
    tcp.wait(tcp.post_send(0, envelope(1), std::span(&byte, 1)), in_seconds(60));
  });
  const JoinContext context = context_of(0, 2, rendezvous, {});
  const int64_t start = system_clock().monotonic_ns();
  TcpTransport tcp(context, connect_tcp(context));
  EXPECT_LT(system_clock().monotonic_ns() - start, 20 * kSecond);  // not until it has no more time
  std::byte got{};
  tcp.wait(tcp.post_recv(1, envelope(1), std::span(&got, 1)), in_seconds(60));
  EXPECT_EQ(got, std::byte{9});
}

// One that is stopped between its proof and its name holds itself connected: it must be, however long that
// takes.
TEST(Tcp, ACallerThatTakesItsTimeIsConnected) {
  arm_failpoints("comm.introduce=delay:2500@2");
  expect_no_errors(run_ranks(2, {.connections = 1}, [](int rank, std::unique_ptr<TcpTransport>& tcp) {
    arm_failpoints("");
    std::byte byte{9};
    const Ticket ticket = rank == 1 ? tcp->post_send(0, envelope(1), std::span(&byte, 1))
                                    : tcp->post_recv(1, envelope(1), std::span(&byte, 1));
    tcp->wait(ticket, in_seconds(60));
  }));
}

// A rendezvous that hears of a failure once somebody has looked `looks` times.
class FailingRendezvous : public LocalRendezvous {
 public:
  explicit FailingRendezvous(int looks) : left_(looks) {}
  void check_alive() const override {
    if (--left_ < 0) throw Error(ErrorCode::kUnavailable, "rank 2 was killed");
  }

 private:
  mutable std::atomic<int> left_;
};

// The system connects to a process that is stopped, which then says nothing: a rank that waits for it hears
// of failures all the same, before its answer and before its proof.
TEST(Tcp, WaitingForAPeerThatIsStoppedEndsWithTheFailure) {
  for (const bool opens : {false, true}) {
    FailingRendezvous rendezvous(3);
    const auto listener = listen_at("127.0.0.1", 0);
    rendezvous.set("tcp/0", to_text({"127.0.0.1", local_port(*listener)}));
    std::optional<Socket> accepted;
    std::jthread peer([&] {
      if (!opens) return;
      while (!accepted) accepted = accept_from(*listener);
      send_all(*accepted, Reception(kDataPurpose).opening(), in_seconds(60), "the caller");
    });
    const JoinContext context = context_of(1, 2, rendezvous, {});  // has a minute
    const int64_t start = system_clock().monotonic_ns();
    try {
      connect_tcp(context);
      ADD_FAILURE() << "connected";
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("rank 2 was killed"));
    }
    EXPECT_LT(system_clock().monotonic_ns() - start, 30 * kSecond);
  }
}

TEST(Tcp, ARankWithAnotherTokenIsNotConnected) {
  LocalRendezvous rendezvous;
  std::jthread other([&] {
    JoinContext context = context_of(1, 2, rendezvous, {});
    context.job_token = "another";
    context.deadline_ns = system_clock().monotonic_ns() + kSecond / 5;
    EXPECT_THROW(connect_tcp(context), Error);
  });
  JoinContext context = context_of(0, 2, rendezvous, {});
  context.deadline_ns = system_clock().monotonic_ns() + kSecond / 5;
  try {
    connect_tcp(context);
    ADD_FAILURE() << "connected";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kDeadlineExceeded);
    EXPECT_THAT(error.what(), HasSubstr("not connected in time: rank 1 (host host1, pid 101)"));
  }
}

}  // namespace
}  // namespace furrow::comm
