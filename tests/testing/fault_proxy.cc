#include "tests/testing/fault_proxy.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <deque>
#include <list>
#include <stdexcept>
#include <vector>

#include "furrow/base/clock.h"
#include "furrow/base/rng.h"

namespace furrow::testing {
namespace {

constexpr int kTickMs = 2;
constexpr size_t kPiece = 64 * 1024;
constexpr size_t kMostPieces = 64;  // held for one direction

sockaddr_in loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

}  // namespace

// One direction of one connection.
struct FaultProxy::Flow {
  struct Piece {
    std::vector<char> bytes;
    size_t sent = 0;
    int64_t due_ns = 0;
  };
  int from = -1, to = -1;
  std::deque<Piece> pieces;
  bool ended = false;  // `from` sends no more

  // False at an error.
  bool take(FaultProxy& proxy) {
    while (!ended && pieces.size() < kMostPieces) {
      Piece piece{std::vector<char>(kPiece)};
      const ssize_t count = recv(from, piece.bytes.data(), kPiece, MSG_DONTWAIT);
      if (count < 0) return errno == EAGAIN || errno == EINTR;
      ended = count == 0;
      if (ended) return true;
      piece.bytes.resize(static_cast<size_t>(count));
      const int64_t before = proxy.passed_.fetch_add(count);
      piece.due_ns = system_clock().monotonic_ns() + proxy.delay_ns_ + proxy.hold_ns(before);
      const int64_t damage = proxy.damage_after_;
      if (damage >= before && damage < before + count) piece.bytes[static_cast<size_t>(damage - before)] ^= 4;
      pieces.push_back(std::move(piece));
    }
    return true;
  }

  bool give() {
    while (!pieces.empty() && system_clock().monotonic_ns() >= pieces.front().due_ns) {
      Piece& piece = pieces.front();
      const ssize_t count = send(to, piece.bytes.data() + piece.sent, piece.bytes.size() - piece.sent,
                                 MSG_DONTWAIT | MSG_NOSIGNAL);
      if (count < 0) return errno == EAGAIN || errno == EINTR;
      piece.sent += static_cast<size_t>(count);
      if (piece.sent == piece.bytes.size()) pieces.pop_front();
    }
    if (ended && pieces.empty()) shutdown(to, SHUT_WR);
    return true;
  }
};

FaultProxy::FaultProxy(int target_port) : target_port_(target_port) {
  listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  sockaddr_in address = loopback(0);
  socklen_t length = sizeof address;
  if (bind(listener_, reinterpret_cast<sockaddr*>(&address), length) != 0 || listen(listener_, 64) != 0 ||
      getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    throw std::runtime_error("the proxy cannot listen");
  }
  port_ = ntohs(address.sin_port);
  thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
}

// Of the piece that begins with that byte of all.
int64_t FaultProxy::hold_ns(int64_t byte) {
  const double loss = loss_;
  if (uniform01(philox4x32({static_cast<uint32_t>(byte), 0, 0, 0}, {1, 0})[0]) >= loss) return 0;
  ++lost_;
  return timeout_ns_;
}

FaultProxy::~FaultProxy() {
  thread_.request_stop();
  thread_.join();
  close(listener_);
}

void FaultProxy::run(const std::stop_token& stop) {
  std::list<Flow> flows;  // two per connection, one after the other
  const auto close_all = [&] {
    for (const Flow& flow : flows) close(flow.from);
    flows.clear();
  };
  while (!stop.stop_requested()) {
    std::vector<pollfd> polls = {{listener_, POLLIN, 0}};
    for (const Flow& flow : flows) {
      if (!partitioned_ && !flow.ended && flow.pieces.size() < kMostPieces)
        polls.push_back({flow.from, POLLIN, 0});
    }
    poll(polls.data(), polls.size(), kTickMs);
    if (cut_.exchange(false)) close_all();
    if (partitioned_) continue;
    if (const int near = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC); near >= 0) {
      const int far = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
      const sockaddr_in address = loopback(target_port_);
      if (connect(far, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
        flows.push_back({near, far, {}, false});
        flows.push_back({far, near, {}, false});
      } else {
        close(near);
        close(far);
      }
    }
    for (auto flow = flows.begin(); flow != flows.end(); std::advance(flow, 2)) {
      Flow &there = *flow, &back = *std::next(flow);
      for (Flow* one : {&there, &back}) {
        if (!one->take(*this) || !one->give()) {  // one side is gone: so is the other
          shutdown(one->from, SHUT_RDWR);
          shutdown(one->to, SHUT_RDWR);
        }
      }
    }
  }
  close_all();
}

}  // namespace furrow::testing
