// Which function runs an operation.  A new operation is a function and a row in the file of its concern.
#include <fmt/format.h>

#include <span>

#include "furrow/base/error.h"
#include "furrow/train/executor_state_torch.h"

namespace furrow::train {

Handler handler_of(plan::Op op) {
  for (const std::span<const HandlerRow> rows :
       {unit_handlers(), gradient_handlers(), step_handlers(), communication_handlers()}) {
    for (const HandlerRow& row : rows) {
      if (row.op == op) return row.handler;
    }
  }
  throw Error(ErrorCode::kInternal, fmt::format("operation {} has no handler", plan::op_info(op).name));
}

}  // namespace furrow::train
