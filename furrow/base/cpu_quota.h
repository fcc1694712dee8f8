// What control groups leave this process of the machine's cores: a container's `--cpus`, a pod's limit, a
// unit's CPUQuota.  Whoever computes on more threads than that is stopped for most of the time.
#pragma once

#include <string>

namespace furrow {

// In cores (2.5), the least of this process's group and those above it, of version 1 or 2; 0: no limit, or
// none that can be read.  `root` stands before /proc and /sys.
double cpu_quota(const std::string& root = "");

}  // namespace furrow
