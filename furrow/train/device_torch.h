// Where a rank computes: [training] device.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/StreamGuard.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "furrow/base/memory.h"
#include "furrow/config/config.h"
#include "furrow/plan/layout.h"
#include "furrow/plan/model_spec.h"
#include "furrow/train/rank_context.h"

namespace furrow::train {

// The device of a config for a rank of this host, ready.  Of the process from then on: convolutions and
// attention in one order, float32 in float32.  Error{failed_precondition}: libtorch, or the machine, has
// none; more ranks than devices.
Device open_device(const config::Training& training, int local_rank);

// A launcher that shows each rank its own device shows one.  Error{failed_precondition}
int device_of_local_rank(int local_rank, int devices);

at::Device device_of(const RankContext& rank);
bool composes(const RankContext& rank);  // by compositions where the device is the CPU

// Error{unimplemented}, one line: what of a run the device cannot do.  Error{invalid_argument}: ranks of GPUs
// without [comm] backend = "nccl".  For the CPU nothing.
void check_device(const config::Config& config, const plan::ModelSpec& spec, const plan::Layout& layout);

// Peaks by kind so far.  Of a device what its allocator held beside flat buffers counts as activations;
// `offload`: the optimizer's are not there.
std::array<int64_t, kMemoryKinds> memory_peaks(const RankContext& rank, bool offload);

// What a device held beside its flat buffers, of which `peaks` are known by kind: parameters, gradients,
// gathered ones and, without `offload`, the optimizer's.
int64_t beside_flat_buffers(int64_t device_peak, const std::array<int64_t, kMemoryKinds>& peaks,
                            bool offload);

// Makes the device and its default stream current while it lives, which is the one that communication follows
// (comm/nccl/wires.h); nothing for the CPU.
class DeviceScope {
 public:
  explicit DeviceScope(const at::Device& device) {
    if (!device.is_cpu()) guard_.emplace(c10::impl::VirtualGuardImpl(device.type()).getDefaultStream(device));
  }

 private:
  std::optional<c10::StreamGuard> guard_;
};

}  // namespace furrow::train
