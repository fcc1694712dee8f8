// A rank's connection to the rendezvous store: values that all ranks share, and the watch over them.
//
// Thread safe.  A thread of its own reads, and reports this rank's progress; a rank that computes is not a
// silent one.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "furrow/base/clock.h"
#include "furrow/base/error.h"
#include "furrow/comm/report.h"
#include "furrow/comm/secret.h"
#include "furrow/comm/silence.h"
#include "furrow/comm/store_connection.h"
#include "furrow/comm/store_search.h"
#include "furrow/comm/transport.h"
#include "furrow/comm/wakeup.h"

namespace furrow::comm {

// Somebody asks this process to stop while it waits for others: Error{cancelled}.  `cancel` may be null.
void check_interrupted(const CancelToken* cancel);

class Store : public Rendezvous {
 public:
  // Finds the store and waits until every rank has come.  Error{deadline_exceeded} says who has not, or what
  // was found at the ports instead; Error{failed_precondition} when a rank does not fit (store_server.h);
  // Error{cancelled}.  Those who have come hear why it stops waiting.
  // `silence_ms`: a store that says nothing for so long has failed.  `cancel` ends waiting, unless
  // ignore_interrupts() was called; null: nothing does.
  Store(const StoreAddress& where, const Secret& secret, Member self, int64_t silence_ms, int64_t deadline_ns,
        const CancelToken* cancel = nullptr);
  // Without leave(): the others hear that this rank ended without a goodbye.
  ~Store() override;
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  const std::vector<Member>& members() const { return members_; }  // by rank
  std::string own_address() const { return own_address_; }         // of this host, on the route to rank 0

  // Each throws the failure once there is one.
  void set(const std::string& key, const std::string& value) override;
  std::string get(const std::string& key, int64_t deadline_ns) override;  // waits for somebody to set it
  std::string take(const std::string& key, int64_t deadline_ns) override;
  int64_t add(const std::string& key, int64_t delta);  // the sum, from 0
  void check_alive() const override;
  void ignore_interrupts() { cancel_ = nullptr; }

  // Asked before every report to the others, from the store's thread.  On return the one before is not
  // running.
  void report_progress(std::function<Report()> source);

  // Says how far the rank at fault was, given what it last reported: it may know better.  Asked from the
  // store's thread; as above.
  void look_at_progress(std::function<std::string(int rank, const Report& reported)> source);

  // What `rank` last reported, as far as the store can be asked within a moment; not from the store's thread.
  std::optional<Report> progress_of(int rank) noexcept;

  // Called once, from the store's thread, when a rank failed or the store is lost; at once when that has
  // happened.
  void on_failure(std::function<void(const Error&)> handler);
  std::optional<Error> failure() const;

  // Tells every other rank that this one ends with `reason`; returns when the store has it, or after a
  // moment, somewhat longer where it has not even left for the store.
  void fail(const Error& reason) noexcept;

  // The goodbye: this rank has finished, its connection may end.
  void leave(int64_t deadline_ns);

 private:
  struct Reply {
    bool ready = false;
    std::string text;
    int64_t number = 0;
  };

  void await_everybody(const StoreAddress& where, int64_t deadline_ns);
  template <class Done>
  void wait(std::unique_lock<std::mutex>& lock, int64_t deadline_ns, const Done& done);
  bool interrupted() const;
  void begin_to_listen();
  void poll_once();
  void send_beat(int64_t now_ns);
  void check_silence();
  void handle(const StoreMessage& message);
  void lose(ErrorCode code, const std::string& how);
  void record(const Error& error);
  void record_loss();
  Reply request(StoreMessage message, int64_t deadline_ns);
  const Member* member_zero() const;  // null: not known yet
  std::string zero() const;           // "rank 0 (host, pid)", as far as it is known
  std::string last_progress(int rank, const Report& reported);

  const Member self_;
  const int64_t silence_ns_;
  const int64_t interval_ns_;
  const Wakeup wakeup_;
  std::atomic<const CancelToken*> cancel_;
  std::vector<Member> members_;
  std::string own_address_;

  std::mutex calls_mutex_;  // held while one of these runs; before mutex_
  std::function<Report()> progress_;
  std::function<std::string(int, const Report&)> progress_of_other_;
  std::function<void(const Error&)> handler_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  StoreConnection connection_;
  std::map<uint64_t, Reply> replies_;
  uint64_t next_id_ = 1;
  std::optional<Error> failure_;
  std::string absent_;
  std::optional<Member> zero_;  // before the welcome
  Report zero_progress_;
  Silence silence_;  // of the store
  int64_t next_beat_ns_ = 0;
  bool welcome_ = false;
  bool leaving_ = false;
  bool left_ = false;
  std::optional<Error> loss_;  // of the store; becomes the failure when it is due.  Of the thread
  int64_t loss_due_ns_ = 0;
  std::jthread thread_;  // last: it uses all of the above
};

// A rank that cannot join says why, over one connection and without a thread: every other rank ends with it.
// False: no store was found by the deadline, or it did not answer.
bool tell_store(const StoreAddress& where, const Secret& secret, const Member& self, const Error& reason,
                const Patience& patience) noexcept;

}  // namespace furrow::comm
