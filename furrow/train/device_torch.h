// Where a rank computes: [training] device.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/DeviceGuard.h>

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

// The device of a config, ready.  Of the process from then on: convolutions and attention in one order,
// float32 in float32.  Error{failed_precondition}: libtorch, or the machine, has none.
Device open_device(const config::Training& training);

at::Device device_of(const RankContext& rank);
bool composes(const RankContext& rank);  // by compositions where the device is the CPU

// Error{unimplemented}, one line: what of a run the device cannot do.  For the CPU nothing.
void check_device(const config::Config& config, const plan::ModelSpec& spec, const plan::Layout& layout);

// Peaks by kind so far.  Of a device what its allocator held beside flat buffers counts as activations.
std::array<int64_t, kMemoryKinds> memory_peaks(const RankContext& rank);

// Makes the device current while it lives; nothing for the CPU.
class DeviceScope {
 public:
  explicit DeviceScope(const at::Device& device) {
    if (!device.is_cpu()) guard_.emplace(device);
  }

 private:
  std::optional<c10::DeviceGuard> guard_;
};

}  // namespace furrow::train
