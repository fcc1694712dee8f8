// Room among the files and sockets that a process may have open at once.  Thread safe but for objects.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/comm/socket.h"

namespace furrow::comm {

// Raises this process's soft limit of open files to its hard one where that is less than `wanted`.
void allow_descriptors(uint64_t wanted) noexcept;

// Does this error number say that this process, or this machine, may open no more?
bool out_of_descriptors(int reason);

// Error{resource_exhausted} "cannot <action>: <reason>", and who may have more of what has run out.
// `least`: the limit that would do, where it is known.
Error descriptor_error(int reason, std::string_view action, uint64_t least = 0);

// That error, with the limit that would do, unless `count` more can be opened now; they are, for a moment.
std::optional<Error> lack_of_descriptors(uint64_t count, std::string_view action);

// Descriptors that are held so that something can be opened when there is no other.  Belongs to one thread.
class SpareDescriptors {
 public:
  explicit SpareDescriptors(uint64_t count);  // as many of them as there are
  uint64_t count() const { return held_.size(); }
  int reason() const { return reason_; }  // errno: why there are not more; 0 where there are
  void give_back() { held_.clear(); }

 private:
  std::vector<Socket> held_;
  int reason_ = 0;
};

}  // namespace furrow::comm
