// Between processes of any hosts: messages in frames over several connections per pair, received straight
// into the posted buffers.
//
// Whoever waits for a ticket moves all connections on, in its own thread, so that a small message costs no
// thread switch; of several threads that wait, one polls the connections and tells the others. Large ones
// that nobody waits for are moved by a thread of the transport's own; the same thread watches the control
// connections: an abort, a goodbye, a peer's end.
#pragma once

#include <poll.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <variant>
#include <vector>

#include "furrow/comm/link.h"
#include "furrow/comm/store_connection.h"
#include "furrow/comm/tcp_connect.h"
#include "furrow/comm/tcp_peer.h"
#include "furrow/comm/transport.h"
#include "furrow/comm/wakeup.h"

namespace furrow::comm {

class TcpTransport : public Transport {
 public:
  TcpTransport(const JoinContext& context, std::vector<TcpSockets> sockets);
  ~TcpTransport() override;

  std::string_view name() const override { return "tcp"; }
  bool reaches(int peer) const override { return peers_[static_cast<size_t>(peer)] != nullptr; }
  Ticket post_send(int peer, const Envelope& envelope, std::span<const std::byte> bytes) override;
  Ticket post_recv(int peer, const Envelope& envelope, std::span<std::byte> bytes) override;
  void wait(Ticket ticket, int64_t deadline_ns) override;
  std::unique_ptr<Memory::Block> allocate(size_t) override { return nullptr; }
  void abort(const Error& reason) noexcept override;
  void on_failure(std::function<void(const Error&)> handler) override;
  std::optional<PeerProgress> progress_of(int peer) const override;
  const WireCounts& wire() const override { return wire_; }

 private:
  struct Operation {
    int peer = -1;
    std::variant<TcpSend, TcpReceive> what;
  };

  // A thread inside wait().
  struct Waiter {
    const Operation* operation = nullptr;
    std::unique_ptr<Wakeup> wakeup;
  };

  struct Control {
    explicit Control(Socket socket) : connection(std::move(socket)) {}
    StoreConnection connection;
    bool left = false;     // said goodbye
    int64_t ended_ns = 0;  // when the connection was found broken; 0: never
  };

  // REQUIRES, of each: mutex_ is held.
  bool progress();
  void wait_for(std::unique_lock<std::mutex>& lock, const Waiter& waiter, int64_t deadline_ns);
  void sleep(std::unique_lock<std::mutex>& lock, const Waiter& waiter, int64_t until_ns);
  void tell_others(const Waiter& waiter);
  void leave(const Waiter& waiter);
  void tell_poller();
  bool is_done(const Operation& operation) const;
  Ticket keep_or_finish(uint64_t id);
  bool needs_background() const;
  void arm_background();
  void check_peer(int peer, int64_t now_ns);
  void check_alive() const;
  int64_t next_event_ns(const Operation& operation) const;
  EmulatedLink* link() { return emulated_ ? &link_ : nullptr; }
  Error missed_deadline(const Operation& operation) const;

  // Of the watching thread.
  void watch_once();
  int64_t move_in_background(std::vector<pollfd>& polls);
  int64_t read_controls();
  void read_control(int peer, Control& control, int64_t now_ns, std::optional<Error>& failure);

  void set_failure(const Error& error);  // unless there is one already
  bool record(const Error& error);       // the same; failure_mutex_ is held.  False: there is one
  void report_failure(const Error& error);
  void tell_peers(const StoreMessage& message) noexcept;

  const Roster roster_;
  const bool emulated_;
  const size_t frame_bytes_;
  const int64_t spin_ns_;
  const Wakeup waiter_wakeup_, watch_wakeup_;

  mutable std::mutex mutex_;
  WireCounts wire_;
  std::vector<std::unique_ptr<TcpPeer>>
      peers_;                      // by rank; null for those not reached.  The vector never changes
  std::vector<int64_t> ended_ns_;  // by rank: when a data connection was found broken; 0: never
  std::map<uint64_t, Operation> operations_;
  uint64_t next_id_ = 1;
  EmulatedLink link_;
  std::vector<const Waiter*> waiters_;  // threads inside wait(), which move everything
  const Waiter* poller_ = nullptr;      // which of them polls the connections
  std::vector<std::unique_ptr<Wakeup>> spare_wakeups_;
  int64_t background_from_ns_ =
      0;  // from then on the watching thread moves what nobody waits for; 0: nothing to move

  std::mutex control_mutex_;
  std::vector<std::unique_ptr<Control>> controls_;  // by rank, as peers_
  bool told_ = false;                               // the peers know of the failure

  std::atomic<bool> failed_{false};
  mutable std::mutex failure_mutex_;
  std::optional<Error> failure_;
  std::function<void(const Error&)> handler_;
  bool unheard_ = false;  // the failure was a peer's, and there was no handler yet

  std::jthread thread_;  // last: it uses all of the above
};

}  // namespace furrow::comm
