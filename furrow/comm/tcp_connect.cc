#include "furrow/comm/tcp_connect.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>

#include "furrow/base/clock.h"
#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/comm/handshake.h"
#include "furrow/comm/secret.h"
#include "furrow/comm/wire.h"

namespace furrow::comm {
namespace {

constexpr int64_t kMs = 1'000'000;
constexpr int64_t kIntroductionMs = 2'000;
constexpr int kBetweenTriesMs = 20;
constexpr int64_t kBetweenLooksMs = 200;
constexpr size_t kIntroductionBytes = 8;

std::string key_of(int rank) { return fmt::format("tcp/{}", rank); }

std::string to_text(const Endpoint& endpoint) {
  return fmt::format("{} {}", endpoint.port, endpoint.address);
}

Endpoint parse_endpoint(const std::string& text) {
  const size_t space = text.find(' ');
  int64_t port = 0;
  FURROW_CHECK(space != std::string::npos && parse_int(text.substr(0, space), port));
  return {text.substr(space + 1), static_cast<int>(port)};
}

// The calls of one rank to the others, and theirs to it.
class Connector {
 public:
  explicit Connector(const JoinContext& context)
      : context_(context),
        secret_(context.job_token),
        sockets_(static_cast<size_t>(context.roster.size())),
        peers_(tcp_peers(context)) {}

  std::vector<TcpSockets> connect() {
    auto listener = listen_at(context_.tcp.address, 0);
    if (!listener) throw Error(ErrorCode::kUnavailable, "no port is free at " + context_.tcp.address);
    context_.rendezvous->set(key_of(own()), to_text({context_.tcp.address, local_port(*listener)}));
    Door door(std::move(*listener), kDataPurpose, secret_);
    for (const int peer : peers_) {
      if (peer < own()) call(peer);
    }
    while (!missing().empty()) receive_calls(door);
    return std::move(sockets_);
  }

 private:
  int own() const { return context_.roster.rank; }
  int per_peer() const { return context_.tcp.connections + 1; }

  Socket& slot(int peer, int index) {
    TcpSockets& sockets = sockets_[static_cast<size_t>(peer)];
    if (index == 0) return sockets.control;
    sockets.data.resize(static_cast<size_t>(context_.tcp.connections));
    return sockets.data[static_cast<size_t>(index - 1)];
  }

  void call(int peer) {
    const Endpoint endpoint = parse_endpoint(context_.rendezvous->get(key_of(peer), context_.deadline_ns));
    for (int index = 0; index < per_peer(); ++index) {
      Socket socket = reach(peer, endpoint);
      WireWriter introduction;
      introduction.number(int32_t{own()}).number(int32_t{index});
      send_all(socket, std::as_bytes(std::span(introduction.bytes())), context_.deadline_ns,
               describe(context_.roster, peer));
      slot(peer, index) = std::move(socket);
    }
  }

  Socket reach(int peer, const Endpoint& endpoint) const {
    while (true) {
      auto socket = connect_to(endpoint.address, endpoint.port, context_.deadline_ns,
                               [&] { context_.rendezvous->check_alive(); });
      if (socket && greet(*socket, kDataPurpose, secret_, context_.deadline_ns) == Greeting::kFriend) {
        return std::move(*socket);
      }
      context_.rendezvous->check_alive();  // whoever is waited for may have failed meanwhile
      if (system_clock().monotonic_ns() >= context_.deadline_ns) {
        throw Error(
            ErrorCode::kUnavailable,
            fmt::format("{} cannot be reached at {}: a firewall is between, or comm.interface names an "
                        "interface that the others have no route to",
                        describe(context_.roster, peer), to_string(endpoint)));
      }
      poll(nullptr, 0, kBetweenTriesMs);
    }
  }

  std::vector<std::string> missing() {
    std::vector<std::string> names;
    for (const int peer : peers_) {
      bool complete = true;
      for (int index = 0; index < per_peer(); ++index) complete = complete && slot(peer, index).open();
      if (!complete) names.push_back(describe(context_.roster, peer));
    }
    return names;
  }

  void receive_calls(Door& door) {
    std::vector<pollfd> polls;
    door.add_polls(polls);
    poll(polls.data(), polls.size(),
         poll_timeout_ms(std::min({context_.deadline_ns, door.next_deadline_ns(),
                                   system_clock().monotonic_ns() + kBetweenLooksMs * kMs})));
    context_.rendezvous->check_alive();
    for (Socket& socket : door.admit()) take(std::move(socket));
    if (system_clock().monotonic_ns() < context_.deadline_ns) return;
    throw Error(ErrorCode::kDeadlineExceeded,
                fmt::format("not connected in time: {}: see their logs, or raise comm.init_timeout_seconds",
                            join(missing(), ", ")));
  }

  // The caller holds the token, so its word is waited for, if not long.
  void take(Socket socket) {
    std::string bytes(kIntroductionBytes, '\0');
    try {
      receive_all(socket, std::as_writable_bytes(std::span(bytes)),
                  system_clock().monotonic_ns() + kIntroductionMs * kMs, "a caller");
    } catch (const Error&) {  // it has gone; if it was a rank it calls again
      return;
    }
    WireReader reader(bytes);
    const int rank = reader.number<int32_t>(), index = reader.number<int32_t>();
    const bool expected = rank > own() && std::find(peers_.begin(), peers_.end(), rank) != peers_.end();
    if (expected && index >= 0 && index < per_peer()) slot(rank, index) = std::move(socket);
  }

  const JoinContext& context_;
  const Secret secret_;
  std::vector<TcpSockets> sockets_;
  std::vector<int> peers_;
};

// To peers on this host, on its way at once: as much as stays in a core's cache between the kernel's two
// copies.  Between hosts the kernel finds out how much the way holds.
void bound_send_buffers(const Roster& roster, std::vector<TcpSockets>& sockets) {
  constexpr int kBytes = 256 * 1024;
  const std::string& here = roster.ranks[static_cast<size_t>(roster.rank)].host;
  for (size_t peer = 0; peer < sockets.size(); ++peer) {
    if (roster.ranks[peer].host != here) continue;
    for (const Socket& socket : sockets[peer].data) set_send_buffer(socket, kBytes);
  }
}

}  // namespace

std::vector<int> tcp_peers(const JoinContext& context) {
  std::vector<int> peers = context.tcp.peers;
  const bool everybody = peers.empty();
  for (int rank = 0; everybody && rank < context.roster.size(); ++rank) {
    if (rank != context.roster.rank) peers.push_back(rank);
  }
  std::sort(peers.begin(), peers.end());
  return peers;
}

std::vector<TcpSockets> connect_tcp(const JoinContext& context) {
  std::vector<TcpSockets> sockets = Connector(context).connect();
  bound_send_buffers(context.roster, sockets);
  return sockets;
}

}  // namespace furrow::comm
