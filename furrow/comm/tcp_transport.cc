#include "furrow/comm/tcp_transport.h"

#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>

#include "furrow/base/clock.h"
#include "furrow/base/process.h"
#include "furrow/base/text.h"
#include "furrow/comm/awake.h"
#include "furrow/comm/silent_thread.h"
#include "furrow/comm/transports.h"

namespace furrow::comm {
namespace {

constexpr int64_t kMs = 1'000'000;
constexpr int64_t kForever = INT64_MAX;
constexpr size_t kFrameBytes = 128 * 1024;         // stays in a core's cache between checksum and copy
constexpr size_t kEmulatedFrameBytes = 16 * 1024;  // fine enough to share a slow link
constexpr int64_t kBackgroundAfterNs =
    kMs;  // who posts usually waits at once, and then moves everything itself
constexpr size_t kBackgroundBytes = 64 * 1024;  // less than that waits in the system's buffers

constexpr int64_t kSpinNs = 30'000;  // before sleeping, where ranks are pinned to cores of their own

// Between a connection's end and the verdict: the store, which sees the same end, knows more about it, and
// takes 150 ms itself.
constexpr int64_t kGraceNs = 400 * kMs;

constexpr std::string_view kNoGoodbye =
    "has ended its connections without a goodbye: it was killed, or has crashed";

int64_t now_ns() { return system_clock().monotonic_ns(); }
int64_t monotonic_of(int64_t unix_ns) { return now_ns() + unix_ns - system_clock().unix_ns(); }

// Spinning pays where the peer runs at the same time, not where it waits for this core.
int64_t spin_ns(const Roster& roster) {
  const std::string& host = roster.ranks[static_cast<size_t>(roster.rank)].host;
  const auto here = std::count_if(roster.ranks.begin(), roster.ranks.end(),
                                  [&](const RankInfo& info) { return info.host == host; });
  const int64_t cores = sysconf(_SC_NPROCESSORS_ONLN);
  cpu_set_t own;
  const bool pinned = sched_getaffinity(0, sizeof own, &own) == 0 && CPU_COUNT(&own) < cores &&
                      core_count() == CPU_COUNT(&own);  // all of them: no control group keeps some back
  return pinned && here <= cores ? kSpinNs : 0;
}

void poll_until(std::vector<pollfd>& polls, int64_t until_ns) {
  const int64_t left = std::max<int64_t>(0, until_ns - now_ns());
  const timespec timeout{left / 1'000'000'000, left % 1'000'000'000};
  ppoll(polls.data(), polls.size(), until_ns == kForever ? nullptr : &timeout, nullptr);
}

}  // namespace

TcpTransport::TcpTransport(const JoinContext& context, std::vector<TcpSockets> sockets)
    : roster_(context.roster),
      emulated_(context.tcp.link.emulated()),
      frame_bytes_(emulated_ ? kEmulatedFrameBytes : kFrameBytes),
      spin_ns_(emulated_ ? 0 : spin_ns(roster_)),
      peers_(sockets.size()),
      ended_ns_(sockets.size()),
      link_(context.tcp.link),
      controls_(sockets.size()) {
  for (const int peer : tcp_peers(context)) {
    const auto at = static_cast<size_t>(peer);
    peers_[at] = std::make_unique<TcpPeer>(roster_.rank, peer, std::move(sockets[at].data), wire_);
    controls_[at] = std::make_unique<Control>(std::move(sockets[at].control));
  }
  thread_ = make_silent_thread(fmt::format("tcp-{}", roster_.rank), [this](const std::stop_token& stop) {
    const std::stop_callback wake(stop, [this] { watch_wakeup_.signal(); });
    while (!stop.stop_requested()) watch_once();
  });
}

TcpTransport::~TcpTransport() {
  thread_.request_stop();
  thread_.join();
  if (!failed_) tell_peers({.kind = StoreKind::kBye});
}

Ticket TcpTransport::post_send(int peer, const Envelope& envelope, std::span<const std::byte> bytes) {
  const std::lock_guard lock(mutex_);
  check_alive();
  const uint64_t id = next_id_++;
  TcpSend send;
  send.envelope = envelope;
  send.bytes = bytes;
  Operation& operation = operations_.emplace(id, Operation{peer, std::move(send)}).first->second;
  TcpPeer& target = *peers_[static_cast<size_t>(peer)];
  target.post(&std::get<TcpSend>(operation.what));
  target.push(link(), frame_bytes_);
  tell_poller();
  return keep_or_finish(id);
}

Ticket TcpTransport::post_recv(int peer, const Envelope& envelope, std::span<std::byte> bytes) {
  const std::lock_guard lock(mutex_);
  check_alive();
  const uint64_t id = next_id_++;
  TcpReceive receive;
  receive.envelope = envelope;
  receive.bytes = bytes;
  Operation& operation = operations_.emplace(id, Operation{peer, std::move(receive)}).first->second;
  peers_[static_cast<size_t>(peer)]->post(&std::get<TcpReceive>(operation.what));
  tell_poller();
  return keep_or_finish(id);
}

Ticket TcpTransport::keep_or_finish(uint64_t id) {
  const auto found = operations_.find(id);
  const int peer = found->second.peer;
  if (is_done(found->second)) {
    operations_.erase(found);
    return {peer, 0};
  }
  if (waiters_.empty() && needs_background()) arm_background();
  return {peer, id};
}

bool TcpTransport::is_done(const Operation& operation) const {
  if (const auto* send = std::get_if<TcpSend>(&operation.what)) return send->done;
  const auto& receive = std::get<TcpReceive>(operation.what);
  return receive.arrived && (receive.ready_ns == 0 || system_clock().unix_ns() >= receive.ready_ns);
}

void TcpTransport::wait(Ticket ticket, int64_t deadline_ns) {
  if (ticket.id == 0) return;
  std::unique_lock lock(mutex_);
  const auto found = operations_.find(ticket.id);
  FURROW_CHECK(found != operations_.end(), "a ticket is waited for once");
  Waiter waiter{&found->second, nullptr};
  if (spare_wakeups_.empty()) spare_wakeups_.push_back(std::make_unique<Wakeup>());
  waiter.wakeup = std::move(spare_wakeups_.back());
  spare_wakeups_.pop_back();
  waiters_.push_back(&waiter);
  try {
    wait_for(lock, waiter, deadline_ns);
  } catch (const Error& error) {
    leave(waiter);
    set_failure(error);  // no buffer of this rank is touched from here on
    waiter_wakeup_.signal();
    throw;
  }
  leave(waiter);
  waiter.wakeup->clear();
  spare_wakeups_.push_back(std::move(waiter.wakeup));
  operations_.erase(found);
  if (waiters_.empty() && needs_background()) arm_background();
}

void TcpTransport::wait_for(std::unique_lock<std::mutex>& lock, const Waiter& waiter, int64_t deadline_ns) {
  const Operation& operation = *waiter.operation;
  while (true) {
    check_alive();
    if (is_done(operation)) return;
    if (const auto* receive = std::get_if<TcpReceive>(&operation.what);
        receive != nullptr && receive->mismatch) {
      throw Error(*receive->mismatch);
    }
    if (progress()) {
      tell_others(waiter);
      continue;
    }
    const int64_t now = now_ns();
    check_peer(operation.peer, now);
    const int64_t left = deadline_ns - awake_ns();
    if (left <= 0) throw missed_deadline(operation);
    sleep(lock, waiter, std::min(now + left, next_event_ns(operation)));
  }
}

// Those whose operation has just come to its end.
void TcpTransport::tell_others(const Waiter& waiter) {
  for (const Waiter* other : waiters_) {
    if (other == &waiter) continue;
    const auto* receive = std::get_if<TcpReceive>(&other->operation->what);
    const bool arrived = receive != nullptr && (receive->arrived || receive->mismatch);
    if (arrived || is_done(*other->operation)) other->wakeup->signal();
  }
}

// Somebody else polls from here on.
void TcpTransport::leave(const Waiter& waiter) {
  std::erase(waiters_, &waiter);
  if (poller_ == nullptr && !waiters_.empty()) waiters_.front()->wakeup->signal();
}

// What was posted may need the connections to be polled for something else.
void TcpTransport::tell_poller() {
  if (poller_ != nullptr) poller_->wakeup->signal();
}

// Until a connection moves, a failure, or the time.  A peer that is at work answers sooner than a sleeper
// wakes.
void TcpTransport::sleep(std::unique_lock<std::mutex>& lock, const Waiter& waiter, int64_t until_ns) {
  const bool polls_all = poller_ == nullptr;
  std::vector<pollfd> polls = {waiter_wakeup_.poll_entry(), waiter.wakeup->poll_entry()};
  if (polls_all) {
    for (const int64_t spin_until = now_ns() + spin_ns_; now_ns() < spin_until && !failed_;) {
      if (!progress()) continue;
      return tell_others(waiter);
    }
    for (const auto& peer : peers_) {
      if (peer) peer->add_polls(polls);
    }
    poller_ = &waiter;
  } else {
    // Whoever polls looks after its own peer alone.
    until_ns = std::min(until_ns, now_ns() + kGraceNs);
  }
  lock.unlock();
  poll_until(polls, until_ns);
  lock.lock();
  waiter.wakeup->clear();
  if (polls_all) poller_ = nullptr;
}

bool TcpTransport::progress() {
  bool moved = false;
  for (size_t peer = 0; peer < peers_.size(); ++peer) {
    if (!peers_[peer]) continue;
    try {
      moved = peers_[peer]->push(link(), frame_bytes_) || moved;
      moved = peers_[peer]->pull(link()) || moved;
    } catch (const Error& error) {
      throw error.with_context("from " + describe(roster_, static_cast<int>(peer)));
    }
  }
  return moved;
}

// When something happens that no descriptor tells of.
int64_t TcpTransport::next_event_ns(const Operation& operation) const {
  int64_t next = kForever;
  if (const int64_t ended = ended_ns_[static_cast<size_t>(operation.peer)]; ended != 0)
    next = ended + kGraceNs;
  if (!emulated_) return next;
  const auto* receive = std::get_if<TcpReceive>(&operation.what);
  if (receive != nullptr && receive->arrived) next = std::min(next, monotonic_of(receive->ready_ns));
  const bool output =
      std::any_of(peers_.begin(), peers_.end(), [](const auto& p) { return p && p->has_output(); });
  return output ? std::min(next, std::max(monotonic_of(link_.next_start_ns()), now_ns() + 10'000)) : next;
}

// Nothing more comes from a peer whose connection has ended.
void TcpTransport::check_peer(int peer, int64_t now) {
  if (!peers_[static_cast<size_t>(peer)]->ended()) return;
  int64_t& ended = ended_ns_[static_cast<size_t>(peer)];
  if (ended == 0) ended = now;
  if (now - ended < kGraceNs) return;
  throw Error(ErrorCode::kUnavailable, fmt::format("{} has ended its connection while this rank waits for it",
                                                   describe(roster_, peer)));
}

Error TcpTransport::missed_deadline(const Operation& operation) const {
  const std::string peer = describe(roster_, operation.peer);
  if (const auto* send = std::get_if<TcpSend>(&operation.what)) {
    return Error(
        ErrorCode::kDeadlineExceeded,
        fmt::format("{} has taken {} of {} bytes of {} in time: it is slow or stopped, or the network is cut",
                    peer, send->gone, send->bytes.size(), describe(send->envelope)));
  }
  const auto& receive = std::get<TcpReceive>(operation.what);
  return Error(
      ErrorCode::kDeadlineExceeded,
      fmt::format("{} has sent {} of {} bytes of {} in time: it is slow or stopped, or the network is cut",
                  peer, receive.received, receive.bytes.size(), describe(receive.envelope)));
}

std::optional<PeerProgress> TcpTransport::progress_of(int peer) const {
  const std::lock_guard lock(mutex_);
  return peers_[static_cast<size_t>(peer)]->heard_of();
}

// ---- What nobody waits for ----

bool TcpTransport::needs_background() const {
  size_t posted = 0;
  for (const auto& peer : peers_) {
    if (!peer) continue;
    if (peer->has_output()) return true;
    posted += peer->posted_bytes();
  }
  return posted > kBackgroundBytes;
}

void TcpTransport::arm_background() {
  if (background_from_ns_ != 0) return;
  background_from_ns_ = now_ns() + kBackgroundAfterNs;
  watch_wakeup_.signal();
}

// When to look again; `polls`: what to look for meanwhile.
int64_t TcpTransport::move_in_background(std::vector<pollfd>& polls) {
  std::unique_lock lock(mutex_);
  if (background_from_ns_ == 0) return kForever;
  if (now_ns() < background_from_ns_) return background_from_ns_;
  if (failed_ || !waiters_.empty() || !needs_background()) {
    background_from_ns_ = 0;
    return kForever;
  }
  try {
    if (progress()) return 0;
  } catch (const Error& error) {
    lock.unlock();
    report_failure(error);
    return kForever;
  }
  for (const auto& peer : peers_) {
    if (peer) peer->add_polls(polls);
  }
  return emulated_ ? std::max(monotonic_of(link_.next_start_ns()), now_ns() + kMs / 10) : kForever;
}

void TcpTransport::watch_once() {
  std::vector<pollfd> polls = {watch_wakeup_.poll_entry()};
  const int64_t background = move_in_background(polls);
  const int64_t verdict = read_controls();
  {
    const std::lock_guard lock(control_mutex_);
    for (const auto& control : controls_) {
      if (control && control->ended_ns == 0)
        polls.push_back({control->connection.socket().descriptor(), POLLIN, 0});
    }
  }
  poll_until(polls, std::min(background, verdict));
  watch_wakeup_.clear();
}

// ---- Failure ----

// When the next verdict on an ended connection is due.
int64_t TcpTransport::read_controls() {
  const int64_t now = now_ns();
  int64_t next = kForever;
  std::optional<Error> failure;
  {
    const std::lock_guard lock(control_mutex_);
    for (size_t peer = 0; peer < controls_.size(); ++peer) {
      if (!controls_[peer]) continue;
      Control& control = *controls_[peer];
      read_control(static_cast<int>(peer), control, now, failure);
      if (control.ended_ns != 0 && !control.left && !failed_)
        next = std::min(next, control.ended_ns + kGraceNs);
    }
  }
  if (failure) report_failure(*failure);
  return failed_ ? kForever : next;
}

void TcpTransport::read_control(int peer, Control& control, int64_t now, std::optional<Error>& failure) {
  if (control.ended_ns != 0) {
    if (control.left || now - control.ended_ns < kGraceNs) return;
    const bool here = control.connection.ended_here();
    failure = Error(
        ErrorCode::kUnavailable,
        fmt::format("{} {}", describe(roster_, here ? roster_.rank : peer), here ? kShutItself : kNoGoodbye));
    return;
  }
  if (!control.connection.receive()) control.ended_ns = now;
  try {
    while (const auto message = control.connection.inbox().next()) {
      if (message->kind == StoreKind::kBye) control.left = true;
      if (message->kind != StoreKind::kFailure) continue;
      told_ = true;  // by that peer, to everybody
      failure = told_by(roster_, peer, Error(error_code_of(message->number), message->text));
    }
  } catch (const Error& error) {
    control.ended_ns = now;
    failure = error.with_context("from " + describe(roster_, peer));
  }
}

void TcpTransport::check_alive() const {
  if (!failed_.load(std::memory_order_acquire)) return;
  const std::lock_guard lock(failure_mutex_);
  throw Error(*failure_);
}

void TcpTransport::set_failure(const Error& error) {
  const std::lock_guard lock(failure_mutex_);
  record(error);
}

bool TcpTransport::record(const Error& error) {
  if (failure_) return false;
  failure_ = error;
  failed_.store(true, std::memory_order_release);
  return true;
}

void TcpTransport::report_failure(const Error& error) {
  std::function<void(const Error&)> handler;
  {
    const std::lock_guard lock(failure_mutex_);
    if (!record(error)) return;
    handler = handler_;
    unheard_ = !handler;
  }
  waiter_wakeup_.signal();
  if (handler) handler(error);
}

void TcpTransport::abort(const Error& reason) noexcept {
  set_failure(reason);
  waiter_wakeup_.signal();
  {
    const std::lock_guard lock(control_mutex_);
    if (std::exchange(told_, true)) return;
  }
  tell_peers({.kind = StoreKind::kFailure,
              .number = static_cast<int64_t>(reason.code()),
              .rank = roster_.rank,
              .text = reason.what()});
}

void TcpTransport::tell_peers(const StoreMessage& message) noexcept {
  try {
    const std::lock_guard lock(control_mutex_);
    for (const auto& control : controls_) {
      if (!control || control->ended_ns != 0) continue;
      control->connection.send(message);
      control->connection.flush();
    }
  } catch (const std::exception&) {  // out of memory: they see the end of the connection
  }
}

void TcpTransport::on_failure(std::function<void(const Error&)> handler) {
  std::optional<Error> unheard;
  {
    const std::lock_guard lock(failure_mutex_);
    handler_ = handler;
    if (handler && std::exchange(unheard_, false)) unheard = failure_;
  }
  if (unheard) handler(*unheard);
}

std::unique_ptr<Transport> make_tcp(const JoinContext& context) {
  if (context.rendezvous == nullptr) return nullptr;
  return std::make_unique<TcpTransport>(context, connect_tcp(context));
}

}  // namespace furrow::comm
