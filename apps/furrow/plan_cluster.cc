#include "apps/furrow/plan_cluster.h"

#include <fmt/format.h>

#include "furrow/base/error.h"
#include "furrow/config/cluster.h"
#include "furrow/train/predict.h"

namespace furrow::app {
namespace {

PlannedCluster local_cluster(int ranks, const config::Comm& comm, const std::string& device) {
  const train::Machine machine = train::local_machine(ranks, comm, device);
  // Of cores a damaged profile is no matter until costs are asked for.
  const auto costs = train::machine_costs(machine, device == "cpu" ? "" : train::profile_file());
  PlannedCluster local{costs->cluster(), true, comm, device};
  local.cluster.network = {};  // one host
  return local;
}

}  // namespace

PlannedCluster cluster_named(const std::string& name, int ranks, const config::Config& config) {
  if (name == "local") return local_cluster(ranks, config.comm, config.training.device);
  return {plan::cluster_from(config::load_cluster(name)), false, config.comm};
}

PlannedCluster part_of(PlannedCluster part, int devices) {
  plan::Cluster& cluster = part.cluster;
  if (devices <= cluster.devices) {
    if (part.local) return local_cluster(devices, part.comm, part.device);
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
  const train::Machine machine = train::local_machine(planned.cluster.world(), planned.comm, planned.device);
  return train::machine_costs(machine, train::profile_file());
}

}  // namespace furrow::app
