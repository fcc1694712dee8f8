#include "furrow/plan/stages.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "furrow/base/error.h"

namespace furrow::plan {
namespace {

constexpr double kInfinite = std::numeric_limits<double>::infinity();

void require_units(const ModelSpec& spec, int32_t stages) {
  const auto units = static_cast<int32_t>(spec.units.size());
  if (stages >= 1 && units >= stages) return;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("{} stages for the {} units of {}: each stage needs at least one; use at most {} "
                          "stages (pipeline_parallel_degree x stages a rank)",
                          stages, units, spec.architecture, units));
}

// Cuts of the first u units into s stages, by dynamic programming over (s, u).
class Cutter {
 public:
  Cutter(const ModelSpec& spec, int32_t stages)
      : units_(static_cast<int32_t>(spec.units.size())), stages_(stages), sums_(spec.units.size() + 1, 0) {
    for (size_t u = 0; u < spec.units.size(); ++u) sums_[u + 1] = sums_[u] + unit_cost(spec.units[u]);
  }

  std::vector<Range> cut() {
    const double largest =
        solve([](double before, double stage) { return std::max(before, stage); }, kInfinite);
    solve([](double before, double stage) { return before + stage * stage; }, largest);
    std::vector<Range> ranges(static_cast<size_t>(stages_));
    for (int32_t s = stages_, end = units_; s > 0; --s) {
      const int32_t begin = begins_[at(s, end)];
      ranges[static_cast<size_t>(s) - 1] = {begin, end};
      end = begin;
    }
    return ranges;
  }

 private:
  size_t at(int32_t s, int32_t u) const { return static_cast<size_t>(s) * (units_ + 1) + u; }

  // The least `total` over stages that each cost at most `limit`; begins_ says how.
  template <class Total>
  double solve(const Total& total, double limit) {
    std::vector<double> best(static_cast<size_t>(stages_ + 1) * (units_ + 1), kInfinite);
    begins_.assign(best.size(), 0);
    best[at(0, 0)] = 0;
    for (int32_t s = 1; s <= stages_; ++s) {
      for (int32_t end = s; end <= units_ - (stages_ - s); ++end) {
        for (int32_t begin = s - 1; begin < end; ++begin) {
          const double stage = sums_[end] - sums_[begin];
          const double before = best[at(s - 1, begin)];
          if (stage > limit || before == kInfinite) continue;
          const double sum = total(before, stage);
          if (sum >= best[at(s, end)]) continue;
          best[at(s, end)] = sum;
          begins_[at(s, end)] = begin;
        }
      }
    }
    return best[at(stages_, units_)];
  }

  const int32_t units_, stages_;
  std::vector<double> sums_;     // costs of the first u units
  std::vector<int32_t> begins_;  // of stage s - 1 when the first s stages have u units
};

}  // namespace

double unit_cost(const Unit& unit) {
  return unit.flops.forward + unit.flops.backward_input + unit.flops.backward_weight;
}

std::vector<Range> stages_by_cost(const ModelSpec& spec, int32_t stages) {
  require_units(spec, stages);
  return Cutter(spec, stages).cut();
}

std::vector<Range> stages_by_hand(const ModelSpec& spec, int32_t stages, const std::vector<int64_t>& units) {
  require_units(spec, stages);
  const auto count = static_cast<int64_t>(spec.units.size());
  std::string sum;
  int64_t total = 0;
  bool good = units.size() == static_cast<size_t>(stages);
  for (const int64_t each : units) {
    sum += fmt::format("{}{}", sum.empty() ? "" : " + ", each);
    good = good && each >= 1 && each <= count;
    total += std::clamp<int64_t>(each, 0, count + 1);
  }
  if (!good || total != count) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("stages of {} units: {} stages, each of one unit or more, must add up to the {} "
                            "units of {}",
                            sum.empty() ? "no" : sum, stages, count, spec.architecture));
  }
  std::vector<Range> ranges;
  int32_t begin = 0;
  for (const int64_t each : units) {
    ranges.push_back({begin, begin + static_cast<int32_t>(each)});
    begin = ranges.back().end;
  }
  return ranges;
}

}  // namespace furrow::plan
