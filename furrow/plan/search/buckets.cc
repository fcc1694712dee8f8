// Pass `buckets`: which units share collectives, of a ladder of sizes.  The closed form says which of them
// are worth a simulation, beside none and what the plan has, and the simulation decides.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "furrow/base/error.h"
#include "furrow/plan/search/state.h"

namespace furrow::plan::search_internal {
namespace {

// From a few small layers to what PyTorch's DistributedDataParallel has by default.
constexpr int64_t kLadder[] = {0, 256 << 10, 1 << 20, 4 << 20, 25 << 20};
constexpr size_t kTried = 2;      // besides none and those of the link
constexpr double kWorth = 0.02;   // of a step: less is no difference between simulations
constexpr double kLatencies = 8;  // of a link, while which it moves what buckets_by_rule() says

// The sizes whose buckets differ, smallest first.
std::vector<int64_t> sizes_of(State* state, Choice choice) {
  std::vector<int64_t> sizes;
  std::set<std::vector<int32_t>> seen;
  for (const int64_t bytes : kLadder) {
    choice.bucket_bytes = bytes;
    if (seen.insert(state->buckets(choice)).second) sizes.push_back(bytes);
  }
  return sizes;
}

Plan with_buckets(const Plan& plan, int64_t bytes) {
  Plan changed = plan;
  changed.candidate.choice.bucket_bytes = bytes;
  changed.candidate.simulated = false;
  return changed;
}

// None, those that the closed form takes for the quickest, and the largest up to those of the link.
std::vector<Plan> worth_simulating(State* state, const Plan& plan, int64_t linked) {
  std::vector<Plan> plans, worth;
  const std::vector<int64_t> sizes = sizes_of(state, plan.candidate.choice);
  const int64_t of_link = *(std::ranges::upper_bound(sizes, linked) - 1);
  for (const int64_t bytes : sizes) {
    plans.push_back(with_buckets(plan, bytes));
    estimate(state, &plans.back());
  }
  std::ranges::stable_sort(plans.begin() + 1, plans.end(), {}, &Plan::score);
  for (size_t i = 0; i < plans.size(); ++i) {
    if (i <= kTried || plans[i].candidate.choice.bucket_bytes == of_link)
      worth.push_back(std::move(plans[i]));
  }
  return worth;
}

}  // namespace

Plan in_best_buckets(State* state, const Plan& plan) {
  const Choice& choice = plan.candidate.choice;
  const int64_t linked = buckets_by_rule(state->cluster, choice.layout, choice.zero_stage).bytes;
  std::vector<Plan> plans = worth_simulating(state, plan, linked);
  const int64_t own = bucket_bytes_of(state->request, plan.candidate.choice);
  std::erase_if(plans, [own](const Plan& each) { return each.candidate.choice.bucket_bytes == own; });
  for (Plan& each : plans) simulate_plan(state, &each);
  std::erase_if(
      plans, [state](const Plan& each) { return each.candidate.figures.memory_bytes > state->memory_bytes; });
  plans.push_back(plan);
  plans.back().candidate.choice.bucket_bytes = own;
  const double best = std::ranges::min_element(plans, {}, &Plan::score)->score;
  std::erase_if(plans, [best](const Plan& each) { return each.score > best * (1 + kWorth); });
  // Ranks are never as even as in a simulation, and each collective is one more time to wait for each other.
  const auto size = [](const Plan& each) { return *each.candidate.choice.bucket_bytes; };
  std::ranges::sort(plans, {}, size);
  const auto larger = std::ranges::find_if(plans, [&](const Plan& each) { return size(each) > linked; });
  return larger == plans.begin() ? *larger : *(larger - 1);
}

// A configured plan stays as it is, and what it could be stands beside it.
void choose_bucket_sizes(State* state) {
  std::vector<Plan> more;
  size_t simulated = 0, joined = 0;
  for (Plan& plan : state->plans) {
    if (!plan.candidate.simulated) continue;
    ++simulated;
    if (plan.candidate.choice.layout.data_ranks() == 1) continue;
    Plan best = in_best_buckets(state, plan);
    const int64_t bytes = *best.candidate.choice.bucket_bytes;
    if (bytes > 0) ++joined;
    best.candidate.configured = false;
    if (!plan.candidate.configured) {
      plan = std::move(best);
    } else if (bytes != bucket_bytes_of(state->request, plan.candidate.choice)) {
      more.push_back(std::move(best));
    }
  }
  const auto first = state->plans.begin() + static_cast<ptrdiff_t>(simulated);
  state->plans.insert(first, std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
  std::stable_sort(state->plans.begin(),
                   state->plans.begin() + static_cast<ptrdiff_t>(simulated + more.size()),
                   [](const Plan& a, const Plan& b) { return a.score < b.score; });
  state->notes.push_back(fmt::format("{} of {} have units that share collectives", joined, simulated));
}

}  // namespace furrow::plan::search_internal

namespace furrow::plan {

using namespace search_internal;

BucketChoice choose_buckets(const SearchRequest& request, const Choice& choice) {
  State state(request);
  if (const std::string reason = refusal_of(state, choice); !reason.empty())
    throw Error(ErrorCode::kInvalidArgument, reason);
  if (choice.layout.data_ranks() == 1) return {};
  Plan plan;
  plan.candidate.choice = choice;
  plan.candidate.choice.bucket_bytes = 0;
  if (sizes_of(&state, plan.candidate.choice).size() == 1) return {};
  plan.pipeline = pipeline_of(&state, choice);
  simulate_plan(&state, &plan);
  const Plan best = in_best_buckets(&state, plan);
  return {*best.candidate.choice.bucket_bytes, best.candidate.figures.step_s, plan.candidate.figures.step_s};
}

BucketRule buckets_by_rule(const Cluster& cluster, const Layout& layout, int zero_stage) {
  if (layout.data_ranks() == 1) return {};
  Placement placement;
  placement.layout = layout;
  const std::vector<int> ranks = group_ranks(placement, GroupAxis::kData);
  const bool outside = std::ranges::any_of(
      ranks, [&](int rank) { return cluster.host_of(rank) != cluster.host_of(ranks[0]); });
  const bool once = layout.degree(Axis::kShard) == 1 || zero_stage == 1;
  if (once && !outside && cluster.inline_inside) return {*(std::end(kLadder) - 1), true};
  const LinkSpec& link = outside ? cluster.network : cluster.inside;
  const double moved = kLatencies * link.latency_s * link.port_bytes_per_second();
  const auto* const found =
      std::ranges::find_if(kLadder, [&](int64_t bytes) { return static_cast<double>(bytes) >= moved; });
  return {found == std::end(kLadder) ? *(std::end(kLadder) - 1) : *found, false};
}

}  // namespace furrow::plan
