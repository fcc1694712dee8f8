#include "furrow/plan/call_bytes.h"

namespace furrow::plan {

CallBytes call_bytes(const Unit& unit) {
  return {unit.saved_bytes,     unit.deferred_bytes,   unit.kept_saved_bytes, unit.kept_grad_bytes,
          unit.forward_scratch, unit.backward_scratch, unit.weight_scratch};
}

void set_call_bytes(const CallBytes& bytes, Unit* unit) {
  unit->saved_bytes = bytes.saved_bytes;
  unit->deferred_bytes = bytes.deferred_bytes;
  unit->kept_saved_bytes = bytes.kept_saved_bytes;
  unit->kept_grad_bytes = bytes.kept_grad_bytes;
  unit->forward_scratch = bytes.forward_scratch;
  unit->backward_scratch = bytes.backward_scratch;
  unit->weight_scratch = bytes.weight_scratch;
}

}  // namespace furrow::plan
