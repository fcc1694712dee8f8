// The device that a rank computes on, as a communicator is told of it, and the seam to who adds there: comm
// knows no arithmetic of devices, train/device_reducer_torch.h brings libtorch's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "furrow/comm/reduce.h"

namespace furrow::comm {

// Adds numbers in a device's memory, with the bits of reduce.h.  For one thread.
class DeviceReducer {
 public:
  virtual ~DeviceReducer() = default;

  // Memory of the device, counted, good until the next call: behind what its stream has been told so far.
  // REQUIRES: nothing of what it gave before is still to be read or written.
  virtual std::byte* staging(size_t bytes) = 0;

  // Whether it has a stream of its own on the device, whose order the next three are of; they may return
  // before it is there.  Else it computes in the calling thread, and those three are not called.
  virtual bool has_stream() const = 0;
  virtual void wait_for(void* event) = 0;  // what follows runs behind that event of the device (cudaEvent_t)
  virtual void record(void* event) = 0;    // the event is behind what was begun so far
  virtual void drain() noexcept = 0;       // returns when all that was begun has ended

  // combine() and finish() of reduce.h.  `out` may be `a` or `b`.
  virtual void combine(const ReduceKind& kind, int64_t n, const std::byte* a, const std::byte* b,
                       std::byte* out) = 0;
  virtual void finish(const ReduceKind& kind, int64_t n, std::byte* data) = 0;
};

struct RankDevice {
  int index = 0;  // as CUDA numbers them
  // One for each thread that carries out operations.  Null: what NCCL must not add is added on the host,
  // which costs a way there and back.
  std::function<std::unique_ptr<DeviceReducer>()> make_reducer = nullptr;
};

}  // namespace furrow::comm
