// The one table of schedules.
#include <fmt/format.h>

#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/plan/schedule.h"
#include "furrow/plan/schedules/generators.h"

namespace furrow::plan {
namespace {

constexpr ScheduleRow kSchedules[] = {
    {"GPipe", 1, "1 stage a rank", &refuses_many_stages, &make_gpipe},
    {"1F1B", 1, "1 stage a rank", &refuses_many_stages, &make_1f1b},
    {"Interleaved1F1B", 2, "any", &refuses_nothing, &make_interleaved_1f1b},
    {"LoopedBFS", 2, "any", &refuses_nothing, &make_looped_bfs},
    {"ZBH1", 1, "1 stage a rank", &refuses_many_stages, &make_zb_h1},
    {"InterleavedZeroBubble", 2, "any", &refuses_nothing, &make_interleaved_zero_bubble},
    {"ZBVZeroBubble", 2, "2 stages a rank", &refuses_other_than_two, &make_zbv_zero_bubble},
    {"DualPipeV", 2, "2 stages a rank", &refuses_other_than_two, &make_dual_pipe_v},
};

void require_shape(std::string_view name, const ScheduleShape& shape) {
  if (shape.ranks < 1 || shape.stages_per_rank < 1 || shape.turns < 1) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("schedule {}: {} ranks, {} stages a rank, {} turns: each must be at least 1",
                            name, shape.ranks, shape.stages_per_rank, shape.turns));
  }
  const int64_t stages = int64_t{shape.ranks} * shape.stages_per_rank;
  if (stages > kMostActions || stages * shape.turns > kMostActions) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("schedule {}: {} ranks x {} stages x {} turns are more than {} forward actions",
                            name, shape.ranks, shape.stages_per_rank, shape.turns, kMostActions));
  }
}

}  // namespace

std::span<const ScheduleRow> schedules() { return kSchedules; }

const ScheduleRow& find_schedule(std::string_view name) {
  std::vector<std::string> known;
  for (const ScheduleRow& row : kSchedules) {
    if (row.name == name) return row;
    known.emplace_back(row.name);
  }
  throw Error(ErrorCode::kInvalidArgument, unknown_name_message("schedule", name, known));
}

Schedule make_schedule(std::string_view name, const ScheduleShape& shape) {
  return make_schedule(find_schedule(name), shape);
}

Schedule make_schedule(const ScheduleRow& row, const ScheduleShape& shape) {
  require_shape(row.name, shape);
  const std::string reason = row.refuses(shape);
  if (!reason.empty()) {
    throw Error(ErrorCode::kInvalidArgument, fmt::format("schedule {}: {}", row.name, reason));
  }
  return row.make(shape);
}

}  // namespace furrow::plan
