// [training] mixed_precision_param, mixed_precision_units, mixed_precision_reduce: what the units of a model
// compute in, and what their gradients are added in.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "furrow/config/config.h"
#include "furrow/plan/model_spec.h"

namespace furrow::models {

// "float32", "bfloat16", "float16".  Error{invalid_argument} for another name.
DType precision_of(std::string_view name);

// Which units compute in what.
struct PrecisionPolicy {
  // An entry of [training] mixed_precision_units, "PATTERN param=TYPE": the units whose name or kind matches.
  struct Entry {
    std::string text, pattern;
    DType param = DType::kF32;
  };
  DType param = DType::kF32;  // of units that no entry matches
  std::vector<Entry> entries = {};

  PrecisionPolicy(DType type = DType::kF32) : param(type) {}  // NOLINT(google-explicit-constructor)
};
// Of the network in training, and of the teacher beside it, whose entries start with "teacher.".
// Error{invalid_argument}: an entry that is none.
PrecisionPolicy precision_policy(const config::Training& training);
PrecisionPolicy teachers_precision_policy(const config::Training& training);

// Every unit whose kind says that it can computes in what the policy says: its parameters, output and what it
// keeps for backward are of that type; the borders of the chain follow.  Other kinds stay float32, a
// program's own among them, and units that run the layers of another one follow it.  REQUIRES: a validated
// spec in float32.  The result is validated.  Error{invalid_argument}: an entry that no unit follows, tied
// weights of units that compute in different types.
void compute_in(const PrecisionPolicy& policy, plan::ModelSpec* spec);

// Of what units compute in, what decides on the processor's instructions: bfloat16 where one does, else
// float16, else float32.
DType lowest_precision(const plan::ModelSpec& spec);

// "units compute in bfloat16, but in float32: wte, lm_head"; "" where all compute in one type.
std::string mixed_precision_text(const plan::ModelSpec& spec);

// Parts of the operations of a step, 0 .. 1.
struct OperationShares {
  double float32 = 0;  // of units of other than the lowest precision, and of kinds that convert what they
                       // multiply
  double convolutions = 0;  // of the others
};
OperationShares operation_shares(const plan::ModelSpec& spec);

// Gradients are added and travel in `type` ([training] mixed_precision_reduce).
void reduce_in(DType type, plan::ModelSpec* spec);

}  // namespace furrow::models
