// Interleaved 1F1B: rank r has stages r, p + r, ... and alternates over all of them, depth first.  Narayanan
// et al., "Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM", 2021,
// section 2.2. Bubble (p - 1) / (v m + p - 1) for m >= p, a multiple of p or not (rounds_of): the paper asks
// for one. With v > 1 and m a multiple of p rank r holds min(v m, (v - 1) p + 2 (p - r) - 1) turns of a
// stage; with v = 1 it is 1F1B.
#include "furrow/plan/schedules/generators.h"

namespace furrow::plan {

Schedule make_interleaved_1f1b(const ScheduleShape& shape) {
  Schedule schedule = looped("Interleaved1F1B", shape);
  // Two forwards for every hop to the last rank: there and back.  Over one stage a rank the way back is
  // shorter than a pair, and one is enough.
  const int32_t per_hop = shape.stages_per_rank == 1 ? 1 : 2;
  for (int32_t rank = 0; rank < shape.ranks; ++rank) {
    schedule.actions[rank] = alternate(
        {.forwards = depth_first(shape, rank, false),
         .backwards = depth_first(shape, rank, true),
         .ahead = (shape.stages_per_rank - 1) * rounds_of(shape)[0] + per_hop * (shape.ranks - 1 - rank)});
  }
  return schedule;
}

}  // namespace furrow::plan
