// What would have to change for something to fit: more devices of the same kind, or smaller microbatches.
#include <fmt/format.h>

#include <algorithm>

#include "furrow/plan/search/state.h"

namespace furrow::plan::search_internal {
namespace {

constexpr int kMostTimes = 256;

// The same devices, more of them: memory does not ask what they cost.
class Enlarged : public Costs {
 public:
  Enlarged(const Costs& costs, int times) : costs_(costs), cluster_(costs.cluster()) {
    cluster_.hosts *= times;
  }
  const Cluster& cluster() const override { return cluster_; }
  std::string source() const override { return costs_.source(); }
  double unit_seconds(const UnitWork& work) const override { return costs_.unit_seconds(work); }
  double flat_seconds(Op op, int64_t bytes) const override { return costs_.flat_seconds(op, bytes); }
  double batch_seconds(int64_t bytes) const override { return costs_.batch_seconds(bytes); }
  double loss_seconds(int64_t bytes) const override { return costs_.loss_seconds(bytes); }
  double overhead_seconds() const override { return costs_.overhead_seconds(); }
  int64_t workspace_bytes(bool multiplies, int threads) const override {
    return costs_.workspace_bytes(multiplies, threads);
  }
  std::vector<Leg> legs(const MovementCall& /*call*/) const override { return {}; }

 private:
  const Costs& costs_;
  Cluster cluster_;
};

bool anything_fits(const SearchRequest& request) {
  State state(request);
  choose_degrees(&state);
  choose_zero_stages(&state);
  choose_schedules(&state);
  choose_recompute(&state);
  return !state.plans.empty();
}

std::string more_devices(SearchRequest request) {
  const int world = request.costs->cluster().world();
  for (int times = 2; times <= kMostTimes; times *= 2) {
    const Enlarged costs(*request.costs, times);
    SearchRequest larger = request;
    larger.costs = &costs;
    if (anything_fits(larger)) return fmt::format("{} devices instead of {}", world * times, world);
  }
  return "";
}

std::string smaller_microbatches(SearchRequest request) {
  const int64_t local = request.batch.local_batch;
  for (int64_t smaller = local / 2; smaller >= 1; smaller /= 2) {
    if (request.batch.global_batch > 0 && request.batch.global_batch % smaller != 0) continue;
    request.batch.local_batch = smaller;
    if (anything_fits(request)) {
      return fmt::format("local_batch_size {} instead of {} (--allow-recipe-change)", smaller, local);
    }
  }
  return "";
}

}  // namespace

std::string smallest_change(const SearchRequest& request) {
  SearchRequest light = request;
  light.configured.reset();
  light.without.emplace_back("schedules");
  const std::string batch = smaller_microbatches(light), devices = more_devices(light);
  if (batch.empty() || devices.empty()) return batch + devices;
  return batch + ", or " + devices;
}

}  // namespace furrow::plan::search_internal
