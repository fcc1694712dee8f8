// Schedules as PyTorch writes them (torch.distributed.pipelining, `_dump_csv`): a line a rank, a cell an
// action, "2F0" for forward of stage 2 in turn 0, empty cells where a rank would wait.
#pragma once

#include <string>
#include <string_view>

#include "furrow/plan/schedule.h"

namespace furrow::plan {

enum class ScheduleForm : uint8_t {
  kCompute,        // "compute_only": F, B, I, W
  kCommunication,  // "compute_comms": SEND_F, RECV_F, SEND_B, RECV_B beside them
};

std::string to_csv(const Schedule& schedule, ScheduleForm form = ScheduleForm::kCompute);  // REQUIRES: valid

// Reads both forms: ranks are the lines, stages and turns what the actions name.  In the second form every
// activation and gradient that goes to another rank must be sent after it exists, received before it is used,
// and nothing may wait in a circle; the schedule then keeps the order of the computing, and programs get
// transfers of their own.  "(0F1;1B0)OVERLAP_F_B" is its parts one after the other.  UNSHARD, RESHARD and
// REDUCE_GRAD are read over: plan gathers and reduces where its passes say.
// The result is valid.  Error{invalid_argument} names line and cell, or the cycle.
Schedule parse_schedule_csv(std::string_view text, std::string name);

}  // namespace furrow::plan
