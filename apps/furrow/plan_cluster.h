// What `furrow plan --cluster` plans for.
#pragma once

#include <string>

#include "furrow/plan/cluster.h"

namespace furrow::app {

// A cluster file, or "local": this machine with `ranks` ranks.
plan::Cluster cluster_named(const std::string& name, int ranks);

// The first `devices` of a cluster: whole hosts, or a part of one.
plan::Cluster part_of(plan::Cluster cluster, int devices);

}  // namespace furrow::app
