// How the ranks of a pipeline share a step: stages, the order of actions, what crosses between ranks and
// when. Pure functions, thread safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "furrow/plan/model_spec.h"
#include "furrow/plan/placement.h"
#include "furrow/plan/schedule.h"

namespace furrow::plan {

// Layout, not recipe.  Counts only where pp is above 1.
struct PipelineOptions {
  std::string schedule = "1F1B";  // a row of plan/schedules.cc
  std::string csv = {};           // of schedule_csv.h: takes the place of that row where it is not empty
  int32_t stages_per_rank = 0;    // 0: what the schedule's row says
  std::vector<int64_t> units_per_stage = {};  // empty: by cost
  int32_t receives_ahead = 1;  // actions by which a receive is posted before the one that needs it
};

// The schedule of `turns` microbatches; of one rank and one stage where pp is 1.  Error{invalid_argument}:
// unknown, outside its domain; a CSV of another number of ranks or turns.
Schedule schedule_of(const Layout& layout, const PipelineOptions& options, int32_t turns);

// The forward actions alone, one turn after the other.
Schedule forward_schedule(const Placement& placement, int32_t turns);

// Empty where pp is 1.  Error{invalid_argument}: fewer units than stages, a split by hand that does not fit.
std::vector<Stage> stages_of(const ModelSpec& spec, const Layout& layout, const PipelineOptions& options);

// A value that crosses between two pp coordinates: act(unit, .) forward, grad(unit, .) backward.
struct Transfer {
  bool backward = false;
  int32_t unit = 0;
  int32_t turn = 0;
  int from = 0, to = 0;  // pp coordinates
  int32_t made = 0;      // by which action of `from`
  int32_t needed = 0;    // by which action of `to`
};

// Everything that crosses from one pp coordinate to another, in the order in which it is sent.
// `first_trained`: gradients below it do not exist.  REQUIRES: a valid schedule with the stages of the
// placement.
std::vector<Transfer> transfers_between(const Schedule& schedule, const Placement& placement,
                                        int32_t first_trained, int from, int to);

// When the receiver posts each of `transfers`, as the action in front of which it does: in the order of the
// lane, none later than it is needed, `ahead` actions earlier where it can.
std::vector<int32_t> receive_positions(const std::vector<Transfer>& transfers, int32_t ahead);

}  // namespace furrow::plan
