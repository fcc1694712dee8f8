// What `furrow plan --cluster` plans for.
#pragma once

#include <memory>
#include <string>

#include "furrow/config/config.h"
#include "furrow/plan/cluster.h"
#include "furrow/plan/cost.h"

namespace furrow::app {

struct PlannedCluster {
  plan::Cluster cluster;
  bool local = false;          // this machine
  config::Comm comm = {};      // how its ranks talk
  std::string device = "cpu";  // that they compute on: [training] device
};

// A cluster file, or "local": this machine with `ranks` ranks, on its cores or devices, that talk as [comm]
// says.  Error{failed_precondition}: devices that were not measured (train/predict.h).
PlannedCluster cluster_named(const std::string& name, int ranks, const config::Config& config);

// The first `devices` of a cluster: whole hosts, or a part of one.
PlannedCluster part_of(PlannedCluster part, int devices);

// Of this machine as `furrow profile` measured it, with so many ranks; of others, and where nothing was
// measured of its cores, analytic.
std::unique_ptr<plan::Costs> costs_of(const PlannedCluster& planned);

}  // namespace furrow::app
