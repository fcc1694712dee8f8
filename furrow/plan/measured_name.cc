#include "furrow/plan/measured_name.h"

namespace furrow::plan {

std::string_view measured_name(Op op, GroupAxis axis, const Placement& placement) {
  if (op != Op::kReduceGrads) return op_info(op).name;
  if (axis == GroupAxis::kReplicate) return "replicate.reduce_grads";
  return placement.reduces_each_microbatch() ? "microbatch.reduce_grads" : "shard.reduce_grads";
}

std::string_view without_variety(std::string_view name) {
  const size_t dot = name.find('.');
  return dot == std::string_view::npos ? name : name.substr(dot + 1);
}

}  // namespace furrow::plan
