// What `furrow plan --cluster` plans for.
#pragma once

#include <memory>
#include <string>

#include "furrow/config/comm.h"
#include "furrow/plan/cluster.h"
#include "furrow/plan/cost.h"

namespace furrow::app {

struct PlannedCluster {
  plan::Cluster cluster;
  bool local = false;      // this machine
  config::Comm comm = {};  // how its ranks talk
};

// A cluster file, or "local": this machine with `ranks` ranks that talk as [comm] says.
PlannedCluster cluster_named(const std::string& name, int ranks, const config::Comm& comm);

// The first `devices` of a cluster: whole hosts, or a part of one.
PlannedCluster part_of(PlannedCluster part, int devices);

// Of this machine as `furrow profile` measured it, with so many ranks; of others, and where nothing was
// measured, analytic.
std::unique_ptr<plan::Costs> costs_of(const PlannedCluster& planned);

}  // namespace furrow::app
