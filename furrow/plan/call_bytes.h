// What the calls of a unit keep and take, as one value.
#pragma once

#include "furrow/plan/model_spec.h"

namespace furrow::plan {

CallBytes call_bytes(const Unit& unit);
void set_call_bytes(const CallBytes& bytes, Unit* unit);

}  // namespace furrow::plan
