// TCP sockets, IPv4 and IPv6, always non-blocking and closed on exec.  Errors are Error{unavailable} naming
// the address, Error{deadline_exceeded} where a deadline passes; deadlines are system_clock().monotonic_ns().
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace furrow::comm {

// How long to wait, and what to look at now and then meanwhile: it may throw, which ends the waiting.
struct Patience {
  static constexpr int64_t kBetweenLooksMs = 200;
  Patience(int64_t deadline) : deadline_ns(deadline) {}  // NOLINT: a deadline is one
  Patience(int64_t deadline, std::function<void()> at) : deadline_ns(deadline), look(std::move(at)) {}
  int64_t deadline_ns;
  std::function<void()> look;
};

// Owns a descriptor.  Move only; belongs to one thread at a time, except shutdown().
class Socket {
 public:
  Socket() = default;
  explicit Socket(int descriptor) : descriptor_(descriptor) {}
  ~Socket() { close(); }
  Socket(Socket&& other) noexcept : descriptor_(other.release()) {}
  Socket& operator=(Socket&& other) noexcept;

  int descriptor() const { return descriptor_; }
  bool open() const { return descriptor_ >= 0; }
  int release();
  void close();
  void shutdown() const;  // both ways: the peer, and whoever polls here, sees the end; any thread

 private:
  int descriptor_ = -1;
};

struct Endpoint {
  std::string address;  // numeric: "10.0.0.1", "fe80::1%eth0"
  int port = 0;
  friend bool operator==(const Endpoint&, const Endpoint&) = default;
};
std::string to_string(const Endpoint& endpoint);  // "10.0.0.1:80", "[::1]:80"

// A listening socket at `address` (a name or number), or at every address of this machine where `address` is
// not one of its own (behind a translated address).  Port 0: the system chooses.  Nothing when the port is
// taken.
std::optional<Socket> listen_at(const std::string& address, int port);
std::optional<Socket> listen_everywhere(int port);
int local_port(const Socket& socket);
Endpoint local_endpoint(const Socket& socket);
Endpoint peer_endpoint(const Socket& socket);  // port 0 when the peer is gone
// The network interface that has a numeric address ("eth0"); "" when none has.
std::string interface_of(const std::string& address);
int64_t interface_rate_mbit(const std::string& interface);  // 0: the system does not say

// A number that only processes of this machine reach.
bool is_loopback(std::string_view address);

// One try for every address of the name, until one answers; each has its share of the time.  Nothing when
// nobody listens there (yet) or the name is not known (yet): launchers start ranks, and name servers learn of
// hosts, in any order.
std::optional<Socket> connect_to(const std::string& address, int port, const Patience& patience);

// Nothing when nobody waits.  Error{resource_exhausted} when this process or machine has no descriptor left.
std::optional<Socket> accept_from(const Socket& listener);

// "": the name or number has an address, or too few descriptors are left to ask.  Else why not.
std::string resolve_problem(const std::string& address);

// Numeric addresses, IPv4 first, of a network interface ("eth0"), or of the first of several ("eth0,ens5")
// that this machine has.  Error{not_found} lists its interfaces.
std::vector<std::string> interface_addresses(std::string_view interfaces);

// All of `bytes`, or an Error that names `peer` ("rank 0 at host").
void send_all(const Socket& socket, std::span<const std::byte> bytes, const Patience& patience,
              std::string_view peer);
void receive_all(const Socket& socket, std::span<std::byte> bytes, const Patience& patience,
                 std::string_view peer);

void set_no_delay(const Socket& socket);                // small messages go at once
void set_send_buffer(const Socket& socket, int bytes);  // the kernel no longer chooses it
// Polls find it readable when so many bytes are there, or the end.
void set_least_readable(const Socket& socket, int bytes);

int poll_timeout_ms(int64_t deadline_ns);  // from now, at least 0, rounded up

}  // namespace furrow::comm
