// Wakes a thread that polls descriptors.
#pragma once

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "furrow/comm/descriptors.h"
#include "furrow/comm/socket.h"

namespace furrow::comm {

// Thread safe.
class Wakeup {
 public:
  // Error{resource_exhausted}: no descriptor is left.
  Wakeup() : event_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
    if (!event_.open()) throw descriptor_error(errno, "watch connections");
  }
  void signal() const {
    const uint64_t one = 1;
    [[maybe_unused]] const auto written = ::write(event_.descriptor(), &one, sizeof one);
  }
  void clear() const {
    uint64_t count = 0;
    [[maybe_unused]] const auto got = ::read(event_.descriptor(), &count, sizeof count);
  }
  pollfd poll_entry() const { return {event_.descriptor(), POLLIN, 0}; }

 private:
  Socket event_;
};

}  // namespace furrow::comm
