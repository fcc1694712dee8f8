// parse_schedule_csv on any bytes: Error{invalid_argument}, or a valid schedule that both forms carry.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "furrow/base/error.h"
#include "furrow/plan/schedule.h"
#include "furrow/plan/schedule_csv.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace furrow::plan;
  Schedule schedule;
  try {
    schedule = parse_schedule_csv(std::string_view(reinterpret_cast<const char*>(data), size), "fuzz");
  } catch (const furrow::Error& error) {
    if (error.code() != furrow::ErrorCode::kInvalidArgument) std::abort();
    return 0;
  }
  validate(schedule);
  for (const ScheduleForm form : {ScheduleForm::kCompute, ScheduleForm::kCommunication}) {
    if (parse_schedule_csv(to_csv(schedule, form), "fuzz") != schedule) std::abort();
  }
  return 0;
}
