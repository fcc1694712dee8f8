#include "furrow/comm/store.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "furrow/base/clock.h"
#include "furrow/base/failpoint.h"
#include "furrow/base/log.h"
#include "furrow/base/text.h"
#include "furrow/comm/awake.h"
#include "furrow/comm/silent_thread.h"
#include "furrow/comm/store_server.h"

namespace furrow::comm {
namespace {

constexpr int64_t kMs = 1'000'000;
constexpr int64_t kBetweenTriesMs = 20;
constexpr int64_t kFarewellMs = 500;
constexpr int64_t kOnItsWayMs = 1'000;
constexpr int64_t kQuestionMs = 200;  // of a rank that fails already: what it asks is not worth more

// Between the end of the connection to the store and the verdict that rank 0 is gone: when it was this rank
// that lost its connections, the others know it, and their word arrives by another way.
constexpr int64_t kGraceMs = 150;

int64_t now_ns() { return system_clock().monotonic_ns(); }

std::chrono::steady_clock::time_point time_point_of(int64_t monotonic_ns) {
  return std::chrono::steady_clock::time_point(std::chrono::nanoseconds(monotonic_ns));
}

StoreMessage failure_of(const Member& self, const Error& reason) {
  return {.kind = StoreKind::kFailure,
          .number = static_cast<int64_t>(reason.code()),
          .rank = self.rank,
          .text = named(self, reason.what())};
}

// Reads until the store has passed a failure on, which it says to whoever told it, too.
bool await_echo(StoreConnection& connection, int64_t deadline_ns) {
  while (now_ns() < deadline_ns) {
    pollfd one{connection.socket().descriptor(), connection.poll_events(), 0};
    poll(&one, 1, poll_timeout_ms(deadline_ns));
    const bool alive = connection.receive() && connection.flush();
    while (const auto message = connection.inbox().next()) {
      if (message->kind == StoreKind::kFailure) return true;
    }
    if (!alive) return false;
  }
  return false;
}

}  // namespace

void check_interrupted(const CancelToken* cancel) {
  if (cancel == nullptr || !cancel->cancelled()) return;
  throw Error(ErrorCode::kCancelled,
              fmt::format("interrupted by signal {} before all ranks had met", cancel->reason()));
}

bool tell_store(const StoreAddress& where, const Secret& secret, const Member& self, const Error& reason,
                const Patience& patience) noexcept try {
  StoreConnection connection(find_store(where, secret, patience));
  connection.send({.kind = StoreKind::kHello, .members = {self}});
  connection.send(failure_of(self, reason));
  return await_echo(connection, now_ns() + kFarewellMs * kMs);
} catch (const std::exception&) {
  return false;
}

Store::Store(const StoreAddress& where, const Secret& secret, Member self, int64_t silence_ms,
             int64_t deadline_ns, const CancelToken* cancel)
    : self_(std::move(self)),
      silence_ns_(silence_ms * kMs),
      interval_ns_(beat_interval_ns(silence_ms)),
      cancel_(cancel),
      connection_(find_store(where, secret, {deadline_ns, [=] { check_interrupted(cancel); }})),
      silence_(silence_ms) {
  own_address_ = local_endpoint(connection_.socket()).address;
  connection_.send({.kind = StoreKind::kHello, .members = {self_}});
  thread_ = make_silent_thread("store client", [this](const std::stop_token& stop) {
    const std::stop_callback wake(stop, [this] { wakeup_.signal(); });
    const Wakeful wakeful;
    FURROW_FAILPOINT("comm.listen");
    begin_to_listen();
    while (!stop.stop_requested()) poll_once();
  });
  try {
    await_everybody(where, deadline_ns);
  } catch (const Error& error) {
    fail(error);
    throw;
  }
}

Store::~Store() = default;

// Until it first runs, which takes seconds on a crowded machine, a thread has heard nobody, whatever was
// said.
void Store::begin_to_listen() {
  const std::lock_guard lock(mutex_);
  silence_.hear();
}

bool Store::interrupted() const {
  const CancelToken* cancel = cancel_;
  return cancel != nullptr && cancel->cancelled();
}

// Until `done`, the deadline or an interrupt.  A signal handler wakes nobody: it is looked for.
template <class Done>
void Store::wait(std::unique_lock<std::mutex>& lock, int64_t deadline_ns, const Done& done) {
  while (!done() && !interrupted() && now_ns() < deadline_ns) {
    const int64_t look_ns = now_ns() + Patience::kBetweenLooksMs * kMs;
    const int64_t until_ns = cancel_ != nullptr ? std::min(deadline_ns, look_ns) : deadline_ns;
    changed_.wait_until(lock, time_point_of(until_ns));
  }
}

void Store::await_everybody(const StoreAddress& where, int64_t deadline_ns) {
  std::unique_lock lock(mutex_);
  wait(lock, deadline_ns, [&] { return welcome_ || failure_; });
  if (failure_) throw *failure_;
  check_interrupted(cancel_);
  if (welcome_) return;
  throw Error(ErrorCode::kDeadlineExceeded,
              fmt::format("of {} ranks these have not come to {} in time: {}: see their logs, or raise "
                          "comm.init_timeout_seconds",
                          self_.size, where.address, absent_.empty() ? "unknown" : absent_));
}

void Store::poll_once() {
  std::vector<pollfd> polls = {wakeup_.poll_entry()};
  int timeout = -1;
  {
    const std::lock_guard lock(mutex_);
    if (connection_.open()) {
      polls.push_back({connection_.socket().descriptor(), connection_.poll_events(), 0});
      timeout = poll_timeout_ms(std::min(next_beat_ns_, now_ns() + silence_.due_ns() - awake_ns()));
    } else if (loss_) {
      timeout = poll_timeout_ms(loss_due_ns_);
    }
  }
  poll(polls.data(), polls.size(), timeout);
  wakeup_.clear();
  const int64_t now = now_ns();
  if (loss_) {
    if (now >= loss_due_ns_) record_loss();
    return;
  }
  if (timeout >= 0 && now >= next_beat_ns_) send_beat(now);
  std::vector<StoreMessage> messages;
  bool alive = true;
  try {
    const std::lock_guard lock(mutex_);
    if (!connection_.open()) return;
    alive = connection_.receive() && connection_.flush();
    while (auto message = connection_.inbox().next()) messages.push_back(std::move(*message));
  } catch (const Error& error) {
    return lose(error.code(), fmt::format("sent what is no message: {}", error.what()));
  }
  for (const StoreMessage& message : messages) handle(message);
  if (!alive)
    return lose(ErrorCode::kUnavailable,
                "ended its connection without a goodbye: it was killed, or has crashed, or this rank is cut "
                "off from it");
  check_silence();
}

void Store::send_beat(int64_t now) {
  {
    const std::lock_guard lock(mutex_);
    next_beat_ns_ = now + interval_ns_;
    if (leaving_) return;
  }
  Report report;
  {
    const std::lock_guard calls(calls_mutex_);
    if (progress_) report = progress_();
  }
  const std::lock_guard lock(mutex_);
  connection_.send({.kind = StoreKind::kBeat, .number = (now - report.at_ns) / kMs, .text = report.text});
}

// A process that was itself stopped reads what has arrived meanwhile before it judges.
void Store::check_silence() {
  std::optional<int64_t> silent_ns;
  {
    const std::lock_guard lock(mutex_);
    const Member* zero = member_zero();
    silent_ns = silence_.verdict(awake_ns(), zero != nullptr ? visible_process(self_, *zero) : std::nullopt);
  }
  if (!silent_ns) return;
  lose(ErrorCode::kDeadlineExceeded,
       fmt::format("has been silent for {}: it is stopped, or cut off from the network",
                   format_seconds(static_cast<double>(*silent_ns) * 1e-9)));
}

// "; last progress: ..."
std::string Store::last_progress(int rank, const Report& reported) {
  const std::lock_guard calls(calls_mutex_);
  return fmt::format("; {}{}", kLastProgress,
                     progress_of_other_ ? progress_of_other_(rank, reported) : describe(reported));
}

void Store::handle(const StoreMessage& message) {
  if (message.kind == StoreKind::kFailure) {
    std::string text = message.text;
    if (message.id != 0) {
      const auto age_ms = static_cast<int64_t>(message.id - 1);
      text += last_progress(message.rank, {message.key, now_ns() - age_ms * kMs});
    }
    return record(Error(error_code_of(message.number), text));
  }
  const std::lock_guard lock(mutex_);
  silence_.hear();
  switch (message.kind) {
    case StoreKind::kWelcome:
      if (!welcome_) members_ = message.members;
      welcome_ = true;
      break;
    case StoreKind::kValue:
      if (const auto reply = replies_.find(message.id); reply != replies_.end()) {
        reply->second = {true, message.text, message.number};
      }
      break;
    case StoreKind::kBeat:
      zero_progress_ = {message.text, now_ns() - message.number * kMs};
      break;
    case StoreKind::kAbsent:
      absent_ = message.text;
      if (!message.members.empty()) zero_ = message.members[0];
      break;
    case StoreKind::kBye:
      left_ = true;
      break;
    case StoreKind::kConfig:
      connection_.send({.kind = StoreKind::kConfig, .text = self_.config.substr(0, kLongestConfig)});
      wakeup_.signal();
      break;
    default:
      break;  // of a later version
  }
  changed_.notify_all();
}

const Member* Store::member_zero() const {
  if (!members_.empty()) return &members_[0];
  return zero_ ? &*zero_ : nullptr;
}

std::string Store::zero() const {
  const Member* zero = member_zero();
  return fmt::format("{}, which serves the store,", zero == nullptr ? "rank 0" : name_of(*zero));
}

// The store is gone, and rank 0 with it; or this rank is cut off from both.
void Store::lose(ErrorCode code, const std::string& how) {
  const std::lock_guard lock(mutex_);
  const bool here = connection_.ended_here();
  const Error loss(
      code, here ? fmt::format("{} {}", name_of(self_), kShutItself) : fmt::format("{} {}", zero(), how));
  const bool over = left_ || failure_;
  if (!over && code != ErrorCode::kUnavailable) {  // rank 0 may be there all the same: it hears why
    connection_.send(failure_of(self_, loss));
    connection_.flush();
  }
  connection_.close();
  if (over) return;
  loss_ = loss;
  loss_due_ns_ = now_ns() + (code == ErrorCode::kUnavailable ? kGraceMs * kMs : 0);
}

// With how far rank 0 is by now: where only connections have ended, it may have gone on.
void Store::record_loss() {
  const Error loss = *std::exchange(loss_, std::nullopt);
  Report reported;
  bool zero_lost = false;
  {
    const std::lock_guard lock(mutex_);
    reported = zero_progress_;
    zero_lost = welcome_ && loss.message().starts_with(zero());
  }
  record(zero_lost ? Error(loss.code(), loss.message() + last_progress(0, reported)) : loss);
}

void Store::record(const Error& error) {
  {
    const std::lock_guard lock(mutex_);
    if (failure_) return;
    failure_ = error;
    connection_.close();  // nothing more to say; the store need not wait for this rank
    changed_.notify_all();
  }
  const std::lock_guard calls(calls_mutex_);
  if (handler_) std::exchange(handler_, nullptr)(error);
}

Store::Reply Store::request(StoreMessage message, int64_t deadline_ns) {
  std::unique_lock lock(mutex_);
  if (failure_) throw *failure_;
  const uint64_t id = message.id = next_id_++;
  replies_[id];
  connection_.send(message);
  wakeup_.signal();
  wait(lock, deadline_ns, [&] { return replies_[id].ready || failure_; });
  const Reply reply = std::move(replies_[id]);
  replies_.erase(id);
  if (failure_) throw *failure_;
  if (reply.ready) return reply;
  check_interrupted(cancel_);
  throw Error(ErrorCode::kDeadlineExceeded,
              message.kind == StoreKind::kGet
                  ? fmt::format("no rank has set '{}' in the store in time", message.key)
                  : fmt::format("{} did not answer about '{}' in time", zero(), message.key));
}

void Store::set(const std::string& key, const std::string& value) {
  request({.kind = StoreKind::kSet, .key = key, .text = value}, now_ns() + silence_ns_);
}

std::string Store::get(const std::string& key, int64_t deadline_ns) {
  return request({.kind = StoreKind::kGet, .key = key}, deadline_ns).text;
}

std::string Store::take(const std::string& key, int64_t deadline_ns) {
  return request({.kind = StoreKind::kGet, .number = 1, .key = key}, deadline_ns).text;
}

int64_t Store::add(const std::string& key, int64_t delta) {
  return request({.kind = StoreKind::kAdd, .number = delta, .key = key}, now_ns() + silence_ns_).number;
}

void Store::report_progress(std::function<Report()> source) {
  const std::lock_guard calls(calls_mutex_);
  progress_ = std::move(source);
}

void Store::look_at_progress(std::function<std::string(int, const Report&)> source) {
  const std::lock_guard calls(calls_mutex_);
  progress_of_other_ = std::move(source);
}

std::optional<Report> Store::progress_of(int rank) noexcept try {
  if (rank == 0) {
    const std::lock_guard lock(mutex_);
    if (!zero_progress_.text.empty()) return zero_progress_;
  }
  const Reply reply = request({.kind = StoreKind::kProgress, .rank = rank}, now_ns() + kQuestionMs * kMs);
  return Report{reply.text, now_ns() - reply.number * kMs};
} catch (const std::exception&) {  // the store is out of reach, or is telling of a failure itself
  return std::nullopt;
}

void Store::on_failure(std::function<void(const Error&)> handler) {
  const std::lock_guard calls(calls_mutex_);
  handler_ = std::move(handler);
  const std::optional<Error> happened = failure();
  if (happened && handler_) std::exchange(handler_, nullptr)(*happened);
}

void Store::check_alive() const {
  if (const std::optional<Error> happened = failure()) throw Error(*happened);
  check_interrupted(cancel_);
}

std::optional<Error> Store::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

void Store::fail(const Error& reason) noexcept {
  try {
    std::unique_lock lock(mutex_);
    if (failure_ || left_ || !connection_.open()) return;
    connection_.send(failure_of(self_, reason));
    wakeup_.signal();
    // Its echo; or whatever failed first.
    const auto over = [&] { return failure_ || !connection_.open(); };
    if (changed_.wait_for(lock, std::chrono::milliseconds(kFarewellMs), over)) return;
    if (reason.code() == ErrorCode::kDeadlineExceeded) return;  // perhaps nobody is at the other end
    for (const int64_t until = now_ns() + kOnItsWayMs * kMs; connection_.undelivered() && now_ns() < until;) {
      if (changed_.wait_for(lock, std::chrono::milliseconds(kBetweenTriesMs), over)) return;
    }
  } catch (const std::exception& error) {
    log_warning(fmt::format("the other ranks could not be told of a failure: {}", error.what()));
  }
}

void Store::leave(int64_t deadline_ns) {
  std::unique_lock lock(mutex_);
  if (failure_) throw *failure_;
  leaving_ = true;
  connection_.send({.kind = StoreKind::kBye});
  wakeup_.signal();
  changed_.wait_until(lock, time_point_of(deadline_ns), [&] { return left_ || failure_; });
  if (failure_) throw *failure_;
}

}  // namespace furrow::comm
