#include "apps/furrow/plan_scale.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "furrow/base/error.h"
#include "furrow/base/text.h"

namespace furrow::app {
namespace {

constexpr int kMostDevices = 1 << 16;
constexpr double kWorthIt = 0.5;  // of added devices

[[noreturn]] void bad_range(const std::string& range) {
  throw Error(
      ErrorCode::kInvalidArgument,
      fmt::format("--scale {}: it must be FIRST..LAST, from 1 to {}, as in 1..1024", range, kMostDevices));
}

ScalePoint point_of(const plan::SearchRequest& request, const PlannedCluster& cluster, int devices) {
  ScalePoint point;
  const auto costs = costs_of(part_of(cluster, devices));
  point.cluster = costs->cluster();
  point.source = costs->source();
  plan::SearchRequest sized = request;
  sized.costs = costs.get();
  plan::SearchResult result = plan::search(sized);
  if (result.candidates.empty()) {
    try {
      plan::require_fit(result);
    } catch (const Error& error) {
      point.reason = error.message();
    }
    return point;
  }
  point.best = std::move(result.candidates[0]);
  return point;
}

// Whole hosts only, once a host is full.
bool possible(const plan::Cluster& cluster, int devices) {
  return devices <= cluster.devices || devices % cluster.devices == 0;
}

double samples_of_step(const plan::Candidate& candidate) {
  return candidate.figures.samples_per_second * candidate.figures.step_s;
}

double per_sample_cost(const plan::Candidate& candidate) {
  return candidate.figures.paid() / samples_of_step(candidate);
}

// Steps in which the candidate has seen as many samples.
double steps_of(const plan::Candidate& candidate, const Goal& goal) {
  const double times =
      goal.global_batch > 0 ? static_cast<double>(goal.global_batch) / samples_of_step(candidate) : 1;
  return static_cast<double>(goal.steps) * times;
}

bool in_time(const plan::Candidate& candidate, const Goal& goal) {
  return goal.deadline_s <= 0 || run_seconds(candidate, goal) <= goal.deadline_s;
}

}  // namespace

std::vector<int> scale_sizes(const std::string& range) {
  const size_t dots = range.find("..");
  int64_t first = 0, last = 0;
  if (dots == std::string::npos || !parse_int(range.substr(0, dots), first) ||
      !parse_int(range.substr(dots + 2), last) || first < 1 || last < first || last > kMostDevices) {
    bad_range(range);
  }
  std::vector<int> sizes;
  for (int64_t size = first; size < last; size *= 2) sizes.push_back(static_cast<int>(size));
  sizes.push_back(static_cast<int>(last));
  return sizes;
}

std::string sources_of(const std::vector<ScalePoint>& points) {
  std::set<std::string> sources;
  for (const ScalePoint& point : points) sources.insert(point.source);
  return join(std::vector<std::string>(sources.begin(), sources.end()), " and ");
}

std::vector<ScalePoint> scale(const plan::SearchRequest& request, const PlannedCluster& cluster,
                              const std::vector<int>& sizes) {
  std::vector<ScalePoint> points;
  const ScalePoint* first = nullptr;
  double before_rate = 0;
  int before_devices = 0;
  points.reserve(sizes.size());
  for (const int size : sizes) {
    if (!possible(cluster.cluster, size)) continue;
    ScalePoint& point = points.emplace_back(point_of(request, cluster, size));
    if (!point.best) continue;
    if (first == nullptr) first = &point;
    const double rate = point.best->figures.samples_per_second;
    point.efficiency = rate / size * first->devices() / first->best->figures.samples_per_second;
    if (before_devices > 0) point.gain = (rate / before_rate - 1) / (1.0 * size / before_devices - 1);
    before_rate = rate;
    before_devices = size;
  }
  return points;
}

double run_seconds(const plan::Candidate& candidate, const Goal& goal) {
  return candidate.figures.step_s * steps_of(candidate, goal);
}

double run_cost(const plan::Candidate& candidate, const Goal& goal) {
  return candidate.figures.paid() * steps_of(candidate, goal);
}

int picked(const std::vector<ScalePoint>& points, const Goal& goal) {
  int pick = -1;
  for (size_t i = 0; i < points.size(); ++i) {
    const ScalePoint& point = points[i];
    if (!point.best || !in_time(*point.best, goal)) continue;
    if (pick < 0) {
      pick = static_cast<int>(i);
    } else if (goal.objective == plan::Objective::kCost) {
      if (per_sample_cost(*point.best) < per_sample_cost(*points[pick].best)) pick = static_cast<int>(i);
    } else if (goal.deadline_s <= 0) {
      if (point.gain < kWorthIt) break;
      pick = static_cast<int>(i);
    }
  }
  return pick;
}

Table scale_table(const std::vector<ScalePoint>& points, const Goal& goal) {
  const bool priced = std::ranges::any_of(
      points, [](const ScalePoint& point) { return point.best && point.best->figures.paid() > 0; });
  std::vector<Column> columns = {
      {"devices"},           {"hosts"},      {"layout"}, {"s/step", "", 4}, {"samples/s", "", 1},
      {"efficiency", "", 3}, {"gain", "", 3}};
  if (goal.steps > 0) columns.push_back({"run s", "run_seconds", 0});
  if (priced) columns.push_back({"cost/step", "cost_per_step", 5});
  if (priced && goal.steps > 0) columns.push_back({"run cost", "run_cost", 2});
  Table table(std::move(columns));
  for (const ScalePoint& point : points) {
    std::vector<Cell> row = {static_cast<int64_t>(point.devices()),
                             static_cast<int64_t>(point.cluster.hosts)};
    if (point.best) {
      const plan::Figures& figures = point.best->figures;
      const std::string& recipe = point.best->recipe_change;
      row.insert(row.end(), {plan::to_text(point.best->choice) + (recipe.empty() ? "" : ", " + recipe),
                             figures.step_s, figures.samples_per_second, point.efficiency, point.gain});
      if (goal.steps > 0) row.emplace_back(run_seconds(*point.best, goal));
      if (priced) row.emplace_back(figures.paid());
      if (priced && goal.steps > 0) row.emplace_back(run_cost(*point.best, goal));
    } else {
      row.insert(row.end(), {point.reason, Cell(), Cell(), Cell(), Cell()});
      row.resize(7 + (goal.steps > 0 ? 1 : 0) + (priced ? 1 : 0) + (priced && goal.steps > 0 ? 1 : 0));
    }
    table.add_row(std::move(row));
  }
  return table;
}

std::string scale_line(const std::vector<ScalePoint>& points, const Goal& goal) {
  const int pick = picked(points, goal);
  if (pick < 0) {
    return goal.deadline_s > 0 ? fmt::format("none meets the deadline of {}", format_seconds(goal.deadline_s))
                               : "nothing fits on any of these sizes";
  }
  const ScalePoint& point = points[pick];
  std::string text = fmt::format("take {} devices: {}", point.devices(), plan::to_text(point.best->choice));
  if (!point.best->recipe_change.empty()) text += fmt::format(" ({})", point.best->recipe_change);
  if (goal.objective == plan::Objective::kCost) {
    text += goal.deadline_s > 0 ? ", the cheapest that meets the deadline" : ", the cheapest a sample";
  } else if (goal.deadline_s > 0) {
    text += ", the fewest that meet the deadline";
  } else if (pick + 1 < static_cast<int>(points.size()) && points[pick + 1].best) {
    text += fmt::format("; of the devices from there to {} {}% arrive", points[pick + 1].devices(),
                        format_fixed(100 * points[pick + 1].gain, 0));
  }
  if (goal.steps > 0)
    text += fmt::format("; {} steps in {}", goal.steps, format_seconds(run_seconds(*point.best, goal)));
  return text;
}

}  // namespace furrow::app
