#include "furrow/comm/communicator.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <map>
#include <mutex>
#include <optional>

#include "furrow/base/clock.h"
#include "furrow/base/hash.h"
#include "furrow/base/text.h"
#include "furrow/comm/algorithm.h"
#include "furrow/comm/engine.h"
#include "furrow/comm/group_state.h"
#include "furrow/comm/progress_note.h"

namespace furrow::comm {

struct Communicator::Impl {
  Impl(Roster r, std::vector<std::unique_ptr<Transport>> t, CommunicatorOptions o)
      : roster(std::move(r)),
        options(std::move(o)),
        timeout_ms(options.start_timeout_ms > 0 ? options.start_timeout_ms : options.timeout_ms),
        algorithms(options.tuning.empty() ? AlgorithmTable::built_in()
                                          : AlgorithmTable::parse(options.tuning)),
        transports(std::move(t)),
        engine(fmt::format("comm-{}", roster.rank)) {}

  void abort(const Error& why, bool here) noexcept;

  const Roster roster;
  const CommunicatorOptions options;
  std::atomic<int64_t> timeout_ms;
  AlgorithmTable algorithms;
  int algorithms_set = 0;
  Ledger ledger;

  mutable std::mutex mutex;         // of what follows
  std::map<std::string, int> made;  // groups by name and members
  std::vector<std::shared_ptr<Group::State>> groups;
  std::shared_ptr<Group::State> world;
  std::optional<Error> reason;
  std::optional<RankDevice> device;  // set between operations
  std::atomic<bool> aborted{false};
  bool aborted_here = false;

  std::string group_of(uint64_t channel) const;  // " in group world"; "" where this rank is in none such
  struct Seen {
    Report report;
    bool exact = false;
  };
  std::optional<Seen> seen_from_here(int rank) const;

  std::function<std::optional<Report>(int rank)> store;  // what it knows of a rank
  mutable std::string told;                              // of this rank's progress, in its first error
  ProgressNote unseen;                                   // where no transport shows one to peers
  ProgressNote* progress = &unseen;
  std::atomic<const GroupSpec*> progress_group{nullptr};  // groups stay

  std::vector<std::unique_ptr<Transport>> transports;  // after what abort() uses: their threads may call it
  std::vector<const WireCounts*> wires;                // of all transports
  std::vector<Transport*> routes;                      // by rank; null for the own one

  std::unique_ptr<Backend> backend;
  Engine engine;  // destroyed first: it runs what is queued
};

namespace {

std::vector<Transport*> routes_of(const Roster& roster,
                                  const std::vector<std::unique_ptr<Transport>>& transports) {
  std::vector<Transport*> routes(static_cast<size_t>(roster.size()), nullptr);
  for (int r = 0; r < roster.size(); ++r) {
    if (r == roster.rank) continue;
    for (const auto& transport : transports) {
      if (routes[static_cast<size_t>(r)] == nullptr && transport->reaches(r)) {
        routes[static_cast<size_t>(r)] = transport.get();
      }
    }
    FURROW_CHECK(routes[static_cast<size_t>(r)] != nullptr, fmt::format("no transport reaches rank {}", r));
  }
  return routes;
}

}  // namespace

Communicator::Communicator(Roster roster, std::vector<std::unique_ptr<Transport>> transports,
                           CommunicatorOptions options)
    : impl_(std::make_unique<Impl>(std::move(roster), std::move(transports), std::move(options))) {
  std::erase(impl_->transports, nullptr);
  impl_->routes = routes_of(impl_->roster, impl_->transports);
  for (const auto& transport : impl_->transports) {
    impl_->wires.push_back(&transport->wire());
    transport->on_failure([this](const Error& reason) { impl_->abort(reason, false); });
    if (ProgressNote* seen = transport->progress_note()) impl_->progress = seen;
    transport->take_turns();  // those of the engine
  }
  if (!impl_->options.algorithm.empty()) algorithm_index(impl_->options.algorithm);
  impl_->backend = make_backend(impl_->options.backend, *this);
}

Communicator::~Communicator() {
  std::vector<std::shared_ptr<Group::State>> groups;
  {
    const std::lock_guard lock(impl_->mutex);
    groups = impl_->groups;
  }
  for (const auto& group : groups) group->backend->close();
}

int Communicator::rank() const { return impl_->roster.rank; }
int Communicator::size() const { return impl_->roster.size(); }
const Roster& Communicator::roster() const { return impl_->roster; }
const CommunicatorOptions& Communicator::options() const { return impl_->options; }
void Communicator::end_start() { impl_->timeout_ms.store(impl_->options.timeout_ms); }
int64_t Communicator::timeout_ms() const { return impl_->timeout_ms.load(std::memory_order_relaxed); }

Group Communicator::world() {
  {
    const std::lock_guard lock(impl_->mutex);
    if (impl_->world) return Group(impl_->world);
  }
  std::vector<int> members(static_cast<size_t>(size()));
  for (int r = 0; r < size(); ++r) members[static_cast<size_t>(r)] = r;
  const Group made = group(std::move(members), {.name = "world"});
  const std::lock_guard lock(impl_->mutex);
  if (!impl_->world) impl_->world = made.state();
  return Group(impl_->world);
}

Group Communicator::group(std::vector<int> members, GroupOptions options) {
  GroupSpec spec{.name = std::move(options.name),
                 .members = std::move(members),
                 .canonical = options.canonical,
                 .independent = options.independent};
  std::vector<std::string> words;
  for (size_t i = 0; i < spec.members.size(); ++i) {
    const int member = spec.members[i];
    words.push_back(std::to_string(member));
    const bool twice = std::count(spec.members.begin(), spec.members.end(), member) > 1;
    if (member < 0 || member >= size() || twice) {
      throw Error(
          ErrorCode::kInvalidArgument,
          fmt::format("group {}: rank {} {}", spec.name, member,
                      twice ? "stands there twice" : fmt::format("is not one of the world's {}", size())));
    }
    if (member == rank()) spec.rank = static_cast<int>(i);
  }
  const std::string list = spec.name + ":" + join(words, ",");
  if (spec.rank < 0) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("group {}: rank {} makes it without being a member", list, rank()));
  }
  const std::lock_guard lock(impl_->mutex);
  if (spec.independent) {
    for (const auto& transport : impl_->transports) transport->share();
  }
  spec.channel = channel_of(xxh3_64(fmt::format("{}#{}", list, impl_->made[list]++)), spec.independent);
  auto backend = impl_->backend->make_group(spec);
  impl_->groups.push_back(std::make_shared<Group::State>(std::move(spec), std::move(backend)));
  return Group(impl_->groups.back());
}

void Communicator::use_device(RankDevice device) {
  if (impl_->device && impl_->device->index != device.index) {
    throw Error(ErrorCode::kInvalidArgument, fmt::format("a rank has one device: {} is another than {}",
                                                         device.index, impl_->device->index));
  }
  impl_->backend->use_device();
  impl_->device = std::move(device);
}

const RankDevice* Communicator::device() const { return impl_->device ? &*impl_->device : nullptr; }

Memory Communicator::allocate(size_t bytes, MemoryKind kind) {
  for (const auto& transport : impl_->transports) {
    if (auto block = transport->allocate(bytes)) return Memory(std::move(block), bytes, kind);
  }
  return Memory(plain_block(bytes), bytes, kind);
}

void Communicator::abort(const Error& reason) noexcept {
  if (!aborted()) impl_->abort(with_progress(reason), true);
}

void Communicator::Impl::abort(const Error& why, bool here) noexcept {
  {
    const std::lock_guard lock(mutex);
    if (aborted.exchange(true)) return;
    reason = why;
    aborted_here = here;
  }
  for (const auto& transport : transports) transport->abort(why);
}

bool Communicator::aborted() const { return impl_->aborted.load(std::memory_order_acquire); }

bool Communicator::aborted_here() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->aborted_here;
}

void Communicator::check_alive() const {
  if (!aborted()) return;
  const std::lock_guard lock(impl_->mutex);
  throw Error(*impl_->reason);
}

void Communicator::listen() {
  for (const auto& transport : impl_->transports) transport->listen();
}

void Communicator::note(const GroupSpec& group, const Envelope& operation, bool finished, int64_t now_ns) {
  if (group.independent) return;  // one note, of the operations that come one after the other
  if (finished) return impl_->progress->end(now_ns);
  impl_->progress_group.store(&group, std::memory_order_relaxed);
  impl_->progress->begin(operation, now_ns);
}

Progress Communicator::progress() const {
  std::optional<ProgressNote::State> state = impl_->progress->read();
  const GroupSpec* group = impl_->progress_group.load();
  while (!state && group != nullptr) state = impl_->progress->read();  // the next one is just beginning
  if (!state) return {};
  return {describe(state->operation), group->name, state->operation.sequence, state->finished,
          state->changed_ns};
}

std::string Communicator::Impl::group_of(uint64_t channel) const {
  const std::lock_guard lock(mutex);
  for (const auto& group : groups) {
    if (group->spec.channel == channel) return " in group " + group->spec.name;
  }
  return "";
}

std::optional<Communicator::Impl::Seen> Communicator::Impl::seen_from_here(int rank) const {
  const Transport* transport = routes[static_cast<size_t>(rank)];
  const auto seen = transport != nullptr ? transport->progress_of(rank) : std::nullopt;
  if (!seen) return std::nullopt;
  constexpr std::array<std::string_view, 3> kHow = {"begun", "finished", "heard of"};
  const std::string text =
      fmt::format("{}{}, {}", describe(seen->operation), group_of(seen->operation.channel),
                  kHow[static_cast<size_t>(seen->how)]);
  return Seen{{text, seen->at_ns}, seen->how != PeerProgress::How::kHeardOf};
}

std::string Communicator::progress_of(int rank, const Report& reported) const {
  if (rank == this->rank()) return describe(report_of(progress()));
  const std::optional<Impl::Seen> seen = impl_->seen_from_here(rank);
  const bool newer = seen && (seen->exact || reported.text.empty() || seen->report.at_ns > reported.at_ns);
  return describe(newer ? seen->report : reported);
}

Error Communicator::with_progress(const Error& reason) const {
  const std::string_view text = reason.what();
  if (size() == 1 || text.find(kLastProgress) != std::string_view::npos) return reason;
  int who = rank();
  for (int r = 0; r < size() && who == rank(); ++r) {
    if (r != rank() && text.find(describe(roster(), r)) != std::string_view::npos) who = r;
  }
  const std::optional<Impl::Seen> seen = who == rank() ? std::nullopt : impl_->seen_from_here(who);
  const bool ask = who != rank() && !(seen && seen->exact) && impl_->store;
  std::string progress = progress_of(who, ask ? impl_->store(who).value_or(Report{}) : Report{});
  if (who == rank() && progress == describe(Report{})) return reason;  // it has not begun: nothing to tell
  if (who == rank()) {  // in the same words whenever it is told: people and the launcher see that it is one
    const std::lock_guard lock(impl_->mutex);
    if (impl_->told.empty()) impl_->told = progress;
    progress = impl_->told;
  }
  Error whole(reason.code(), fmt::format("{}; {}{}", reason.message(), kLastProgress, progress));
  const std::vector<std::string>& contexts = reason.contexts();
  std::for_each(contexts.rbegin(), contexts.rend(),
                [&](const std::string& context) { whole = whole.with_context(context); });
  return whole;
}

void Communicator::ask_for_progress(std::function<std::optional<Report>(int rank)> store) {
  impl_->store = std::move(store);
}

Report report_of(const Progress& progress) {
  if (progress.operation.empty()) return {};
  return {fmt::format("{} in group {}, {}", progress.operation, progress.group,
                      progress.finished ? "finished" : "begun"),
          progress.changed_ns};
}

Ledger& Communicator::ledger() { return impl_->ledger; }

WireBytes Communicator::wire_bytes() const {
  WireBytes sum;
  for (const auto& transport : impl_->transports) sum += transport->wire().all();
  return sum;
}

Crossed Communicator::crossed_of(const GroupSpec& group) const {
  Crossed sum;
  for (const WireCounts* wire : impl_->wires) sum += wire->of(group.channel);
  return sum;
}

std::string Communicator::transport_of(int peer) const {
  const Transport* transport = impl_->routes.at(static_cast<size_t>(peer));
  return transport == nullptr ? "" : std::string(transport->name());
}

std::string Communicator::would_run(const Collective& c, const Group& group) const {
  return group.state()->backend->algorithm_of(c);
}

Transport& Communicator::route(int peer) { return *impl_->routes[static_cast<size_t>(peer)]; }
Engine& Communicator::engine() { return impl_->engine; }
const AlgorithmTable& Communicator::algorithms() const { return impl_->algorithms; }
void Communicator::set_algorithms(AlgorithmTable table) {
  impl_->algorithms = std::move(table);
  ++impl_->algorithms_set;
}
int Communicator::algorithms_set() const { return impl_->algorithms_set; }

}  // namespace furrow::comm
