#include "furrow/comm/store_server.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "furrow/base/clock.h"
#include "furrow/base/error.h"
#include "furrow/base/log.h"
#include "furrow/base/text.h"
#include "furrow/base/thread.h"
#include "furrow/comm/awake.h"
#include "furrow/comm/silent_thread.h"
#include "furrow/config/difference.h"

namespace furrow::comm {
namespace {

constexpr int64_t kMs = 1'000'000;
constexpr int64_t kLingerMs = 300;      // much less than the second in which all are to end
constexpr int64_t kOnItsWayMs = 1'000;  // ... where the network has lost it once or twice
constexpr size_t kLongestHello = 16 * 1024;
constexpr size_t kMostNamed = 8;
constexpr std::string_view kNoGoodbye =
    "ended its connection without a goodbye: it was killed, or has crashed";

int64_t now_ns() { return system_clock().monotonic_ns(); }

}  // namespace

StoreServer::Client::Client(Socket socket, int64_t silence_ms)
    : connection(std::move(socket), kLongestHello), silence(silence_ms) {}

StoreServer::StoreServer(Socket listener, const Secret& secret, Member host, int64_t silence_ms,
                         std::optional<Error> refusal)
    : secret_(secret),
      host_(std::move(host)),
      silence_ms_(silence_ms),
      interval_ns_(beat_interval_ns(silence_ms)),
      endpoint_(local_endpoint(listener)),
      door_(std::move(listener), kStorePurpose, secret_),
      spare_(kSpare),
      by_rank_(static_cast<size_t>(host_.size)),
      left_(static_cast<size_t>(host_.size)),
      refusal_(std::move(refusal)) {
  thread_ = make_silent_thread("store", [this](const std::stop_token& stop) {
    const std::stop_callback wake(stop, [this] { wakeup_.signal(); });
    const Wakeful wakeful;
    while (!stop.stop_requested()) poll_once();
    take_refusal();
    ended_ns_ = now_ns();
    while (lingering(now_ns())) poll_once();
  });
}

StoreServer::~StoreServer() = default;

std::string StoreServer::reached_at() {
  const std::lock_guard lock(mutex_);
  return reached_at_;
}

void StoreServer::note_way(const Client& client) {
  const std::string address = local_endpoint(client.connection.socket()).address;
  if (is_loopback(address)) return;
  const std::lock_guard lock(mutex_);
  if (reached_at_.empty()) reached_at_ = address;
}

bool StoreServer::wait_until_all_came(int64_t deadline_ns) {
  const std::chrono::steady_clock::time_point deadline{std::chrono::nanoseconds(deadline_ns)};
  std::unique_lock lock(mutex_);
  return changed_.wait_until(lock, deadline, [&] { return all_came_; });
}

void StoreServer::wait_until_left() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return failed_ || std::find(left_.begin(), left_.end(), false) == left_.end(); });
  if (failed_) throw Error(*failed_);
}

void StoreServer::refuse(const Error& reason) {
  {
    const std::lock_guard lock(mutex_);
    refusal_ = reason;
  }
  wakeup_.signal();
}

void StoreServer::take_refusal() {
  std::optional<Error> reason;
  {
    const std::lock_guard lock(mutex_);
    reason = std::exchange(refusal_, std::nullopt);
  }
  if (!reason) return;
  fail(reason->code(), host_.rank, named(host_, reason->what()));
  if (!std::exchange(own_came_, true)) note_came();  // nobody waits for it
}

// Somebody has yet to hear of the failure, or to hang up after hearing of it; its cause may be past hearing.
bool StoreServer::lingering(int64_t now) const {
  if (!failure_) return false;
  const int64_t passed_ms = (now - ended_ns_) / kMs;
  const bool cut_off = failure_->number == static_cast<int64_t>(ErrorCode::kDeadlineExceeded);
  const auto has_yet_to_hear = [&](const Client& client) {
    if (!client.member || client.member->rank == failure_->rank) return false;
    return passed_ms < kLingerMs || (!cut_off && client.connection.undelivered());
  };
  return passed_ms < kOnItsWayMs && std::ranges::any_of(clients_, has_yet_to_hear);
}

int StoreServer::poll_timeout() const {
  int64_t next = std::min(next_beat_ns_, door_.next_deadline_ns());
  const int64_t stopped = now_ns() - awake_ns();
  for (const Client& client : clients_) {
    const bool watched = client.member && !failure_ && !left_[static_cast<size_t>(client.member->rank)];
    if (watched) next = std::min(next, client.silence.due_ns() + stopped);
  }
  return poll_timeout_ms(next);
}

void StoreServer::poll_once() {
  std::vector<pollfd> polls = {wakeup_.poll_entry()};
  for (const Client& client : clients_) {
    polls.push_back({client.connection.socket().descriptor(), client.connection.poll_events(), 0});
  }
  door_.add_polls(polls);
  poll(polls.data(), polls.size(), poll_timeout());
  wakeup_.clear();
  take_refusal();
  admit();
  for (Client& client : clients_) take_messages(client);
  const int64_t now = now_ns();
  check_silence(awake_ns());
  if (now >= next_beat_ns_) {
    next_beat_ns_ = now + interval_ns_;
    beat();
  }
  for (Client& client : clients_) {
    if (client.connection.open() && !client.connection.flush()) handle_inbox(client, false);
  }
  clients_.remove_if([](const Client& client) { return !client.connection.open(); });
}

// With no descriptor left nobody more can come: before everybody is there it is the end, which those who
// knock hear one after the other; after that the door, where only strangers knock, stays shut.
void StoreServer::admit() {
  try {
    for (Socket& socket : door_.admit()) clients_.emplace_back(std::move(socket), silence_ms_);
  } catch (const Error& error) {
    if (came_ >= host_.size) return door_.close();
    fail(error.code(), host_.rank, named(host_, error.what()));
  }
}

// What arrived before the end of a connection counts: a rank that fails says why, then hangs up.
void StoreServer::take_messages(Client& client) {
  if (!client.connection.open()) return;
  handle_inbox(client, client.connection.receive());
}

void StoreServer::handle_inbox(Client& client, bool alive) {
  try {
    while (client.connection.open()) {
      const std::optional<StoreMessage> message = client.connection.inbox().next();
      if (!message) break;
      client.silence.hear();
      handle(client, *message);
    }
  } catch (const Error& error) {
    if (client.member)
      fail(error.code(), client.member->rank,
           fmt::format("{} sent the store what is no message: {}", name_of(*client.member), error.what()));
    drop(client);
  }
  if (!alive && client.connection.open()) lose(client);
}

void StoreServer::handle(Client& client, const StoreMessage& message) {
  if (!client.member) {
    if (message.kind != StoreKind::kHello || message.members.size() != 1) return drop(client);
    return greet_member(client, message.members[0]);
  }
  switch (message.kind) {
    case StoreKind::kSet:
      set_value(message.key, message.text);
      return answer(client, message.id, "");
    case StoreKind::kGet:
      return get_value(client, message);
    case StoreKind::kAdd:
      return answer(client, message.id, "", counters_[message.key] += message.number);
    case StoreKind::kBeat:
      client.progress = {message.text, now_ns() - message.number * kMs};
      return;
    case StoreKind::kProgress:
      return answer_progress(client, message);
    case StoreKind::kConfig:
      if (!client.asked) return;
      return fail(ErrorCode::kFailedPrecondition, client.member->rank,
                  config_objection(*client.member, message.text));
    case StoreKind::kFailure:
      return fail(error_code_of(message.number), client.member->rank, message.text);
    case StoreKind::kBye:
      note_left(client.member->rank);
      return client.connection.send({.kind = StoreKind::kBye});
    default:
      throw Error(ErrorCode::kDataLoss, "a message that only the store sends");
  }
}

// Empty when the rank may come in.
std::string StoreServer::door_objection(const Member& member) const {
  const auto differs = [&](std::string_view what, const std::string& theirs, const std::string& ours,
                           std::string_view remedy) {
    return fmt::format("{} {} {}, but {} {} {}: {}", name_of(member), what, theirs, name_of(host_), what,
                       ours, remedy);
  };
  constexpr std::string_view kSameBuild = "start every rank from the same build of furrow";
  if (member.size != host_.size) {
    return differs("counts a world of", std::to_string(member.size), std::to_string(host_.size),
                   "give every rank the same WORLD_SIZE");
  }
  if (member.version != host_.version) return differs("is furrow", member.version, host_.version, kSameBuild);
  if (member.commit != host_.commit)
    return differs("is furrow of commit", member.commit, host_.commit, kSameBuild);
  return "";
}

// The first setting in which a rank differs.  Its text may be anything.
std::string StoreServer::config_objection(const Member& member, const std::string& config) const {
  const std::optional<config::Difference> found = config::first_difference(config, host_.config);
  const auto says = [&](const Member& who, const std::string& value) {
    return fmt::format("{} has {}", name_of(who),
                       found ? found->key + " = " + value : "the configuration " + who.config_digest);
  };
  return fmt::format("{}, but {}: start every rank with the same configuration file and overrides",
                     says(member, found ? found->a : ""), says(host_, found ? found->b : ""));
}

void StoreServer::answer_progress(Client& client, const StoreMessage& question) {
  const bool known = question.rank >= 0 && question.rank < host_.size;
  const Client* who = known ? by_rank_[static_cast<size_t>(question.rank)] : nullptr;
  const Report report = who != nullptr ? who->progress : Report{};
  answer(client, question.id, report.text, (now_ns() - report.at_ns) / kMs);
}

// Of two that say the same number one is wrong, and nobody can tell which.  Before everybody is there a rank
// that is waited for may be missing because of it: the end for all.  Later it is the second one's own
// problem.
void StoreServer::refuse_second(Client& client, const Member& member, const Member* first) {
  const bool over = first != nullptr && left_[static_cast<size_t>(member.rank)];
  std::string why = fmt::format("the store refused {}: no such rank", name_of(member));
  if (over)
    why = fmt::format("the store refused {}: the job of {} is over", name_of(member), name_of(*first));
  if (first != nullptr && !over) {
    why = fmt::format(
        "two processes say that they are rank {}: {} and {}: give every process a RANK of its own",
        member.rank, name_of(*first), name_of(member));
  }
  const ErrorCode code = over ? ErrorCode::kUnavailable : ErrorCode::kAlreadyExists;
  client.connection.send(
      {.kind = StoreKind::kFailure, .number = static_cast<int64_t>(code), .rank = member.rank, .text = why});
  client.connection.flush();
  drop(client);
  if (first == nullptr || over || came_ >= host_.size) return;
  note_came();  // it is perhaps the one that is missing
  fail(code, member.rank, why);
}

void StoreServer::greet_member(Client& client, const Member& member) {
  const bool fits = member.rank >= 0 && member.rank < host_.size;
  Client* present = fits ? by_rank_[static_cast<size_t>(member.rank)] : nullptr;
  if (failure_ == std::nullopt && (present != nullptr || (!fits && member.size == host_.size))) {
    return refuse_second(client, member, present != nullptr ? &*present->member : nullptr);
  }
  client.member = member;
  note_way(client);
  own_came_ = own_came_ || member.rank == host_.rank;
  client.connection.inbox().allow(kLargestStoreMessage);
  note_came();
  if (fits && present == nullptr) by_rank_[static_cast<size_t>(member.rank)] = &client;
  if (failure_) return client.connection.send(*failure_);
  if (const std::string objection = door_objection(member); !objection.empty()) {
    return fail(ErrorCode::kFailedPrecondition, member.rank, objection);
  }
  if (member.config_digest != host_.config_digest) {
    client.asked = odd_ = true;
    return client.connection.send({.kind = StoreKind::kConfig});
  }
  if (odd_) return;  // nobody is welcome any more
  if (came_ == host_.size) return welcome_all();
  client.connection.send({.kind = StoreKind::kAbsent, .text = absent(), .members = {host_}});
}

void StoreServer::welcome_all() {
  spare_.give_back();
  StoreMessage welcome{.kind = StoreKind::kWelcome};
  for (const Client* client : by_rank_) welcome.members.push_back(*client->member);
  const auto host = by_rank_.begin() + host_.rank;
  for (auto client = by_rank_.begin(); client != by_rank_.end(); ++client) {
    (*client)->connection.send(welcome);
    if (client != host)
      (*client)->connection.flush();  // its end, if it came to that, is seen at the next one
  }
}

void StoreServer::get_value(Client& client, const StoreMessage& message) {
  const bool takes = message.number == 1;
  const auto found = values_.find(message.key);
  if (found == values_.end()) {
    waiting_[message.key].push_back({&client, message.id, takes});
    return;
  }
  answer(client, message.id, found->second);
  if (takes) values_.erase(found);
}

void StoreServer::set_value(const std::string& key, const std::string& text) {
  bool taken = false;
  if (const auto waiting = waiting_.extract(key); !waiting.empty()) {
    for (const Waiting& one : waiting.mapped()) {
      answer(*one.client, one.id, text);
      taken = taken || one.takes;
    }
  }
  if (!taken) values_[key] = text;
}

void StoreServer::answer(Client& client, uint64_t id, const std::string& text, int64_t number) {
  client.connection.send({.kind = StoreKind::kValue, .id = id, .number = number, .text = text});
}

std::string StoreServer::absent() const {
  std::vector<std::string> ranks;
  size_t count = 0;
  for (size_t rank = 0; rank < by_rank_.size(); ++rank) {
    if (by_rank_[rank] == nullptr && ++count <= kMostNamed) ranks.push_back(std::to_string(rank));
  }
  return join(ranks, ", ") + (count > kMostNamed ? fmt::format(" and {} more", count - kMostNamed) : "");
}

void StoreServer::beat() {
  StoreMessage message{.kind = StoreKind::kBeat};
  if (came_ < host_.size) {
    message = {.kind = StoreKind::kAbsent, .text = absent(), .members = {host_}};
  } else if (const Client* zero = by_rank_[0]; zero != nullptr) {
    message.text = zero->progress.text;
    message.number = (now_ns() - zero->progress.at_ns) / kMs;
  }
  for (Client& client : clients_) {
    if (client.member) client.connection.send(message);
  }
}

void StoreServer::check_silence(int64_t awake) {
  for (Client& client : clients_) {
    if (!client.member) continue;  // it has proved to be a rank, and may have been stopped just then
    if (failure_ || left_[static_cast<size_t>(client.member->rank)]) continue;
    const auto silent_ns = client.silence.verdict(awake, visible_process(host_, *client.member));
    if (!silent_ns) continue;
    fail(ErrorCode::kDeadlineExceeded, client.member->rank,
         fmt::format("{} has been silent for {}: it is stopped, or cut off from the network",
                     name_of(*client.member), format_seconds(static_cast<double>(*silent_ns) * 1e-9)),
         client.progress);
  }
}

// The connection ended: by the rank's doing, or by that of this process, which is then the one that fails.
void StoreServer::lose(Client& client) {
  if (client.member && !failure_ && !left_[static_cast<size_t>(client.member->rank)]) {
    const bool here = client.connection.ended_here();
    const Client* who = here ? by_rank_[static_cast<size_t>(host_.rank)] : &client;
    const Member& culprit = here ? host_ : *client.member;
    fail(ErrorCode::kUnavailable, culprit.rank,
         fmt::format("{} {}", name_of(culprit), here ? kShutItself : kNoGoodbye),
         who == nullptr ? Report{} : who->progress);
  }
  drop(client);
}

void StoreServer::drop(Client& client) {
  for (auto& [key, waiting] : waiting_) {
    std::erase_if(waiting, [&](const Waiting& one) { return one.client == &client; });
  }
  std::replace(by_rank_.begin(), by_rank_.end(), &client, static_cast<Client*>(nullptr));
  client.connection.close();
}

void StoreServer::fail(ErrorCode code, int rank, const std::string& text, const std::optional<Report>& last) {
  if (failure_) return;
  spare_.give_back();
  failure_ = StoreMessage{
      .kind = StoreKind::kFailure, .number = static_cast<int64_t>(code), .rank = rank, .text = text};
  if (last) {
    failure_->id = 1 + static_cast<uint64_t>(std::max<int64_t>(0, (now_ns() - last->at_ns) / kMs));
    failure_->key = last->text;
  }
  for (Client& client : clients_) {
    if (client.member && client.connection.open()) client.connection.send(*failure_);
  }
  const std::lock_guard lock(mutex_);
  failed_ = Error(code, last ? fmt::format("{}; {}{}", text, kLastProgress, describe(*last)) : text);
  changed_.notify_all();
}

void StoreServer::note_came() {
  if (++came_ < host_.size) return;
  const std::lock_guard lock(mutex_);
  all_came_ = true;
  changed_.notify_all();
}

void StoreServer::note_left(int rank) {
  if (rank < 0 || rank >= host_.size) return;  // one that was refused
  const std::lock_guard lock(mutex_);
  left_[static_cast<size_t>(rank)] = true;
  changed_.notify_all();
}

}  // namespace furrow::comm
