// The backend that runs the algorithms of algorithms/ over the transports.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <ctime>
#include <utility>

#include "furrow/base/clock.h"
#include "furrow/base/hash.h"
#include "furrow/comm/backends.h"
#include "furrow/comm/call.h"
#include "furrow/comm/engine.h"

namespace furrow::comm {
namespace {

constexpr int64_t kMillisecond = 1'000'000;
constexpr size_t kSmall = 4096;

// Reading the exact clock twice would be a fifth of a small operation.  The coarse one is the same clock, as
// of the last tick of some ms: right on average, and enough for deadlines.
int64_t clock_ns(bool coarse) {
  if (!coarse) return system_clock().monotonic_ns();
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

bool is_pair(CollectiveKind kind) { return kind == CollectiveKind::kSend || kind == CollectiveKind::kRecv; }

Envelope envelope_of(const GroupSpec& group, const Collective& c, uint64_t sequence) {
  Envelope e;
  e.channel = group.channel;
  e.sequence = sequence;
  e.kind = static_cast<uint8_t>(is_pair(c.kind) ? CollectiveKind::kSend : c.kind);
  e.dtype = static_cast<uint8_t>(c.dtype);
  e.reduction = static_cast<uint8_t>(c.reduction);
  e.root = is_pair(c.kind) ? -1 : c.root_or_peer;
  // What every rank gives alike: not the counts of all_to_all.
  if (c.kind != CollectiveKind::kAllToAll) {
    e.elements = static_cast<int64_t>(std::max(c.in.size(), c.out.size()) / dtype_size(c.dtype));
    if (!c.counts.empty()) e.counts_hash = static_cast<uint32_t>(xxh3_64(std::as_bytes(std::span(c.counts))));
  }
  std::memcpy(e.label, c.label.data(), std::min(c.label.size(), sizeof(e.label)));
  return e;
}

// Of the one operation that runs, whatever its group.
struct Shared {
  Scratch scratch;
  WireBytes counted;  // when the last one ended
};

class NativeGroup : public GroupBackend {
 public:
  NativeGroup(Communicator& communicator, Shared& shared, GroupSpec spec)
      : communicator_(communicator),
        shared_(shared),
        spec_(std::move(spec)),
        topology_(topology_of(communicator, spec_)) {}

  Work start(std::vector<Collective> batch, std::vector<uint64_t> sequence) override {
    size_t bytes = 0;
    for (const Collective& c : batch) bytes += std::max(c.in.size(), c.out.size());
    const bool may_inline = static_cast<int64_t>(bytes) <= communicator_.options().inline_bytes;
    return communicator_.engine().submit(
        [this, batch = std::move(batch), sequence = std::move(sequence)] { run_all(batch, sequence); },
        may_inline);
  }

  void run(const Collective& c, uint64_t sequence) override {
    communicator_.engine().run([&] { run_all({&c, 1}, {&sequence, 1}); });
  }

  std::string algorithm_of(const Collective& c) const override {
    const Call call({communicator_, spec_, topology_, shared_.scratch}, c, {}, 0);
    return std::string(algorithm_rows()[static_cast<size_t>(choose(call))].name);
  }

 private:
  // Sends complete at the end, so that an exchange is {send, recv} on both sides.
  void run_all(std::span<const Collective> batch, std::span<const uint64_t> sequence) {
    std::vector<Ticket> sends;
    for (size_t i = 0; i < batch.size(); ++i) run_one(batch[i], sequence[i], sends, i + 1 == batch.size());
  }

  void run_one(const Collective& c, uint64_t sequence, std::vector<Ticket>& sends, bool last) {
    const bool small = std::max(c.in.size(), c.out.size()) <= kSmall;
    const int64_t started_ns = clock_ns(small);
    const int64_t timeout_ms = c.timeout_ms > 0 ? c.timeout_ms : communicator_.options().timeout_ms;
    Call call({communicator_, spec_, topology_, shared_.scratch}, c, envelope_of(spec_, c, sequence),
              started_ns + timeout_ms * kMillisecond);
    guarded(call, [&] {
      const int algorithm = choose(call);
      call.set_algorithm(algorithm);
      communicator_.note(spec_, call.envelope(0), false, started_ns);
      algorithm_rows()[static_cast<size_t>(algorithm)].run(call);
      sends.insert(sends.end(), call.pending().begin(), call.pending().end());
      if (!last) return;
      for (const Ticket& ticket : sends) call.wait(ticket);
    });
    shared_.scratch.release();
    const int64_t finished_ns = clock_ns(small);
    communicator_.note(spec_, call.envelope(0), true, finished_ns);
    record(call, finished_ns - started_ns);
  }

  int choose(const Call& call) const {
    const std::string& forced = communicator_.options().algorithm;
    if (forced.empty()) return communicator_.algorithms().choose(call, spec_.canonical);
    AlgorithmTable table;
    table.set(call.c.kind, call.wires(), call.size(),
              {{call.c.kind, call.wires(), call.size(), INT64_MAX, algorithm_index(forced)}});
    return table.choose(call, spec_.canonical);
  }

  void record(const Call& call, int64_t busy_ns) {
    const Collective& c = call.c;
    const WireBytes after = communicator_.wire_bytes(), before = std::exchange(shared_.counted, after);
    const bool outgoing = c.kind == CollectiveKind::kReduce || c.kind == CollectiveKind::kSend;
    LedgerRow cost;
    cost.algorithm = call.algorithm();
    cost.calls = 1;
    cost.payload_bytes = static_cast<int64_t>(call.payload());
    cost.wire_bytes =
        outgoing ? after.sent + after.overhead_sent - before.sent - before.overhead_sent
                 : after.received + after.overhead_received - before.received - before.overhead_received;
    cost.bound_bytes = bound_bytes(c, spec_.rank, call.size());
    cost.busy_ns = busy_ns;
    Ledger::Entry*& entry = entries_[static_cast<size_t>(c.kind)];
    if (entry == nullptr || Ledger::label(*entry) != c.label) {
      entry = &communicator_.ledger().entry(spec_.name, c.kind, c.label);
    }
    Ledger::add(*entry, cost);
  }

  // An error says where it happened, and ends the work of all ranks.
  template <class Body>
  void guarded(const Call& call, const Body& body) {
    try {
      communicator_.check_alive();
      body();
    } catch (const Error& error) {
      fail(call, error);
    } catch (const std::exception& error) {
      fail(call, Error(ErrorCode::kInternal, error.what()));
    }
  }

  [[noreturn]] void fail(const Call& call, const Error& error) {
    const Error full =
        error.with_context(fmt::format("{} in group {} on {}", describe(call.envelope(0)), spec_.name,
                                       describe(communicator_.roster(), communicator_.rank())));
    communicator_.abort(full);
    throw full;
  }

  Communicator& communicator_;
  Shared& shared_;
  const GroupSpec spec_;
  const Topology topology_;
  std::array<Ledger::Entry*, kCollectiveKinds> entries_{};  // the last ones used
};

class Native : public Backend {
 public:
  explicit Native(Communicator& communicator)
      : communicator_(communicator), shared_{Scratch(communicator), {}} {}
  std::string_view name() const override { return "native"; }
  std::unique_ptr<GroupBackend> make_group(const GroupSpec& spec) override {
    return std::make_unique<NativeGroup>(communicator_, shared_, spec);
  }

 private:
  Communicator& communicator_;
  Shared shared_;
};

}  // namespace

std::unique_ptr<Backend> make_native(Communicator& communicator) {
  return std::make_unique<Native>(communicator);
}

}  // namespace furrow::comm
