// The backend "nccl": memory of a CUDA device over NCCL, memory of the host over furrow's own transports.  An
// independent group has a thread, a stream and NCCL communicators of its own.
#include <fmt/format.h>

#include <memory>
#include <optional>
#include <utility>

#include "furrow/base/clock.h"
#include "furrow/base/error.h"
#include "furrow/comm/backends.h"
#include "furrow/comm/engine.h"
#include "furrow/comm/nccl/exchange.h"
#include "furrow/comm/operation.h"

namespace furrow::comm {
namespace {

class NcclGroup : public GroupBackend {
 public:
  NcclGroup(Communicator& communicator, NcclWires& wires, Backend& native, GroupSpec spec)
      : communicator_(communicator), native_(native.make_group(spec)), spec_(std::move(spec)) {
    if (spec_.independent) {
      own_wires_ = std::make_unique<NcclWires>(communicator);
      own_engine_ = std::make_unique<Engine>(fmt::format("{}-{}", spec_.name, communicator.rank()));
    }
    group_.emplace(NcclGroupWires{communicator, own_wires_ ? *own_wires_ : wires, spec_});
  }

  Work start(std::vector<Collective> batch, OperationNumbers& numbers) override {
    const std::optional<int> device = device_of(batch);
    if (!device) return start_on_host(std::move(batch), numbers);
    return engine().submit([this, batch = std::move(batch), &numbers, device = *device,
                            ready = NcclWires::record()] { run_all(batch, numbers, device, ready); },
                           false);
  }

  void run(const Collective& c, OperationNumbers& numbers) override {
    const std::optional<int> device = device_of({&c, 1});
    if (!device)
      return spec_.independent ? engine().run([&] { native_->run(c, numbers); }) : native_->run(c, numbers);
    const NcclWires::Ready ready = NcclWires::record();
    engine().run([&] { run_all({&c, 1}, numbers, *device, ready); });
  }

  void close() override {
    if (!spec_.independent) return;  // the communicator's thread may still run some
    own_engine_.reset();
    native_->close();
    group_.reset();
    own_wires_.reset();
  }

  std::string algorithm_of(const Collective& c) const override {
    if (!device_of({&c, 1})) return native_->algorithm_of(c);
    if (!is_reduction(c.kind) || nccl_adds(c, spec_.canonical, group_->size())) return "NCCL";
    return communicator_.device()->make_reducer ? "direct over NCCL, added on the device"
                                                : "direct over NCCL, added on the host";
  }

 private:
  // An independent group keeps the order of its operations, whatever memory they are on.
  Work start_on_host(std::vector<Collective> batch, OperationNumbers& numbers) {
    if (!spec_.independent) return native_->start(std::move(batch), numbers);
    return engine().submit(
        [this, batch = std::move(batch), &numbers] { native_->start(batch, numbers).wait(); }, false);
  }

  // None where all of it is the host's.
  std::optional<int> device_of(std::span<const Collective> batch) const {
    std::optional<int> device;
    bool first = true;
    for (const Collective& c : batch) {
      for (const std::byte* data : {c.in.data(), static_cast<const std::byte*>(c.out.data())}) {
        if (data == nullptr) continue;
        const std::optional<int> here = group_->wires.device_of(data);
        if (!std::exchange(first, false) && here != device) {
          throw Error(ErrorCode::kInvalidArgument,
                      fmt::format("{} '{}' in group {}: its buffers are on the host and on a device, or on "
                                  "two devices: copy them to one first",
                                  to_string(c.kind), c.label, spec_.name));
        }
        device = here;
      }
    }
    return device;
  }

  void run_all(std::span<const Collective> batch, OperationNumbers& numbers, int device,
               const NcclWires::Ready& ready) {
    const std::vector<uint64_t> sequence = numbers.next(batch);
    guard_operation(
        communicator_, spec_, [&] { return envelope_of(spec_, batch[0], sequence[0]); },
        [&] { group_->wires.begin(device, ready); });
    for (size_t begin = 0, end; begin < batch.size(); begin = end) {
      end = begin + 1;
      while (is_pair(batch[begin].kind) && end < batch.size() && is_pair(batch[end].kind)) ++end;
      run_some(batch.subspan(begin, end - begin), std::span(sequence).subspan(begin, end - begin));
    }
  }

  // One collective, or transfers between pairs, which NCCL must know of together.
  void run_some(std::span<const Collective> batch, std::span<const uint64_t> sequence) {
    const int64_t started_ns = system_clock().monotonic_ns();
    const int64_t deadline_ns = deadline_of(communicator_, batch[0], started_ns);
    std::vector<Envelope> envelopes;
    for (size_t i = 0; i < batch.size(); ++i) envelopes.push_back(envelope_of(spec_, batch[i], sequence[i]));
    guard_operation(
        communicator_, spec_, [&] { return envelopes[0]; },
        [&] {
          communicator_.note(spec_, envelopes[0], false, started_ns);
          carry_out(batch, envelopes, deadline_ns);
        });
    forget_wire_bytes(*native_);
    const int64_t finished_ns = system_clock().monotonic_ns();
    communicator_.note(spec_, envelopes.back(), true, finished_ns);
    for (const Collective& c : batch)
      count(c, (finished_ns - started_ns) / static_cast<int64_t>(batch.size()));
  }

  void carry_out(std::span<const Collective> batch, std::span<const Envelope> envelopes,
                 int64_t deadline_ns) try {
    if (is_pair(batch[0].kind)) return run_pairs(*group_, batch, envelopes, deadline_ns);
    NcclExchange(*group_, batch[0], envelopes[0], deadline_ns).run();
  } catch (...) {
    group_->wires.give_up();  // the buffers are the caller's again: no kernel, copy or addition may go on
    throw;
  }

  // NCCL does not tell what it moves: the least that the operation needs.
  void count(const Collective& c, int64_t busy_ns) {
    const int64_t bytes = bound_bytes(c, spec_.rank, group_->size());
    costs_.add(c, 0, {.sent = bytes, .received = bytes}, busy_ns);
  }

  Engine& engine() {
    if (!spec_.independent) return communicator_.engine();
    FURROW_CHECK(own_engine_ != nullptr, "an operation after the communicator has gone");
    return *own_engine_;
  }

  Communicator& communicator_;
  std::unique_ptr<GroupBackend> native_;
  const GroupSpec spec_;
  std::unique_ptr<NcclWires> own_wires_;  // of an independent group
  std::optional<NcclGroupWires> group_;
  GroupCosts costs_{communicator_, spec_};
  std::unique_ptr<Engine> own_engine_;  // destroyed first: it runs what is queued
};

class NcclBackend : public Backend {
 public:
  explicit NcclBackend(Communicator& communicator)
      : communicator_(communicator), native_(make_native(communicator)), wires_(communicator) {}
  std::string_view name() const override { return "nccl"; }
  std::unique_ptr<GroupBackend> make_group(const GroupSpec& spec) override {
    return std::make_unique<NcclGroup>(communicator_, wires_, *native_, spec);
  }
  void use_device() override { nccl_library(); }

 private:
  Communicator& communicator_;
  std::unique_ptr<Backend> native_;
  NcclWires wires_;
};

}  // namespace

std::unique_ptr<Backend> make_nccl(Communicator& communicator) {
  return std::make_unique<NcclBackend>(communicator);
}

}  // namespace furrow::comm
