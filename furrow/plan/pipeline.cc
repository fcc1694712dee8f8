#include "furrow/plan/pipeline.h"

#include <fmt/format.h>

#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/plan/schedule_csv.h"
#include "furrow/plan/schedule_order.h"
#include "furrow/plan/stages.h"

namespace furrow::plan {
namespace {

// Where the backward of a stage makes the gradient of the stage's input.
int32_t backward_position(const ActionIndex& index, int32_t stage, int32_t turn) {
  const int32_t whole = index.position({Phase::kBackward, stage, turn});
  return whole >= 0 ? whole : index.position({Phase::kBackwardInput, stage, turn});
}

// Of the border behind stage `stage`, forward and backward.
void add_border(const Schedule& schedule, const ActionIndex& index, const Stage& before, int32_t stage,
                std::pair<int, int> lane, int32_t first_trained, std::vector<Transfer>* transfers) {
  const int first = schedule.rank_of_stage[stage], second = schedule.rank_of_stage[stage + 1];
  const int32_t unit = before.end - 1;
  for (int32_t turn = 0; turn < schedule.turns; ++turn) {
    if (lane == std::pair(first, second)) {
      transfers->push_back({false, unit, turn, first, second, index.position({Phase::kForward, stage, turn}),
                            index.position({Phase::kForward, stage + 1, turn})});
    }
    const int32_t made = backward_position(index, stage + 1, turn);
    if (lane == std::pair(second, first) && made >= 0 && unit >= first_trained) {
      transfers->push_back({true, unit, turn, second, first, made, backward_position(index, stage, turn)});
    }
  }
}

Schedule schedule_of_csv(const std::string& text, int32_t ranks, int32_t turns) {
  Schedule schedule = parse_schedule_csv(text, "csv");
  if (schedule.ranks != ranks) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("[parallelism] pipeline_parallel_schedule_csv has {} lines, one a rank: "
                            "pipeline_parallel_degree is {}",
                            schedule.ranks, ranks));
  }
  if (turns > 0 && schedule.turns != turns) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("[parallelism] pipeline_parallel_schedule_csv is of {} microbatches, each rank has "
                    "{}: change [training] global_batch_size or local_batch_size",
                    schedule.turns, turns));
  }
  return schedule;
}

}  // namespace

Schedule schedule_of(const Layout& layout, const PipelineOptions& options, int32_t turns) {
  const int32_t ranks = layout.degree(Axis::kPipeline);
  if (ranks == 1) return make_schedule("1F1B", {1, 1, turns});
  if (!options.csv.empty()) return schedule_of_csv(options.csv, ranks, turns);
  const ScheduleRow& row = find_schedule(options.schedule);
  const int32_t stages = options.stages_per_rank > 0 ? options.stages_per_rank : row.default_stages_per_rank;
  return make_schedule(row, {ranks, stages, turns});
}

Schedule forward_schedule(const Placement& placement, int32_t turns) {
  Schedule schedule;
  schedule.name = "forward";
  schedule.ranks = placement.pipeline_ranks();
  for (const Stage& stage : placement.stages) schedule.rank_of_stage.push_back(stage.rank);
  if (placement.stages.empty()) schedule.rank_of_stage = {0};
  schedule.stages = static_cast<int32_t>(schedule.rank_of_stage.size());
  schedule.turns = turns;
  schedule.actions.resize(static_cast<size_t>(schedule.ranks));
  for (int32_t turn = 0; turn < turns; ++turn) {
    for (int32_t stage = 0; stage < schedule.stages; ++stage) {
      schedule.actions[schedule.rank_of_stage[stage]].push_back({Phase::kForward, stage, turn});
    }
  }
  return schedule;
}

std::vector<Stage> stages_of(const ModelSpec& spec, const Layout& layout, const PipelineOptions& options) {
  if (layout.degree(Axis::kPipeline) == 1) return {};
  const Schedule schedule = options.csv.empty()
                                ? schedule_of(layout, options, 1)
                                : schedule_of_csv(options.csv, layout.degree(Axis::kPipeline), 0);
  const std::vector<Range> ranges = options.units_per_stage.empty()
                                        ? stages_by_cost(spec, schedule.stages)
                                        : stages_by_hand(spec, schedule.stages, options.units_per_stage);
  std::vector<Stage> stages;
  for (size_t s = 0; s < ranges.size(); ++s) {
    stages.push_back({ranges[s].begin, ranges[s].end, schedule.rank_of_stage[s]});
  }
  return stages;
}

std::vector<Transfer> transfers_between(const Schedule& schedule, const Placement& placement,
                                        int32_t first_trained, int from, int to) {
  const ActionIndex index(schedule);
  std::vector<Transfer> transfers;
  if (from == to) return transfers;
  for (int32_t stage = 0; stage + 1 < schedule.stages; ++stage) {
    add_border(schedule, index, placement.stages[stage], stage, {from, to}, first_trained, &transfers);
  }
  std::sort(transfers.begin(), transfers.end(),
            [](const Transfer& a, const Transfer& b) { return a.made < b.made; });
  return transfers;
}

std::vector<int32_t> receive_positions(const std::vector<Transfer>& transfers, int32_t ahead) {
  std::vector<int32_t> positions(transfers.size());
  int32_t latest = INT32_MAX;
  for (size_t i = transfers.size(); i-- > 0;) {
    latest = std::min(latest, std::max(0, transfers[i].needed - ahead));
    positions[i] = latest;
  }
  return positions;
}

}  // namespace furrow::plan
