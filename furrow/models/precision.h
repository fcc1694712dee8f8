// [training] mixed_precision_param, mixed_precision_reduce: what the units of a model compute in, and what
// their gradients are added in.
#pragma once

#include <string_view>

#include "furrow/plan/model_spec.h"

namespace furrow::models {

// "float32", "bfloat16", "float16".  Error{invalid_argument} for another name.
DType precision_of(std::string_view name);

// Every unit whose kind says that it can computes in `type`: its parameters, output and what it keeps for
// backward are of that type; the borders of the chain follow.  Other kinds stay float32, a program's own
// among them.  REQUIRES: a validated spec in float32.  The result is validated.
void compute_in(DType type, plan::ModelSpec* spec);

// Parts of the operations of a step, 0 .. 1.
struct OperationShares {
  double float32 = 0;       // of units that compute in it, and of kinds that convert what they multiply
  double convolutions = 0;  // of 16 bits
};
OperationShares operation_shares(const plan::ModelSpec& spec);

// Gradients are added and travel in `type` ([training] mixed_precision_reduce).
void reduce_in(DType type, plan::ModelSpec* spec);

}  // namespace furrow::models
