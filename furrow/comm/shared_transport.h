// Messages between ranks that share memory: the common part of inproc (threads) and shm (processes of one
// host).
//
// A message is a slot of a lane (shared_control.h).  Small ones travel in the slot; for larger ones the slot
// says where the sender's bytes are, and the receiver reads them there.  Messages that nobody asks for yet do
// not keep others from passing: a receiver that finds a lane full of them puts them aside.  Waiting spins for
// a moment, then sleeps on a futex, looking up now and then for peers that died.
#pragma once

#include <array>
#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "furrow/comm/brief_lock.h"
#include "furrow/comm/shared_control.h"
#include "furrow/comm/spin_wait.h"
#include "furrow/comm/transport.h"

namespace furrow::comm {

class SharedTransport : public Transport, public PeerMemory {
 public:
  ~SharedTransport() override;

  bool reaches(int peer) const override { return peers_[static_cast<size_t>(peer)] != nullptr; }
  Ticket post_send(int peer, const Envelope& envelope, std::span<const std::byte> bytes) override;
  Ticket post_recv(int peer, const Envelope& envelope, std::span<std::byte> bytes) override;
  void wait(Ticket ticket, int64_t deadline_ns) override;
  void receive(int peer, const Envelope& envelope, std::span<std::byte> bytes, int64_t deadline_ns) override;
  void take_turns() override {
    if (fences_) mutex_.take_turns();
  }
  void share() override { mutex_.share(); }
  PeerMemory* peer_memory() override { return this; }
  void abort(const Error& reason) noexcept override;
  void on_failure(std::function<void(const Error&)> handler) override {
    failure_handler_ = std::move(handler);
  }
  void listen() override;
  ProgressNote* progress_note() override { return &own().progress; }
  std::optional<PeerProgress> progress_of(int peer) const override;
  const WireCounts& wire() const override { return wire_; }

  Ticket post_expose(int peer, const Envelope& envelope, std::span<std::byte> bytes) override;
  Window open(int peer, const Envelope& envelope, size_t bytes, int64_t deadline_ns) override;
  void close(const Window& window) override;
  void read(int peer, const Envelope& envelope, size_t bytes, int64_t deadline_ns,
            const Reader& reader) override;

 protected:
  // Where bytes of this rank are, for the peers.
  struct Location {
    uint32_t segment = 0;
    uint64_t offset = 0;
  };

  // `controls[r]` of rank r, null where this transport does not reach it; the own one among them.
  SharedTransport(Roster roster, std::vector<Control*> controls);

  virtual std::optional<Location> locate(std::span<const std::byte> bytes) const = 0;
  virtual std::byte* resolve(int peer, Location location,
                             uint64_t bytes) = 0;  // for this rank to read and write
  virtual bool died(int peer) = 0;                 // without leaving; asked now and then while waiting

  const Roster& roster() const { return roster_; }
  Control& control(int rank) const { return *peers_[static_cast<size_t>(rank)]; }
  Control& own() const { return control(roster_.rank); }
  // Says to the peers that this rank goes in order.  A derived destructor calls it while its memory still
  // stands.
  void leave() noexcept;

 private:
  struct Outgoing {  // not yet in a slot
    Envelope envelope;
    std::span<const std::byte> bytes;
    MessageForm form;
    Location location;
    std::unique_ptr<Memory::Block> staged;  // the bytes, where the peer cannot see the caller's
  };
  struct Awaited {  // published, and its bytes are not yet read or written
    uint64_t message;
    uint32_t end;  // of the lane
    std::unique_ptr<Memory::Block> staged;
  };
  struct Sender {            // to one peer
    uint64_t next = 0;       // number of the next message
    uint64_t published = 0;  // messages below it were in slots
    uint64_t consumed = 0;   // the lane's, when last looked up
    std::deque<Outgoing> waiting;
    std::vector<Awaited> awaited;
    std::vector<uint32_t> free_ends;
    uint32_t used_ends = 0;  // those below it were used
  };
  struct Posted {
    uint64_t id;
    Envelope envelope;
    std::span<std::byte> bytes;
  };
  struct Aside {  // a message that was taken out of its slot before anybody asked for it
    uint64_t message;
    bool open;
    std::unique_ptr<Slot> slot;
  };
  struct Receiver {            // from one peer
    std::vector<Aside> aside;  // older than those in slots
    uint64_t low = 0;          // messages below it are out of their slots
    uint64_t told = 0;         // what the peer knows of low
    uint64_t seen = 0;         // messages below it were looked at
    uint32_t taken = 0;        // by bit(t): open or done, from low on
    uint32_t done = 0;
    uint64_t next_id = 0;  // of posted receives
    std::deque<Posted> posted;
  };

  // REQUIRES, of what follows up to bytes_of(): mutex_ is held.
  Ticket post(int peer, const Envelope& envelope, std::span<const std::byte> bytes, MessageForm form);
  Slot& next_slot(int peer, const Envelope& envelope, size_t bytes, MessageForm form);
  void hand_over(int peer, Slot& slot, size_t inline_bytes);
  void publish_inline(int peer, const Envelope& envelope, std::span<const std::byte> bytes);
  void publish(int peer, Outgoing& message);
  bool can_publish(int peer, MessageForm form);
  void flush(int peer);
  bool sent(int peer, uint64_t message);
  bool collect_read(int peer);
  void keep_staging(std::unique_ptr<Memory::Block> block);
  std::unique_ptr<Memory::Block> staging(size_t bytes);
  Slot* find(int peer, const Envelope& expected, uint64_t* message);
  Slot& slot_of(int peer, uint64_t message) const;
  void put_aside(int peer);
  void receive_posted(int peer);
  bool is_posted(int peer, uint64_t id) const;
  void move_on();
  void check_message(int peer, const Envelope& expected, const Slot& slot, uint64_t bytes);
  void mark_open(int peer, uint64_t message);
  void finish(int peer, uint64_t message);
  void take_out(int peer, uint64_t message);
  void tell_consumed(int peer);
  std::byte* bytes_of(int peer, Slot& slot);
  Error lost_memory(int peer, const Error& how);

  void count_sent(uint64_t channel, size_t bytes) { wire_.add_sent(channel, static_cast<int64_t>(bytes)); }
  void count_received(uint64_t channel, size_t bytes) {
    wire_.add_received(channel, static_cast<int64_t>(bytes));
  }

  // What a thread waits for, and what tells without the lock that it may have come.
  struct Awaits {
    int peer;
    const Envelope* message = nullptr;  // null: that the peer reads, or writes
    int64_t deadline_ns;
  };
  struct Sign {
    const std::atomic<uint64_t>* word = nullptr;
    uint64_t value = 0;
    bool seen() const { return word->load(std::memory_order_relaxed) == value; }
  };
  Sign sign_of(const Awaits& what) const;
  void tell_threads(bool asleep);
  template <class Ready>
  void wait_until(const Awaits& what, const Ready& ready);
  template <class Look>
  bool spin(const Look& look);
  // Throws when there is a reason to stop.  `gone`: the peer had left before what is waited for was looked
  // for.
  void look_up(const Awaits& what, bool gone);
  void check_same_operation(int peer, const Envelope& expected);
  Error hear_abort();
  void tell(Control& peer, std::atomic<uint64_t>& word, uint64_t value);
  void ring(Control& control);

  const Roster roster_;
  const std::vector<Control*> peers_;
  const int64_t spin_ns_;
  Crowding crowding_;
  const bool fences_;
  BiasedLock mutex_;           // of what follows up to staging_
  bool received_any_ = false;  // a posted receive, since other threads that sleep were told
  std::vector<Sender> senders_;
  std::vector<Receiver> receivers_;
  int posted_ = 0;                                       // receives of all peers
  int deferred_ = 0;                                     // sends of all peers that wait for a slot
  std::vector<std::unique_ptr<Memory::Block>> staging_;  // kept for the next message that needs it
  std::function<void(const Error&)> failure_handler_;
  std::atomic<bool> handled_{false};
  std::mutex abort_mutex_;
  WireCounts wire_;
};

}  // namespace furrow::comm
