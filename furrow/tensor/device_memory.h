// What of a device's memory is counted beside the kinds that are all a device's or all the host's.
#pragma once

#include <cstdint>

namespace furrow::tensor {

// The most that buffers of devices under MemoryKind::kOther have held at once.  Thread safe.
int64_t device_workspace_peak_bytes();

}  // namespace furrow::tensor
