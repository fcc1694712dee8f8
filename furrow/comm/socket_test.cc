// Sockets on machines that are not like this one: without IPv6, with interfaces of other names, with
// addresses that nothing comes back from.
#include "furrow/comm/socket.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <functional>
#include <thread>
#include <vector>

#include "furrow/base/clock.h"
#include "furrow/base/error.h"

namespace furrow::comm {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kSecond = 1'000'000'000;
int64_t in_seconds(int64_t seconds) { return system_clock().monotonic_ns() + seconds * kSecond; }

// For the rest of the calling thread's life socket(AF_INET6) fails as on a kernel without IPv6.  False where
// a thread may not be given filters.
bool lose_ipv6() {
  constexpr auto argument = static_cast<uint32_t>(offsetof(seccomp_data, args));
  std::array<sock_filter, 6> code = {{
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(offsetof(seccomp_data, nr))),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, argument),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_INET6, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EAFNOSUPPORT),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  }};
  const sock_fprog program = {static_cast<uint16_t>(code.size()), code.data()};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

TEST(Socket, AnAddressOfAFamilyThatIsNotThereIsPassedOver) {
  bool filtered = false;
  std::jthread([&] {
    filtered = lose_ipv6();
    if (!filtered) return;
    EXPECT_LT(::socket(AF_INET6, SOCK_STREAM, 0), 0) << "the control";
    const auto listener = listen_at("::1", 0);
    ASSERT_TRUE(listener) << "everywhere else instead";
    EXPECT_EQ(local_endpoint(*listener).address, "0.0.0.0");
    EXPECT_FALSE(connect_to("::1", local_port(*listener), in_seconds(5)));
    EXPECT_TRUE(connect_to("127.0.0.1", local_port(*listener), in_seconds(5)));
  }).join();
  if (!filtered) GTEST_SKIP() << "no system call filters here";
}

// A port whose queue is full answers nothing, as an address behind a firewall does.
TEST(Socket, WhoeverWaitsForAnAnswerLooksAroundMeanwhile) {
  const Socket listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(::bind(listener.descriptor(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(listener.descriptor(), 0), 0);
  std::vector<Socket> queue;
  const int port = local_port(listener);
  const auto call = [&](int64_t deadline_ns, const std::function<void()>& meanwhile) {
    return connect_to("127.0.0.1", port, {deadline_ns, meanwhile});
  };
  while (auto socket = call(system_clock().monotonic_ns() + kSecond / 20, {}))
    queue.push_back(std::move(*socket));
  ASSERT_FALSE(queue.empty());
  int looks = 0;
  const int64_t start_ns = system_clock().monotonic_ns();
  EXPECT_THAT(
      [&] {
        call(in_seconds(600), [&] {
          if (++looks == 2) throw Error(ErrorCode::kUnavailable, "rank 3 has gone");
        });
      },
      ::testing::ThrowsMessage<Error>(HasSubstr("rank 3 has gone")));
  EXPECT_LT(system_clock().monotonic_ns() - start_ns, 30 * kSecond);
}

TEST(Socket, TheFirstInterfaceThatIsThereCounts) {
  EXPECT_EQ(interface_addresses("nosuch0, lo,nosuch1").front(), "127.0.0.1");
  EXPECT_THAT([] { interface_addresses("nosuch0,nosuch1"); },
              ::testing::ThrowsMessage<Error>(HasSubstr("no network interface 'nosuch0,nosuch1'")));
}

TEST(Socket, NumbersOfTheMachineItself) {
  for (const char* own : {"127.0.0.1", "127.0.1.1", "::1"}) EXPECT_TRUE(is_loopback(own)) << own;
  for (const char* other : {"", "10.127.0.1", "1270.0.0.1", "::2", "fe80::1", "localhost"})
    EXPECT_FALSE(is_loopback(other)) << other;
}

}  // namespace
}  // namespace furrow::comm
