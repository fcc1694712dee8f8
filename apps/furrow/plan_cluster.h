// What `furrow plan --cluster` plans for.
#pragma once

#include <memory>
#include <string>

#include "furrow/plan/cluster.h"
#include "furrow/plan/cost.h"

namespace furrow::app {

struct PlannedCluster {
  plan::Cluster cluster;
  bool local = false;          // this machine
  std::string device = "cpu";  // of it: [training] device
};

// A cluster file, or "local": this machine with `ranks` ranks, on its cores or devices.
// Error{failed_precondition}: devices that were not measured (train/predict.h).
PlannedCluster cluster_named(const std::string& name, int ranks, const std::string& device);

// The first `devices` of a cluster: whole hosts, or a part of one.
PlannedCluster part_of(PlannedCluster part, int devices);

// Of this machine as `furrow profile` measured it, with so many ranks; of others, and where nothing was
// measured of its cores, analytic.
std::unique_ptr<plan::Costs> costs_of(const PlannedCluster& planned);

}  // namespace furrow::app
