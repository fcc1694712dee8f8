// The generators of schedules.cc, one file each, and what they share.  Internal to plan.
#pragma once

#include "furrow/plan/schedule.h"

namespace furrow::plan {

std::string refuses_nothing(const ScheduleShape& shape);
std::string refuses_many_stages(const ScheduleShape& shape);  // more than one stage a rank

Schedule make_gpipe(const ScheduleShape& shape);
Schedule make_1f1b(const ScheduleShape& shape);

// A schedule without actions, stage s on rank s % ranks.
Schedule looped(std::string_view name, const ScheduleShape& shape);

}  // namespace furrow::plan
