// The cluster of the planner's tests.
#pragma once

#include "furrow/plan/cluster.h"

namespace furrow::models::testing {

// Hosts of eight H100, each with its own InfiniBand port of 400 Gbit, on one switch.
inline plan::Cluster h100_hosts(int hosts) {
  plan::Cluster cluster;
  cluster.hosts = hosts;
  cluster.devices = 8;
  cluster.device = plan::find_device("h100-sxm");
  cluster.inside = plan::find_link("nvlink4");
  cluster.network = plan::find_link("infiniband-ndr");
  cluster.network.ports = 8;
  return cluster;
}

}  // namespace furrow::models::testing
