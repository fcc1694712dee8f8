// The tcp transport through a proxy that delays, damages, partitions and cuts.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <latch>
#include <optional>
#include <thread>

#include "furrow/base/clock.h"
#include "furrow/comm/rendezvous.h"
#include "furrow/comm/tcp_connect.h"
#include "furrow/comm/tcp_transport.h"
#include "tests/testing/fault_proxy.h"

namespace furrow::comm {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kSecond = 1'000'000'000;
constexpr size_t kSize = 400'000;

int64_t in_seconds(double seconds) {
  return system_clock().monotonic_ns() + static_cast<int64_t>(seconds * static_cast<double>(kSecond));
}

// Rank 1 reaches rank 0 through a proxy.
class Detour : public LocalRendezvous {
 public:
  std::string get(const std::string& key, int64_t deadline_ns) override {
    const std::string value = LocalRendezvous::get(key, deadline_ns);
    if (key != "tcp/0") return value;
    proxy_.emplace(std::stoi(value));
    proxied_.count_down();
    return std::to_string(proxy_->port()) + " 127.0.0.1";
  }
  testing::FaultProxy& proxy() {
    proxied_.wait();
    return *proxy_;
  }

 private:
  std::latch proxied_{1};
  std::optional<testing::FaultProxy> proxy_;
};

// Rounds of an exchange between two ranks; `trouble` is called by rank 0 after the first one, whose deadline
// is then `seconds`, and `afterwards` at the end, while there is the proxy.  What each threw.
std::vector<std::string> exchange(
    const std::function<void(testing::FaultProxy&)>& trouble, double seconds,
    const std::function<void()>& afterwards = [] {}) {
  Detour rendezvous;
  std::vector<std::string> errors(2);
  std::vector<std::jthread> threads;
  std::latch first_round(2);
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        JoinContext context;
        context.roster = {rank, {{"host0", 100, ""}, {"host1", 101, ""}}};
        context.rendezvous = &rendezvous;
        context.deadline_ns = in_seconds(60);
        context.job_token = "token";
        TcpTransport tcp(context, connect_tcp(context));
        std::vector<std::byte> out(kSize, std::byte{1}), in(kSize);
        for (uint32_t round = 0; round < 5; ++round) {
          if (round == 1) first_round.arrive_and_wait();
          if (rank == 0 && round == 1) trouble(rendezvous.proxy());
          const int64_t deadline = in_seconds(round == 0 ? 60 : seconds);
          Envelope envelope;
          envelope.step = round;
          const Ticket sent = tcp.post_send(1 - rank, envelope, out);
          tcp.wait(tcp.post_recv(1 - rank, envelope, in), deadline);
          tcp.wait(sent, deadline);
          EXPECT_TRUE(in == out);
        }
      } catch (const Error& error) {
        errors[static_cast<size_t>(rank)] = error.what();
      }
    });
  }
  threads.clear();
  afterwards();
  return errors;
}

TEST(TcpFault, DelayIsOnlySlow) {
  for (const std::string& error : exchange([](auto& proxy) { proxy.set_delay_ns(kSecond / 50); }, 60)) {
    EXPECT_EQ(error, "");
  }
}

TEST(TcpFault, LossIsOnlySlow) {
  testing::FaultProxy* link = nullptr;
  int64_t lost = 0;
  const auto errors = exchange(
      [&](auto& proxy) {
        link = &proxy;
        proxy.set_loss(0.3, kSecond / 50);
      },
      60, [&] { lost = link->lost(); });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
  EXPECT_GT(lost, 0);
}

TEST(TcpFault, DamageIsFoundByOneAndEndsBoth) {
  const auto errors =
      exchange([](auto& proxy) { proxy.damage_after(proxy.passed() + static_cast<int64_t>(kSize)); }, 30);
  const bool first = errors[0].find("checksum") != std::string::npos;
  EXPECT_THAT(errors[first ? 0 : 1], HasSubstr("checksum"));
  EXPECT_THAT(errors[first ? 0 : 1],
              HasSubstr(first ? "from rank 1 (host host1" : "from rank 0 (host host0"));
  EXPECT_NE(errors[first ? 1 : 0], "");
}

TEST(TcpFault, APartitionEndsAtTheDeadline) {
  const auto errors = exchange([](auto& proxy) { proxy.partition(true); }, 0.3);
  EXPECT_THAT(errors[0], HasSubstr("rank 1 (host host1, pid 101) has "));
  EXPECT_THAT(errors[0], HasSubstr("in time"));
  EXPECT_NE(errors[1], "");
}

TEST(TcpFault, ACutIsNoticedAtOnce) {
  const int64_t start = system_clock().monotonic_ns();
  const auto errors = exchange([](auto& proxy) { proxy.cut(); }, 60);
  EXPECT_LT(system_clock().monotonic_ns() - start, 10 * kSecond);
  EXPECT_THAT(errors[0], HasSubstr("rank 1 (host host1, pid 101) has ended its connection"));
  EXPECT_THAT(errors[1], HasSubstr("rank 0 (host host0, pid 100) has ended its connection"));
}

}  // namespace
}  // namespace furrow::comm
