// How long a device works on what each instruction has told it, apart from how long the telling takes.
#pragma once

#include <c10/core/Event.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace furrow::train {

// The device is given something to do first (`occupy`), for longer than the rank's thread needs to tell it
// the instructions: it then does them one right behind the other, and events between them tell how long each
// took. Where it has caught up, as after one that the thread waits in, it is occupied again; such an
// instruction lasts from the end of the one before it until the thread has what it waited for.
//
// Through c10's interface for any device, on its default stream.  One thread.
class DeviceTimer {
 public:
  DeviceTimer(const c10::Device& device, std::function<void()> occupy);

  void wait() const;  // until the device has done what it was told

  // Before the first instruction: occupies the device for `ahead_ns`, or somewhat longer.
  void begin(int64_t ahead_ns);
  // After each.
  void mark(int32_t instruction, bool awaited);

  struct Time {
    int32_t instruction = 0;
    double seconds = 0;
  };
  std::vector<Time> end();  // of all marks since begin(), in order; waits

 private:
  void occupy_ahead();
  size_t record();  // index of the event

  const c10::impl::VirtualGuardImpl guard_;
  const c10::Device device_;
  const std::function<void()> occupy_;
  double occupied_ns_ = 0;  // by one call
  int64_t ahead_ns_ = 0;
  struct Mark {
    int32_t instruction = 0;
    size_t before = 0, after = 0;  // events
  };
  std::vector<Mark> marks_;
  std::vector<std::unique_ptr<c10::Event>> events_;  // kept for the next time
  size_t used_ = 0, last_ = 0;
};

}  // namespace furrow::train
