// The backend that runs the algorithms of algorithms/ over the transports.
#include <fmt/format.h>

#include <atomic>
#include <memory>
#include <optional>
#include <utility>

#include "furrow/base/clock.h"
#include "furrow/base/log.h"
#include "furrow/comm/algorithms/rows.h"
#include "furrow/comm/backends.h"
#include "furrow/comm/call.h"
#include "furrow/comm/engine.h"
#include "furrow/comm/operation.h"

namespace furrow::comm {
namespace {

// Of the one operation that runs: of an independent group, or of any other.
struct Shared {
  Scratch scratch;
  Crossed counted;  // when the last one ended
};

// Says once that the algorithm that was asked for is not the one that is taken, and why.
class AskedFor {
 public:
  explicit AskedFor(const Communicator& communicator) : communicator_(communicator) {
    if (name().empty() || communicator.size() > 1) return;
    say("has no effect: one rank has nobody to exchange anything with");
  }

  // REQUIRES: an algorithm was asked for.
  void compare(const GroupSpec& group, const Call& call, int taken) {
    const AlgorithmRow& asked = algorithm_rows()[static_cast<size_t>(algorithm_index(name()))];
    const std::string_view by = algorithm_rows()[static_cast<size_t>(taken)].name;
    if (by == asked.name || !asked.kinds.has(call.c.kind) || call.size() == 1 || communicator_.rank() != 0)
      return;
    if (said_.exchange(true)) return;
    const std::string why =
        asked.fits(call) ? std::string("it adds in another order than the canonical one, which results keep")
                         : fmt::format("it needs {}", asked.needs);
    say(fmt::format("does not carry out {} in group {} of {} ranks: {}; {} does", to_string(call.c.kind),
                    group.name, call.size(), why, by));
  }

 private:
  const std::string& name() const { return communicator_.options().algorithm; }
  void say(const std::string& what) const {
    log_warning(fmt::format("comm.algorithm = {} {}", name(), what));
  }

  const Communicator& communicator_;
  std::atomic<bool> said_{false};
};

class NativeGroup : public GroupBackend {
 public:
  NativeGroup(Communicator& communicator, Shared& shared, AskedFor& asked_for, GroupSpec spec)
      : communicator_(communicator),
        shared_(shared),
        asked_for_(asked_for),
        spec_(std::move(spec)),
        topology_(topology_of(communicator, spec_)) {
    if (!spec_.independent) return;
    own_shared_.emplace(Shared{Scratch(communicator), {}});
    own_engine_ = std::make_unique<Engine>(fmt::format("{}-{}", spec_.name, communicator.rank()));
  }

  Work start(std::vector<Collective> batch, OperationNumbers& numbers) override {
    const bool here = may_inline(communicator_, spec_, batch);
    return engine().submit([this, batch = std::move(batch), &numbers] { run_all(batch, numbers); }, here);
  }

  void run(const Collective& c, OperationNumbers& numbers) override {
    engine().run([&] { run_all({&c, 1}, numbers); });
  }

  void close() override { own_engine_.reset(); }

  void forget() { shared().counted = communicator_.crossed_of(spec_); }

  std::string algorithm_of(const Collective& c) const override {
    return std::string(algorithm_rows()[static_cast<size_t>(row_of(c))].name);
  }

 private:
  static constexpr int kDirect = 0;  // its row
  int row_of(const Collective& c) const {
    return choose(Call({communicator_, spec_, topology_, shared_.scratch}, c));
  }

  struct Numbered {
    const Collective& c;
    uint64_t sequence;
  };

  // Sends complete at the end, so that an exchange is {send, recv} on both sides.
  void run_all(std::span<const Collective> batch, OperationNumbers& numbers) {
    std::vector<Ticket> sends;
    for (size_t i = 0; i < batch.size(); ++i) {
      if (i + 1 < batch.size() && are_one_pass(batch[i], batch[i + 1])) {
        const Numbered reduce{batch[i], numbers.next(batch[i])};
        run_both(reduce, {batch[i + 1], numbers.next(batch[i + 1])}, sends, i + 2 == batch.size());
        ++i;
      } else {
        run_one({batch[i], numbers.next(batch[i])}, sends, i + 1 == batch.size());
      }
    }
  }

  Call call_of(const Numbered& one) {
    Call call({communicator_, spec_, topology_, shared().scratch, &costs_}, one.c);
    call.set_envelope(one.sequence, take(call));
    return call;
  }

  // A reduce_scatter and the all_gather of what it makes: the same answer on every rank.
  bool are_one_pass(const Collective& reduce, const Collective& gather) {
    if (reduce.kind != CollectiveKind::kReduceScatter || gather.kind != CollectiveKind::kAllGather)
      return false;
    const bool same =
        gather.in.size() == reduce.out.size() && (gather.in.empty() || gather.in.data() == reduce.out.data());
    if (!same || gather.dtype != reduce.dtype || gather.counts != reduce.counts) return false;
    return topology_.wires == Wires::kMemory && row_of(reduce) == kDirect && row_of(gather) == kDirect;
  }

  // Both in one pass, each with its own bytes and half of the time.
  void run_both(const Numbered& reduce, const Numbered& gather, const std::vector<Ticket>& sends, bool last) {
    Call scatters = call_of(reduce), gathers = call_of(gather);
    guard_operation(
        communicator_, spec_, [&] { return scatters.envelope(0); },
        [&] {
          scatters.begin();
          gathers.begin();
          direct_scatter_and_gather(scatters, gathers);
          if (!last) return;
          for (const Ticket& ticket : sends) gathers.wait(ticket);
        });
    shared().scratch.release();
    const int64_t finished_ns = system_clock().monotonic_ns(),
                  half_ns = (finished_ns - scatters.started_ns()) / 2;
    const Crossed all = moved(),
                  reduced{.received = static_cast<int64_t>(reduce.c.out.size()) * (scatters.size() - 1)};
    account(reduce.c, scatters, reduced, {finished_ns, half_ns});
    account(gather.c, gathers, all - reduced, {finished_ns, half_ns});
  }

  struct Times {
    int64_t finished_ns, busy_ns;
  };
  void account(const Collective& c, Call& call, Crossed wire, const Times& times) {
    communicator_.note(spec_, call.envelope(0), true, times.finished_ns);
    costs_.expect(c);
    costs_.add(c, call.algorithm(), wire, times.busy_ns);
  }

  void run_one(const Numbered& one, std::vector<Ticket>& sends, bool last) {
    const Collective& c = one.c;
    Call call({communicator_, spec_, topology_, shared().scratch, &costs_}, c);
    call.set_envelope(one.sequence, take(call));
    const auto envelope = [&] { return call.envelope(0); };
    guard_operation(communicator_, spec_, envelope, [&] {
      if (!is_small(c)) call.begin();
      algorithm_rows()[static_cast<size_t>(call.algorithm())].run(call);
      sends.insert(sends.end(), call.pending().begin(), call.pending().end());
      if (!last) return;
      for (const Ticket& ticket : sends) call.wait(ticket);
    });
    call.begin();  // unless something was waited for
    shared().scratch.release();
    const int64_t finished_ns = operation_clock_ns(c);
    communicator_.note(spec_, call.envelope(0), true, finished_ns);
    costs_.add(c, call.algorithm(), moved(), finished_ns - call.started_ns());
  }

  // What crossed since the last operation of this engine.
  Crossed moved() {
    const Crossed after = communicator_.crossed_of(spec_);
    return after - std::exchange(shared().counted, after);
  }

  Engine& engine() {
    if (!spec_.independent) return communicator_.engine();
    FURROW_CHECK(own_engine_ != nullptr, "an operation after the communicator has gone");
    return *own_engine_;
  }
  Shared& shared() { return own_shared_ ? *own_shared_ : shared_; }

  // The choice for an operation, which mostly holds for the next.
  struct Choice {
    CollectiveKind kind;
    DType dtype;
    Reduction reduction;
    size_t bytes;
    int algorithms_set;
    bool operator==(const Choice&) const = default;
  };

  int take(const Call& call) {
    const Choice choice{call.c.kind, call.c.dtype, call.c.reduction, call.payload(),
                        communicator_.algorithms_set()};
    if (chosen_ == choice) return algorithm_;
    algorithm_ = choose(call);
    chosen_ = choice;
    if (!communicator_.options().algorithm.empty()) asked_for_.compare(spec_, call, algorithm_);
    return algorithm_;
  }

  int choose(const Call& call) const {
    const std::string& forced = communicator_.options().algorithm;
    if (forced.empty()) return communicator_.algorithms().choose(call, spec_.canonical);
    AlgorithmTable table;
    table.set(call.c.kind, call.wires(), call.size(),
              {{call.c.kind, call.wires(), call.size(), INT64_MAX, algorithm_index(forced)}});
    return table.choose(call, spec_.canonical);
  }

  Communicator& communicator_;
  Shared& shared_;
  AskedFor& asked_for_;
  const GroupSpec spec_;
  const Topology topology_;
  GroupCosts costs_{communicator_, spec_};
  std::optional<Choice> chosen_;
  int algorithm_ = 0;                   // of chosen_
  std::optional<Shared> own_shared_;    // of an independent group
  std::unique_ptr<Engine> own_engine_;  // destroyed first: it runs what is queued
};

class Native : public Backend {
 public:
  explicit Native(Communicator& communicator)
      : communicator_(communicator), shared_{Scratch(communicator), {}}, asked_for_(communicator) {}
  std::string_view name() const override { return "native"; }
  std::unique_ptr<GroupBackend> make_group(const GroupSpec& spec) override {
    return std::make_unique<NativeGroup>(communicator_, shared_, asked_for_, spec);
  }

 private:
  Communicator& communicator_;
  Shared shared_;
  AskedFor asked_for_;
};

}  // namespace

std::unique_ptr<Backend> make_native(Communicator& communicator) {
  return std::make_unique<Native>(communicator);
}

void forget_wire_bytes(GroupBackend& native) { static_cast<NativeGroup&>(native).forget(); }

}  // namespace furrow::comm
