#include "apps/furrow/plan_cluster.h"

#include <fmt/format.h>

#include "furrow/base/error.h"
#include "furrow/config/cluster.h"
#include "furrow/train/predict.h"

namespace furrow::app {
namespace {

std::unique_ptr<plan::Costs> local_costs(int ranks, const std::string& device) {
  return train::machine_costs(train::local_machine(ranks, device), train::profile_file());
}

}  // namespace

PlannedCluster cluster_named(const std::string& name, int ranks, const std::string& device) {
  if (name != "local") return {plan::cluster_from(config::load_cluster(name))};
  // Of cores a damaged profile is no matter until costs are asked for.
  const bool cores = device == "cpu";
  const auto costs =
      cores ? train::machine_costs(train::local_machine(ranks), "") : local_costs(ranks, device);
  PlannedCluster local{costs->cluster(), true, device};
  local.cluster.network = {};  // one host
  return local;
}

PlannedCluster part_of(PlannedCluster part, int devices) {
  plan::Cluster& cluster = part.cluster;
  if (devices <= cluster.devices) {
    if (part.local) return cluster_named("local", devices, part.device);
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
  return local_costs(planned.cluster.world(), planned.device);
}

}  // namespace furrow::app
