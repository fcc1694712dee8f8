#include "apps/furrow/plan_cluster.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/base/process.h"
#include "furrow/config/cluster.h"

namespace furrow::app {
namespace {

plan::LocalMachine this_machine() {
  plan::LocalMachine machine;
  machine.cores = core_count();
  machine.memory_bytes = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
#if defined(__x86_64__)
  machine.avx512 = __builtin_cpu_supports("avx512f") != 0;
#endif
  return machine;
}

}  // namespace

plan::Cluster cluster_named(const std::string& name, int ranks) {
  if (name == "local") return plan::local_cluster(this_machine(), ranks);
  return plan::cluster_from(config::load_cluster(name));
}

plan::Cluster part_of(plan::Cluster cluster, int devices) {
  if (devices <= cluster.devices) {
    cluster.hosts = 1;
    cluster.devices = devices;
    return cluster;
  }
  if (devices % cluster.devices != 0) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} devices are {} hosts of {} and {} left over", devices,
                            devices / cluster.devices, cluster.devices, devices % cluster.devices));
  }
  cluster.hosts = devices / cluster.devices;
  return cluster;
}

}  // namespace furrow::app
