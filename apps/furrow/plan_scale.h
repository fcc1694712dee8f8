// How far more devices pay off: the best layout for every size of a cluster.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "apps/furrow/plan_cluster.h"
#include "furrow/base/table.h"
#include "furrow/plan/search.h"

namespace furrow::app {

// "1..1024": the doublings of the first, and the second.  Error{invalid_argument}.
std::vector<int> scale_sizes(const std::string& range);

struct ScalePoint {
  plan::Cluster cluster;
  std::optional<plan::Candidate> best;  // none: `reason`
  std::string reason;
  std::string source;     // of the costs
  double efficiency = 0;  // samples a second and device, over that of the smallest size that fits
  double gain = 0;        // of a doubling that led here: share of the added devices that arrived
  int devices() const { return cluster.world(); }
};

// One search a size, each with the costs of its cluster.  `request` lacks costs and a configured layout.
std::vector<ScalePoint> scale(const plan::SearchRequest& request, const PlannedCluster& cluster,
                              const std::vector<int>& sizes);

std::string sources_of(const std::vector<ScalePoint>& points);  // "analytic"; "analytic and profiled"

// What a user asks for.
struct Goal {
  plan::Objective objective = plan::Objective::kTime;
  double deadline_s = 0;      // 0: none
  int64_t steps = 0;          // of the run; 0: unknown
  int64_t global_batch = -1;  // that those steps are of; -1: of the candidate's own
};

// The point to take: for time the last one before a doubling adds less than half of what it costs; for cost
// the cheapest sample, of those that meet the deadline.  -1: none does.
int picked(const std::vector<ScalePoint>& points, const Goal& goal);

double run_seconds(const plan::Candidate& candidate, const Goal& goal);
double run_cost(const plan::Candidate& candidate, const Goal& goal);

Table scale_table(const std::vector<ScalePoint>& points, const Goal& goal);
std::string scale_line(const std::vector<ScalePoint>& points, const Goal& goal);  // what is picked, and why

}  // namespace furrow::app
