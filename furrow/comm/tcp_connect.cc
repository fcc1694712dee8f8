#include "furrow/comm/tcp_connect.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "furrow/base/clock.h"
#include "furrow/base/error.h"
#include "furrow/base/failpoint.h"
#include "furrow/base/text.h"
#include "furrow/comm/secret.h"

namespace furrow::comm {
namespace {

constexpr int64_t kMs = 1'000'000;
constexpr int kBetweenTriesMs = 20;
constexpr int64_t kLargestPort = 65535;

std::string key_of(int rank) { return fmt::format("tcp/{}", rank); }

// One that holds the token and has yet to say which connection it is.
struct Caller {
  Socket socket;
  IntroductionBytes introduction{};
  size_t received = 0;
};

// What is there of its introduction.  False: it has gone; if it was a rank it calls again.
bool listen_to(Caller& caller) {
  const auto room = std::span(caller.introduction).subspan(caller.received);
  const ssize_t count = recv(caller.socket.descriptor(), room.data(), room.size(), 0);
  if (count <= 0) return count < 0 && (errno == EAGAIN || errno == EINTR);
  caller.received += static_cast<size_t>(count);
  return true;
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
      FURROW_FAILPOINT("comm.introduce");
      send_all(socket, to_bytes(Introduction{own(), index}), context_.deadline_ns,
               describe(context_.roster, peer));
      slot(peer, index) = std::move(socket);
    }
  }

  // Whoever is waited for may fail meanwhile: a process that is stopped is connected to, and says nothing.
  Socket reach(int peer, const Endpoint& endpoint) const {
    const Patience patience(context_.deadline_ns, [this] { context_.rendezvous->check_alive(); });
    while (true) {
      auto socket = connect_to(endpoint.address, endpoint.port, patience);
      if (socket && greet(*socket, kDataPurpose, secret_, patience) == Greeting::kFriend) {
        return std::move(*socket);
      }
      context_.rendezvous->check_alive();
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
    for (const Caller& caller : callers_) polls.push_back({caller.socket.descriptor(), POLLIN, 0});
    poll(polls.data(), polls.size(),
         poll_timeout_ms(std::min({context_.deadline_ns, door.next_deadline_ns(),
                                   system_clock().monotonic_ns() + Patience::kBetweenLooksMs * kMs})));
    context_.rendezvous->check_alive();
    const int64_t now = system_clock().monotonic_ns();
    for (Socket& socket : door.admit()) callers_.push_back({std::move(socket)});
    std::erase_if(callers_, [&](Caller& caller) { return !listen_to(caller) || is_done(caller); });
    if (now < context_.deadline_ns) return;
    throw Error(ErrorCode::kDeadlineExceeded,
                fmt::format("not connected in time: {}: see their logs, or raise comm.init_timeout_seconds",
                            join(missing(), ", ")));
  }

  // It has said who it is, and has its place if it is waited for.  However long that takes: it is a rank,
  // which holds itself connected, and may have been stopped just then.
  bool is_done(Caller& caller) {
    if (caller.received < caller.introduction.size()) return false;
    const Introduction said = parse_introduction(caller.introduction);
    if (is_awaited(said, own(), peers_, context_.tcp.connections))
      slot(said.rank, said.connection) = std::move(caller.socket);
    return true;
  }

  const JoinContext& context_;
  const Secret secret_;
  std::vector<TcpSockets> sockets_;
  std::vector<int> peers_;
  std::vector<Caller> callers_;
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

bool is_awaited(const Introduction& introduction, int own, const std::vector<int>& peers, int connections) {
  return introduction.rank > own && std::ranges::find(peers, introduction.rank) != peers.end() &&
         introduction.connection >= 0 && introduction.connection <= connections;
}

std::string to_text(const Endpoint& endpoint) {
  return fmt::format("{} {}", endpoint.port, endpoint.address);
}

Endpoint parse_endpoint(std::string_view text) {
  const size_t space = text.find(' ');
  int64_t port = 0;
  if (space == std::string_view::npos || !parse_int(text.substr(0, space), port) || port < 1 ||
      port > kLargestPort || space + 1 == text.size())
    throw Error(ErrorCode::kDataLoss, fmt::format("'{}' in the store is no port and address", text));
  return {std::string(text.substr(space + 1)), static_cast<int>(port)};
}

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
