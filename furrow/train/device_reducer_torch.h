// Who adds on a rank's device for the communicator (comm/device.h), through c10's interface for any device
// with streams and libtorch's own operations.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

#include "furrow/comm/device.h"

namespace furrow::train {

// On a stream of its own, in the order of events of the device.  Where the device is the CPU
// (`device = "composed"`), in the calling thread.
std::unique_ptr<comm::DeviceReducer> make_device_reducer(const at::Device& device);

// The first of these with streams of `device` beside memory that may be elsewhere (tests).
std::unique_ptr<comm::DeviceReducer> make_stream_reducer(const at::Device& device, const at::Device& memory);

// What a communicator is told of the device.
comm::RankDevice reduced_on(const at::Device& device);

}  // namespace furrow::train
