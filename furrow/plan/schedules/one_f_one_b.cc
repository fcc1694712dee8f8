// 1F1B: one forward, one backward as soon as the first gradient comes.  Narayanan et al., "PipeDream:
// Generalized Pipeline Parallelism for DNN Training", 2019, in its flushing form.  Bubble (p - 1) / (m + p -
// 1); rank r holds min(m, p - r) turns.
#include <algorithm>

#include "furrow/plan/schedules/generators.h"

namespace furrow::plan {

Schedule make_1f1b(const ScheduleShape& shape) {
  Schedule schedule = looped("1F1B", shape);
  for (int32_t rank = 0; rank < shape.ranks; ++rank) {
    const int32_t ahead = std::min(shape.turns, shape.ranks - rank);
    for (int32_t turn = 0; turn < shape.turns + ahead; ++turn) {
      if (turn >= ahead) schedule.actions[rank].push_back({Phase::kBackward, rank, turn - ahead});
      if (turn < shape.turns) schedule.actions[rank].push_back({Phase::kForward, rank, turn});
    }
  }
  return schedule;
}

}  // namespace furrow::plan
