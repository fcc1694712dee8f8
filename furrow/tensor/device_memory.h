// What of a device's memory is counted beside the kinds that are all a device's or all the host's.
#pragma once

#include "furrow/base/memory.h"

namespace furrow::tensor {

// What buffers of devices under MemoryKind::kOther hold, and have held at most.  Thread safe.
MemoryUsage device_workspace();

}  // namespace furrow::tensor
