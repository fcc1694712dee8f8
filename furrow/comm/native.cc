// The backend that runs the algorithms of algorithms/ over the transports.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "furrow/base/clock.h"
#include "furrow/base/hash.h"
#include "furrow/comm/backends.h"
#include "furrow/comm/call.h"
#include "furrow/comm/engine.h"

namespace furrow::comm {
namespace {

constexpr int64_t kMillisecond = 1'000'000;

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

class NativeGroup : public GroupBackend {
 public:
  NativeGroup(Communicator& communicator, Scratch& scratch, GroupSpec spec)
      : communicator_(communicator),
        scratch_(scratch),
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

 private:
  // Sends complete at the end, so that an exchange is {send, recv} on both sides.
  void run_all(std::span<const Collective> batch, std::span<const uint64_t> sequence) {
    std::deque<Ticket> sends;
    for (size_t i = 0; i < batch.size(); ++i) run_one(batch[i], sequence[i], sends, i + 1 == batch.size());
  }

  void run_one(const Collective& c, uint64_t sequence, std::deque<Ticket>& sends, bool last) {
    const int64_t started_ns = system_clock().monotonic_ns();
    const int64_t timeout_ms = c.timeout_ms > 0 ? c.timeout_ms : communicator_.options().timeout_ms;
    Call call({communicator_, spec_, topology_, scratch_}, c, envelope_of(spec_, c, sequence),
              started_ns + timeout_ms * kMillisecond);
    const WireBytes before = communicator_.wire_bytes();
    const Operation operation(communicator_, spec_, call);
    operation.guard([&] {
      const int algorithm = choose(call);
      call.set_algorithm(algorithm);
      operation.begin();
      algorithm_rows()[static_cast<size_t>(algorithm)].run(call);
      sends.insert(sends.end(), call.pending().begin(), call.pending().end());
      for (; last && !sends.empty(); sends.pop_front()) call.wait(sends.front());
      operation.end();
    });
    scratch_.release();
    record(c, before, started_ns);
  }

  int choose(const Call& call) const {
    const std::string& forced = communicator_.options().algorithm;
    if (forced.empty()) return communicator_.algorithms().choose(call, spec_.canonical);
    AlgorithmTable table;
    table.set(call.c.kind, call.wires(), call.size(),
              {{call.c.kind, call.wires(), call.size(), INT64_MAX, algorithm_index(forced)}});
    return table.choose(call, spec_.canonical);
  }

  void record(const Collective& c, const WireBytes& before, int64_t started_ns) {
    const WireBytes after = communicator_.wire_bytes();
    const bool outgoing = c.kind == CollectiveKind::kReduce || c.kind == CollectiveKind::kSend;
    LedgerRow cost;
    cost.calls = 1;
    cost.payload_bytes = static_cast<int64_t>(std::max(c.in.size(), c.out.size()));
    cost.wire_bytes =
        outgoing ? after.sent + after.overhead_sent - before.sent - before.overhead_sent
                 : after.received + after.overhead_received - before.received - before.overhead_received;
    cost.bound_bytes = bound_bytes(c, spec_.rank, static_cast<int>(spec_.members.size()));
    cost.busy_ns = system_clock().monotonic_ns() - started_ns;
    communicator_.ledger().add(spec_.name, c, cost);
  }

  // What surrounds the run of an algorithm: progress, and errors that say where they happened and end all
  // ranks.
  class Operation {
   public:
    Operation(Communicator& communicator, const GroupSpec& spec, const Call& call)
        : communicator_(communicator), spec_(spec), call_(call) {}
    void begin() const { communicator_.note(spec_, call_.envelope(0), false); }
    void end() const { communicator_.note(spec_, call_.envelope(0), true); }

    template <class Body>
    void guard(const Body& body) const {
      try {
        communicator_.check_alive();
        body();
      } catch (const Error& error) {
        fail(error);
      } catch (const std::exception& error) {
        fail(Error(ErrorCode::kInternal, error.what()));
      }
    }

   private:
    [[noreturn]] void fail(const Error& error) const {
      const Error full =
          error.with_context(fmt::format("{} in group {} on {}", describe(call_.envelope(0)), spec_.name,
                                         describe(communicator_.roster(), communicator_.rank())));
      communicator_.abort(full);
      throw full;
    }
    Communicator& communicator_;
    const GroupSpec& spec_;
    const Call& call_;
  };

  Communicator& communicator_;
  Scratch& scratch_;
  const GroupSpec spec_;
  const Topology topology_;
};

class Native : public Backend {
 public:
  explicit Native(Communicator& communicator) : communicator_(communicator), scratch_(communicator) {}
  std::string_view name() const override { return "native"; }
  std::unique_ptr<GroupBackend> make_group(const GroupSpec& spec) override {
    return std::make_unique<NativeGroup>(communicator_, scratch_, spec);
  }

 private:
  Communicator& communicator_;
  Scratch scratch_;  // of the one operation that runs
};

}  // namespace

std::unique_ptr<Backend> make_native(Communicator& communicator) {
  return std::make_unique<Native>(communicator);
}

}  // namespace furrow::comm
