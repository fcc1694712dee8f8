#include "furrow/comm/store_search.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "furrow/base/clock.h"
#include "furrow/base/error.h"
#include "furrow/base/log.h"
#include "furrow/comm/handshake.h"

namespace furrow::comm {
namespace {

constexpr int64_t kMs = 1'000'000;
constexpr int kBetweenTriesMs = 20;
constexpr int64_t kConnectMs = 2'000;
constexpr int64_t kSilentMs = 5'000;  // without a word a connection may be one to nobody: it is made anew
constexpr int64_t kSilentRestMs = 1'000;
constexpr int64_t kGreetingMs = 3'000;      // of one that has spoken as the store does
constexpr int64_t kStrangerRestMs = 5'000;  // a port where somebody else listens is tried again after this
constexpr int64_t kWarnAfterMs = 2'000;

int64_t now_ns() { return system_clock().monotonic_ns(); }

// Looks for rank 0's store behind the candidate ports.  Whoever is silent at one of them keeps nobody from
// finding it at another.
class Search {
 public:
  Search(const StoreAddress& where, const Secret& secret, const Patience& patience)
      : where_(where), secret_(secret), patience_(patience) {
    for (const int port : where.ports) candidates_.push_back({.port = port});
  }

  Socket find() {
    while (true) {
      for (Candidate& candidate : candidates_) {
        if (patience_.look) patience_.look();
        // Who has answered does not wait until the other ports, of an address that may be dead, have been
        // tried.
        const int64_t took_ms = knock(candidate);
        if (!candidate.socket.open() && took_ms < kBetweenTriesMs) continue;
        if (auto socket = hear_all(std::max<int64_t>(took_ms, kBetweenTriesMs))) return std::move(*socket);
      }
      if (auto socket = hear_all(kBetweenTriesMs)) return std::move(*socket);
      if (now_ns() >= patience_.deadline_ns) give_up();
      if (!warned_ && now_ns() >= warn_at_ns_) warn();
    }
  }

 private:
  struct Candidate {
    int port = 0;
    Socket socket = {};  // waits for what the other side says first
    int64_t since_ns = 0;
    int64_t rest_until_ns = 0;
  };

  Patience at_most(int64_t ms) const {
    return {std::min(patience_.deadline_ns, now_ns() + ms * kMs), patience_.look};
  }

  // How long it took, in ms.  Where no descriptor is left for one more, one of those that are open may be the
  // store.
  int64_t knock(Candidate& candidate) try {
    const int64_t began_ns = now_ns();
    connect(candidate);
    return (now_ns() - began_ns) / kMs;
  } catch (const Error& error) {
    const bool waits = std::ranges::any_of(candidates_, [](const auto& one) { return one.socket.open(); });
    if (error.code() != ErrorCode::kResourceExhausted || !waits) throw;
    return 0;
  }

  void connect(Candidate& candidate) {
    const int64_t now = now_ns();
    if (candidate.socket.open()) {
      if (now < candidate.since_ns + kSilentMs * kMs) return;
      candidate.socket.close();
      candidate.rest_until_ns = now + kSilentRestMs * kMs;
    }
    if (now < candidate.rest_until_ns) return;
    auto socket = connect_to(where_.address, candidate.port, at_most(kConnectMs));
    if (!socket) return;
    set_least_readable(*socket, Reception::kOpeningBytes);
    candidate.socket = std::move(*socket);
    candidate.since_ns = now_ns();
  }

  // Those that have said all of it, or have gone.
  std::vector<Candidate*> await_words(int64_t wait_ms) {
    std::vector<pollfd> polls;
    std::vector<Candidate*> open, spoken;
    for (Candidate& candidate : candidates_) {
      if (!candidate.socket.open()) continue;
      polls.push_back({candidate.socket.descriptor(), POLLIN, 0});
      open.push_back(&candidate);
    }
    poll(polls.data(), polls.size(), static_cast<int>(wait_ms));
    for (size_t i = 0; i < open.size(); ++i) {
      if (polls[i].revents != 0) spoken.push_back(open[i]);
    }
    return spoken;
  }

  std::optional<Socket> hear_all(int64_t wait_ms) {
    for (Candidate* candidate : await_words(wait_ms)) {
      if (auto socket = hear(*candidate)) return socket;
    }
    return std::nullopt;
  }

  std::optional<Socket> hear(Candidate& candidate) {
    Socket socket = std::move(candidate.socket);
    set_least_readable(socket, 1);
    const Greeting greeting = greet(socket, kStorePurpose, secret_, at_most(kGreetingMs));
    if (greeting == Greeting::kFriend) return socket;
    candidate.rest_until_ns = now_ns() + kStrangerRestMs * kMs;
    if (greeting == Greeting::kRefused) refused_ = candidate.port;
    return std::nullopt;
  }

  // Names may become known; one that was mistyped does not.
  void warn() {
    warned_ = true;
    const std::string problem = resolve_problem(where_.address);
    if (!problem.empty())
      log_warning(fmt::format("MASTER_ADDR={}: {}: trying on until comm.init_timeout_seconds are over",
                              where_.address, problem));
  }

  [[noreturn]] void give_up() const {
    if (const std::string problem = resolve_problem(where_.address); !problem.empty()) {
      throw Error(
          ErrorCode::kDeadlineExceeded,
          fmt::format("MASTER_ADDR={}: {}: this host knows no such name: correct it, give rank 0's address "
                      "as a number, or add the name to DNS or /etc/hosts",
                      where_.address, problem));
    }
    std::string message = fmt::format(
        "no store of rank 0 at {}, ports {} to {}: rank 0 has not started or has ended, "
        "MASTER_ADDR or MASTER_PORT differ between ranks, or a firewall is between",
        where_.address, where_.ports.front(), where_.ports.back());
    if (refused_ != 0) {
      message += fmt::format(
          "; at port {} there is a furrow with another token: give every rank the same "
          "FURROW_JOB_TOKEN",
          refused_);
    }
    throw Error(ErrorCode::kDeadlineExceeded, message);
  }

  const StoreAddress& where_;
  const Secret& secret_;
  const Patience& patience_;
  std::vector<Candidate> candidates_;
  int refused_ = 0;
  const int64_t warn_at_ns_ = now_ns() + kWarnAfterMs * kMs;
  bool warned_ = false;
};

}  // namespace

Socket find_store(const StoreAddress& where, const Secret& secret, const Patience& patience) {
  return Search(where, secret, patience).find();
}

}  // namespace furrow::comm
