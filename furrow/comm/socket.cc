#include "furrow/comm/socket.h"

#include <fmt/format.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <fstream>
#include <memory>
#include <set>
#include <utility>

#include "furrow/base/clock.h"
#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/comm/descriptors.h"

namespace furrow::comm {
namespace {

constexpr int kBacklog = 1024;

struct AddressListDeleter {
  void operator()(addrinfo* list) const { freeaddrinfo(list); }
};
using AddressList = std::unique_ptr<addrinfo, AddressListDeleter>;

int look_up(const std::string& address, int port, addrinfo** list) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  return getaddrinfo(address.c_str(), std::to_string(port).c_str(), &hints, list);
}

// Empty when the name is not known.
AddressList resolve(const std::string& address, int port) {
  addrinfo* list = nullptr;
  errno = 0;
  const int status = look_up(address, port, &list);
  if (status != 0 && out_of_descriptors(errno)) throw descriptor_error(errno, "look up " + address);
  return AddressList(status == 0 ? list : nullptr);
}

// Closed where this machine has no such family: names have addresses of it all the same.
Socket make_socket(int family) {
  Socket socket(::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket.open() && errno != EAFNOSUPPORT) throw descriptor_error(errno, "open a socket");
  return socket;
}

void set_option(const Socket& socket, int level, int option, int value) {
  setsockopt(socket.descriptor(), level, option, &value, sizeof value);
}

struct InterfaceListDeleter {
  void operator()(ifaddrs* list) const { freeifaddrs(list); }
};
using InterfaceList = std::unique_ptr<ifaddrs, InterfaceListDeleter>;

InterfaceList list_interfaces() {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) throw Error(ErrorCode::kUnavailable, "cannot list the network interfaces");
  return InterfaceList(list);
}

// Of an address of an interface; AF_UNSPEC: it is none of IP.
int ip_family(const ifaddrs& entry) {
  const int family = entry.ifa_addr == nullptr ? AF_UNSPEC : entry.ifa_addr->sa_family;
  return family == AF_INET || family == AF_INET6 ? family : AF_UNSPEC;
}

// 0 or the error number.
int bind_and_listen(const Socket& socket, const sockaddr* address, socklen_t length) {
  set_option(socket, SOL_SOCKET, SO_REUSEADDR, 1);
  if (bind(socket.descriptor(), address, length) != 0) return errno;
  return listen(socket.descriptor(), kBacklog) == 0 ? 0 : errno;
}

Endpoint endpoint_of(const sockaddr_storage& address, socklen_t length) {
  char host[NI_MAXHOST] = {}, service[NI_MAXSERV] = {};
  if (getnameinfo(reinterpret_cast<const sockaddr*>(&address), length, host, sizeof host, service,
                  sizeof service, NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return {};
  }
  int64_t port = 0;
  parse_int(service, port);
  std::string text = host;
  if (text.starts_with("::ffff:")) text = text.substr(7);  // IPv4 seen by an IPv6 socket
  return {text, static_cast<int>(port)};
}

// REQUIRES: an address of IP.
std::string address_of(const ifaddrs& entry) {
  const socklen_t length = ip_family(entry) == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
  sockaddr_storage address{};
  std::memcpy(&address, entry.ifa_addr, length);
  return endpoint_of(address, length).address;
}

// Of one interface, those first that every peer can be told: an address of the link alone is nothing to
// other links.
std::vector<std::string> addresses_of(const ifaddrs* list, std::string_view interface) {
  std::vector<std::string> v4, v6, of_the_link;
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    const int family = ip_family(*entry);
    if (entry->ifa_name != interface || family == AF_UNSPEC) continue;
    const std::string text = address_of(*entry);
    (family == AF_INET ? v4 : text.starts_with("fe80:") ? of_the_link : v6).push_back(text);
  }
  for (const auto& more : {v6, of_the_link}) v4.insert(v4.end(), more.begin(), more.end());
  return v4;
}

// Ready for `events` (or broken) before the deadline?
bool wait_for(int descriptor, int16_t events, const Patience& patience) {
  constexpr auto kLooks = static_cast<int>(Patience::kBetweenLooksMs);
  while (true) {
    pollfd one{descriptor, events, 0};
    const int left = poll_timeout_ms(patience.deadline_ns);
    const int ready = poll(&one, 1, patience.look ? std::min(left, kLooks) : left);
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return false;
    if (ready == 0 && poll_timeout_ms(patience.deadline_ns) == 0) return false;
    if (patience.look) patience.look();
  }
}

bool connected(const Socket& socket, const addrinfo& target, const Patience& patience) {
  if (connect(socket.descriptor(), target.ai_addr, target.ai_addrlen) == 0) return true;
  if (errno != EINPROGRESS || !wait_for(socket.descriptor(), POLLOUT, patience)) return false;
  int status = 0;
  socklen_t length = sizeof status;
  getsockopt(socket.descriptor(), SOL_SOCKET, SO_ERROR, &status, &length);
  return status == 0;
}

// A port that nobody listens at may, on one machine, be chosen as the source of the very connection to it:
// TCP's simultaneous open then connects the socket to itself.
bool is_itself(const Socket& socket) { return local_endpoint(socket) == peer_endpoint(socket); }

void check_transfer(ssize_t count, int16_t events, const Socket& socket, const Patience& patience,
                    std::string_view peer) {
  if (count > 0) return;
  if (count == 0) throw Error(ErrorCode::kUnavailable, fmt::format("{} closed the connection", peer));
  if (errno == EINTR) return;
  if (errno != EAGAIN && errno != EWOULDBLOCK) {
    throw Error(ErrorCode::kUnavailable,
                fmt::format("the connection to {} broke: {}", peer, std::strerror(errno)));
  }
  if (!wait_for(socket.descriptor(), events, patience)) {
    throw Error(ErrorCode::kDeadlineExceeded, fmt::format("{} did not answer in time", peer));
  }
}

}  // namespace

Socket& Socket::operator=(Socket&& other) noexcept {
  if (this != &other) {
    close();
    descriptor_ = other.release();
  }
  return *this;
}

int Socket::release() { return std::exchange(descriptor_, -1); }

void Socket::close() {
  if (descriptor_ >= 0) ::close(release());
}

void Socket::shutdown() const {
  if (descriptor_ >= 0) ::shutdown(descriptor_, SHUT_RDWR);
}

std::string to_string(const Endpoint& endpoint) {
  const bool v6 = endpoint.address.find(':') != std::string::npos;
  return fmt::format("{}{}{}:{}", v6 ? "[" : "", endpoint.address, v6 ? "]" : "", endpoint.port);
}

std::optional<Socket> listen_everywhere(int port) {
  Socket socket(::socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (socket.open()) {
    set_option(socket, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    sockaddr_in6 address{};
    address.sin6_family = AF_INET6;
    address.sin6_port = htons(static_cast<uint16_t>(port));
    if (bind_and_listen(socket, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) return socket;
  }
  Socket plain = make_socket(AF_INET);  // a machine without IPv6
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  if (bind_and_listen(plain, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) return plain;
  return std::nullopt;
}

std::optional<Socket> listen_at(const std::string& address, int port) {
  const AddressList list = resolve(address, port);
  for (const addrinfo* entry = list.get(); entry != nullptr; entry = entry->ai_next) {
    Socket socket = make_socket(entry->ai_family);
    if (!socket.open()) continue;
    const int status = bind_and_listen(socket, entry->ai_addr, entry->ai_addrlen);
    if (status == 0) return socket;
    if (status != EADDRNOTAVAIL) return std::nullopt;
  }
  return listen_everywhere(port);
}

Endpoint local_endpoint(const Socket& socket) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  getsockname(socket.descriptor(), reinterpret_cast<sockaddr*>(&address), &length);
  return endpoint_of(address, length);
}

Endpoint peer_endpoint(const Socket& socket) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  if (getpeername(socket.descriptor(), reinterpret_cast<sockaddr*>(&address), &length) != 0) return {};
  return endpoint_of(address, length);
}

int local_port(const Socket& socket) { return local_endpoint(socket).port; }

bool is_loopback(std::string_view address) { return address == "::1" || address.starts_with("127."); }

std::optional<Socket> connect_to(const std::string& address, int port, const Patience& patience) {
  const AddressList list = resolve(address, port);
  int64_t left = 0;
  for (const addrinfo* entry = list.get(); entry != nullptr; entry = entry->ai_next) ++left;
  for (const addrinfo* entry = list.get(); entry != nullptr; entry = entry->ai_next, --left) {
    Socket socket = make_socket(entry->ai_family);
    if (!socket.open()) continue;
    // One that nothing comes back from leaves time for the others.
    const int64_t now = system_clock().monotonic_ns();
    const Patience share(now + (patience.deadline_ns - now) / left, patience.look);
    if (!connected(socket, *entry, share) || is_itself(socket)) continue;
    set_no_delay(socket);
    return socket;
  }
  return std::nullopt;
}

std::optional<Socket> accept_from(const Socket& listener) {
  Socket socket(accept4(listener.descriptor(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!socket.open() && out_of_descriptors(errno)) throw descriptor_error(errno, "accept a connection");
  if (!socket.open()) return std::nullopt;
  set_no_delay(socket);
  return socket;
}

std::string resolve_problem(const std::string& address) {
  addrinfo* list = nullptr;
  errno = 0;
  const int status = look_up(address, 0, &list);
  const AddressList owner(status == 0 ? list : nullptr);
  return status == 0 || out_of_descriptors(errno) ? "" : gai_strerror(status);
}

std::string interface_of(const std::string& address) {
  const InterfaceList list = list_interfaces();
  for (const ifaddrs* entry = list.get(); entry != nullptr; entry = entry->ifa_next) {
    if (ip_family(*entry) != AF_UNSPEC && address_of(*entry) == address) return entry->ifa_name;
  }
  return "";
}

int64_t interface_rate_mbit(const std::string& interface) {
  int64_t rate = 0;
  std::ifstream("/sys/class/net/" + interface + "/speed") >> rate;  // -1 where a virtual one has none
  return std::max<int64_t>(rate, 0);
}

std::vector<std::string> interface_addresses(std::string_view interfaces) {
  const InterfaceList list = list_interfaces();
  std::set<std::string> names;
  for (const ifaddrs* entry = list.get(); entry != nullptr; entry = entry->ifa_next)
    names.insert(entry->ifa_name);
  for (const std::string& name : split(interfaces, ',')) {
    std::vector<std::string> addresses = addresses_of(list.get(), trim(name));
    if (!addresses.empty()) return addresses;
  }
  throw Error(
      ErrorCode::kNotFound,
      fmt::format("no network interface '{}' with an address, as comm.interface says: this machine has {}",
                  interfaces, join({names.begin(), names.end()}, ", ")));
}

void send_all(const Socket& socket, std::span<const std::byte> bytes, const Patience& patience,
              std::string_view peer) {
  while (!bytes.empty()) {
    const ssize_t count = send(socket.descriptor(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    check_transfer(count, POLLOUT, socket, patience, peer);
    if (count > 0) bytes = bytes.subspan(static_cast<size_t>(count));
  }
}

void receive_all(const Socket& socket, std::span<std::byte> bytes, const Patience& patience,
                 std::string_view peer) {
  while (!bytes.empty()) {
    const ssize_t count = recv(socket.descriptor(), bytes.data(), bytes.size(), 0);
    check_transfer(count, POLLIN, socket, patience, peer);
    if (count > 0) bytes = bytes.subspan(static_cast<size_t>(count));
  }
}

void set_send_buffer(const Socket& socket, int bytes) { set_option(socket, SOL_SOCKET, SO_SNDBUF, bytes); }
void set_least_readable(const Socket& socket, int bytes) {
  set_option(socket, SOL_SOCKET, SO_RCVLOWAT, bytes);
}
void set_no_delay(const Socket& socket) { set_option(socket, IPPROTO_TCP, TCP_NODELAY, 1); }

int poll_timeout_ms(int64_t deadline_ns) {
  const int64_t left = deadline_ns - system_clock().monotonic_ns();
  return static_cast<int>(std::clamp<int64_t>((left + 999'999) / 1'000'000, 0, INT_MAX));
}

}  // namespace furrow::comm
