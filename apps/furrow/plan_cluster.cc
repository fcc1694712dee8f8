#include "apps/furrow/plan_cluster.h"

#include <fmt/format.h>

#include "furrow/base/error.h"
#include "furrow/config/cluster.h"
#include "furrow/train/predict.h"

namespace furrow::app {
PlannedCluster cluster_named(const std::string& name, int ranks, const config::Comm& comm) {
  if (name != "local") return {plan::cluster_from(config::load_cluster(name)), false, comm};
  PlannedCluster local{train::machine_costs(train::local_machine(ranks, comm), "")->cluster(), true, comm};
  local.cluster.network = {};  // one host
  return local;
}

PlannedCluster part_of(PlannedCluster part, int devices) {
  plan::Cluster& cluster = part.cluster;
  if (devices <= cluster.devices) {
    if (part.local) return cluster_named("local", devices, part.comm);
    cluster.hosts = 1;
    cluster.devices = devices;
    return part;
  }
  if (devices % cluster.devices != 0) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} devices are {} hosts of {} and {} left over", devices,
                            devices / cluster.devices, cluster.devices, devices % cluster.devices));
  }
  if (cluster.network.bytes_per_second <= 0) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} names no network between hosts: give its file a [network] (infiniband-ndr, "
                            "ethernet-100, ...) to plan for more than {} devices",
                            cluster.name, cluster.devices));
  }
  cluster.hosts = devices / cluster.devices;
  return part;
}

std::unique_ptr<plan::Costs> costs_of(const PlannedCluster& planned) {
  if (!planned.local) return plan::analytic_costs(planned.cluster);
  return train::machine_costs(train::local_machine(planned.cluster.world(), planned.comm),
                              train::profile_file());
}

}  // namespace furrow::app
