// Copies between a device and its host, one after the other beside everything else: what carries out the lane
// `copy` of a program (plan/program.h).
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

#include "furrow/base/clock.h"
#include "furrow/comm/backend.h"

namespace furrow::train {

// Of one rank and one thread, its works too, which it outlives.
class CopyLane {
 public:
  virtual ~CopyLane() = default;

  // `to` becomes `from`, behind the copies before it and what the device has been told to do so far.  Until
  // the work has been waited for nobody writes either or reads `to`, but copies of the same lane.  REQUIRES:
  // the same type and size, both dense; memory of the host that the device copies by itself (pinned_buffer),
  // else the copy is right, but not beside anything.  The work keeps both alive.
  virtual comm::Work start(const at::Tensor& to, const at::Tensor& from) = 0;
};

// Of a device with streams: on a stream of its own, with events, through c10's interface for any of them.
// Of the CPU, `device = "composed"` too, where there is nothing to copy beside: as late as the rules above
// allow, in the first wait for it or one behind it, so that who does not wait sees what was there before.
// REQUIRES: the clock outlives the lane.
std::unique_ptr<CopyLane> make_copy_lane(const at::Device& device, const Clock* clock);

}  // namespace furrow::train
