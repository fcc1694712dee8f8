// Where a rank computes: [training] device.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/AutogradState.h>
#include <c10/core/StreamGuard.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "furrow/base/memory.h"
#include "furrow/config/config.h"
#include "furrow/plan/layout.h"
#include "furrow/plan/model_spec.h"
#include "furrow/plan/profile.h"
#include "furrow/train/rank_context.h"

namespace furrow::train {

// The device of a config for a rank of this host, ready.  Of the process from then on: float32 in float32,
// and, unless [debug] deterministic = "off", convolutions and attention in one order.
// Error{failed_precondition}: libtorch, or the machine, has none; more ranks than devices.
Device open_device(const config::Config& config, int local_rank);

// A launcher that shows each rank its own device shows one.  Error{failed_precondition}
int device_of_local_rank(int local_rank, int devices);

at::Device device_of(const RankContext& rank);
bool composes(const RankContext& rank);  // by compositions where the device is the CPU

// Error{unimplemented}, one line: what of a run the device cannot do.  Error{invalid_argument}: ranks of GPUs
// without [comm] backend = "nccl".  For the CPU nothing.
void check_device(const config::Config& config, const plan::ModelSpec& spec, const plan::Layout& layout);

// Its type, name and memory, as profiles have them.
plan::ProfiledDevice device_facts(const RankContext& rank);

// What libtorch's allocator of a device says of it; none: of the CPU's memory, or from a libtorch before 2.9.
struct AllocatorBytes {
  int64_t current = 0, peak = 0;  // of tensors
  int64_t reserved_peak = 0;      // taken from the device
};
std::optional<AllocatorBytes> allocator_bytes(const RankContext& rank);

// What libraries hold of a device between steps (workspaces of cuBLAS and the like): neither flat buffers nor
// activations.  REQUIRES: no step is under way.  0: of the CPU's memory.
int64_t library_bytes(const RankContext& rank, bool offload);

// Peaks by kind so far.  Of a device what its allocator held beside flat buffers counts as activations, what
// libraries hold between steps as workspace; `offload`: the optimizer's are not there.  REQUIRES: as above.
std::array<int64_t, kMemoryKinds> memory_peaks(const RankContext& rank, bool offload);

// What a device held beside its flat buffers, of which `peaks` are known by kind: parameters, gradients,
// gathered ones and, without `offload`, the optimizer's.
int64_t beside_flat_buffers(int64_t device_peak, const std::array<int64_t, kMemoryKinds>& peaks,
                            bool offload);

// Makes the device and its default stream current while it lives, which is the one that communication follows
// (comm/nccl/wires.h), and backward run in this thread: libtorch has one for each device, at two switches of
// threads a call.  Nothing for the CPU.
class DeviceScope {
 public:
  explicit DeviceScope(const at::Device& device) {
    if (device.is_cpu()) return;
    guard_.emplace(c10::impl::VirtualGuardImpl(device.type()).getDefaultStream(device));
    own_threads_ = state().get_multithreading_enabled();
    state().set_multithreading_enabled(false);
  }
  ~DeviceScope() {
    if (guard_) state().set_multithreading_enabled(own_threads_);
  }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  static c10::AutogradState& state() { return c10::AutogradState::get_tls_state(); }

  std::optional<c10::StreamGuard> guard_;
  bool own_threads_ = true;
};

}  // namespace furrow::train
