// The backend "mpi": groups, and operations one after the other on the communicator's thread; those of an
// independent group on a thread of its own, which takes turns with the others in calling MPI.
#include <fmt/format.h>

#include <deque>
#include <memory>
#include <optional>

#include "furrow/base/clock.h"
#include "furrow/base/error.h"
#include "furrow/comm/backends.h"
#include "furrow/comm/engine.h"
#include "furrow/comm/mpi/exchange.h"
#include "furrow/comm/operation.h"

namespace furrow::comm {
namespace {

class MpiGroup : public GroupBackend {
 public:
  MpiGroup(Communicator& communicator, MpiWires& wires, GroupSpec spec)
      : communicator_(communicator), spec_(std::move(spec)) {
    if (spec_.independent) {
      staging_.emplace(communicator);
      own_engine_ = std::make_unique<Engine>(fmt::format("{}-{}", spec_.name, communicator.rank()));
    }
    group_.emplace(MpiGroupWires{communicator, wires, spec_, staging_ ? *staging_ : wires.staging()});
  }

  Work start(std::vector<Collective> batch, OperationNumbers& numbers) override {
    const bool here = may_inline(communicator_, spec_, batch);
    return engine().submit([this, batch = std::move(batch), &numbers] { run_all(batch, numbers); }, here);
  }

  void run(const Collective& c, OperationNumbers& numbers) override {
    engine().run([&] { run_all({&c, 1}, numbers); });
  }

  void close() override {
    if (!spec_.independent) return;  // the communicator's thread may still run some
    own_engine_.reset();
    group_.reset();
    staging_.reset();
  }

  // MPI does not say which of its own it takes.
  std::string algorithm_of(const Collective& c) const override {
    return order_matters(c) && !mpi_adds(c, spec_.canonical) ? "direct over MPI" : "MPI";
  }

 private:
  // Sends complete at the end, so that an exchange is {send, recv} on both sides.
  void run_all(std::span<const Collective> batch, OperationNumbers& numbers) {
    std::deque<MpiSend> sends;
    for (size_t i = 0; i < batch.size(); ++i)
      run_one(batch[i], numbers.next(batch[i]), sends, i + 1 == batch.size());
  }

  void run_one(const Collective& c, uint64_t sequence, std::deque<MpiSend>& sends, bool last) {
    const int64_t started_ns = system_clock().monotonic_ns();
    const int64_t deadline_ns = deadline_of(communicator_, c, started_ns);
    const Envelope envelope = envelope_of(spec_, c, sequence);
    MpiExchange exchange(*group_, c, envelope, deadline_ns);
    guard_operation(
        communicator_, spec_, [&] { return envelope; },
        [&] {
          communicator_.note(spec_, envelope, false, started_ns);
          exchange.run(sends);
          for (; last && !sends.empty(); sends.pop_front()) finish(sends.front(), deadline_ns);
        });
    const int64_t finished_ns = system_clock().monotonic_ns();
    communicator_.note(spec_, envelope, true, finished_ns);
    costs_.add(c, 0, exchange.moved(), finished_ns - started_ns);
  }

  void finish(const MpiSend& send, int64_t deadline_ns) {
    for (const MpiHandle request : send.requests) group_->wires.wait(request, deadline_ns, send.whom);
  }

  Engine& engine() {
    if (!spec_.independent) return communicator_.engine();
    FURROW_CHECK(own_engine_ != nullptr, "an operation after the communicator has gone");
    return *own_engine_;
  }

  Communicator& communicator_;
  const GroupSpec spec_;
  std::optional<MpiStaging> staging_;  // of an independent group
  std::optional<MpiGroupWires> group_;
  GroupCosts costs_{communicator_, spec_};
  std::unique_ptr<Engine> own_engine_;  // destroyed first: it runs what is queued
};

class MpiBackend : public Backend {
 public:
  explicit MpiBackend(Communicator& communicator) : communicator_(communicator), wires_(communicator) {}
  std::string_view name() const override { return "mpi"; }
  std::unique_ptr<GroupBackend> make_group(const GroupSpec& spec) override {
    return std::make_unique<MpiGroup>(communicator_, wires_, spec);
  }

 private:
  Communicator& communicator_;
  MpiWires wires_;
};

}  // namespace

std::unique_ptr<Backend> make_mpi(Communicator& communicator) {
  return std::make_unique<MpiBackend>(communicator);
}

}  // namespace furrow::comm
