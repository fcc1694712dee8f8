#include "furrow/plan/stages.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/base/text.h"

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

// "pipeline stage 1 of module_fqns_per_model_part: ..."
[[noreturn]] void stage_error(size_t stage, const std::string& message) {
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("pipeline stage {} of module_fqns_per_model_part: {}", stage, message));
}

class StagesByName {
 public:
  StagesByName(const ModelSpec& spec, const std::vector<std::string>& stages)
      : spec_(spec), stages_(stages), stage_of_(spec.units.size(), -1) {}

  std::vector<int64_t> units() {
    for (size_t s = 0; s < stages_.size(); ++s) place(s);
    std::vector<int64_t> counts(stages_.size(), 0);
    for (size_t u = 0; u < stage_of_.size(); ++u) {
      if (stage_of_[u] < 0) {
        throw Error(
            ErrorCode::kInvalidArgument,
            fmt::format("module_fqns_per_model_part: {} is in no stage: name it", spec_.units[u].name));
      }
      if (u > 0 && stage_of_[u] < stage_of_[u - 1]) {
        stage_error(
            static_cast<size_t>(stage_of_[u]),
            fmt::format(
                "{} comes after {} in {}, which is in stage {}: stages are units that follow one another",
                spec_.units[u].name, spec_.units[u - 1].name, spec_.architecture, stage_of_[u - 1]));
      }
      ++counts[static_cast<size_t>(stage_of_[u])];
    }
    return counts;
  }

 private:
  void place(size_t stage) {
    std::vector<std::string> seen;
    for (const std::string& word : split(stages_[stage], ' ')) {
      const std::string name(trim(word));
      if (name.empty()) continue;
      if (std::ranges::find(seen, name) != seen.end())
        stage_error(stage, fmt::format("{} stands there twice", name));
      const size_t unit = unit_of(stage, name);
      if (stage_of_[unit] >= 0 && stage_of_[unit] != static_cast<int64_t>(stage)) {
        stage_error(stage, fmt::format("{} is of unit {}, which is in stage {} already", name,
                                       spec_.units[unit].name, stage_of_[unit]));
      }
      stage_of_[unit] = static_cast<int64_t>(stage);
      seen.push_back(name);
    }
    if (seen.empty()) stage_error(stage, "it has no units");
  }

  bool is_in(const std::string& name, const Unit& unit) const {
    return name == unit.name || std::ranges::any_of(unit.parameters, [&](const Parameter& parameter) {
             return parameter.name == name || parameter.name.starts_with(name + ".");
           });
  }

  size_t unit_of(size_t stage, const std::string& name) const {
    std::vector<size_t> found;
    std::vector<std::string> known;
    for (size_t u = 0; u < spec_.units.size(); ++u) {
      if (is_in(name, spec_.units[u])) found.push_back(u);
      known.push_back(spec_.units[u].name);
    }
    if (found.empty()) stage_error(stage, unknown_name_message("unit", name, known));
    if (found.size() > 1) {
      stage_error(stage, fmt::format("{} is in {} units, {} and {} among them: name each", name, found.size(),
                                     spec_.units[found[0]].name, spec_.units[found[1]].name));
    }
    return found[0];
  }

  const ModelSpec& spec_;
  const std::vector<std::string>& stages_;
  std::vector<int64_t> stage_of_;  // by unit; -1: none yet
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

std::vector<int64_t> units_by_layers(const ModelSpec& spec, const LayerSplit& split) {
  const int64_t layers = std::max<int64_t>(0, static_cast<int64_t>(spec.units.size()) - 2);
  const int64_t total = layers + split.first_less + split.last_less;
  const int64_t stages = std::max<int64_t>(1, (total + split.per_stage - 1) / split.per_stage);
  std::vector<int64_t> units;
  for (int64_t s = 0; s < stages; ++s) {
    int64_t count = total / stages + (s < total % stages ? 1 : 0);
    if (s == 0) count += 1 - split.first_less;
    if (s + 1 == stages) count += 1 - split.last_less;
    units.push_back(count);
  }
  if (std::ranges::all_of(units, [](int64_t count) { return count >= 1; })) return units;
  throw Error(
      ErrorCode::kInvalidArgument,
      fmt::format(
          "{} layers of {}, and {} + {} for its ends, make {} stages of at most {}, one of them without a "
          "unit: raise pipeline_parallel_layers_per_stage, or let its ends weigh "
          "less",
          layers, spec.architecture, split.first_less, split.last_less, stages, split.per_stage));
}

std::vector<int64_t> units_by_modules(const ModelSpec& spec, const std::vector<std::string>& stages) {
  return StagesByName(spec, stages).units();
}

}  // namespace furrow::plan
