#include "furrow/models/precision.h"

#include <algorithm>
#include <string>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/models/kinds.h"
#include "furrow/plan/topology.h"

namespace furrow::models {
namespace {

const Kind* find(std::string_view name) {
  for (const Kind& kind : kinds()) {
    if (kind.name == name) return &kind;
  }
  return nullptr;
}

int64_t numbers(const plan::TensorSpec& border) {
  return border.bytes_per_sample() / static_cast<int64_t>(dtype_size(border.dtype));
}

// The description again, for its bytes and collectives: shapes and parameters are those of float32.
void lower(const Kind& kind, DType type, plan::Unit* unit) {
  plan::Unit again = *unit;
  again.parameters.clear();
  again.collectives.clear();
  again.forward_scratch = again.backward_scratch = again.weight_scratch = {};
  again.compute = type;
  kind.describe(again);
  unit->compute = type;
  unit->output.dtype = type;
  unit->saved_bytes = again.saved_bytes;
  unit->deferred_bytes = again.deferred_bytes;
  unit->kept_saved_bytes = again.kept_saved_bytes;
  unit->kept_grad_bytes = again.kept_grad_bytes;
  unit->forward_scratch = again.forward_scratch;
  unit->backward_scratch = again.backward_scratch;
  unit->weight_scratch = again.weight_scratch;
  // Scores and their gradient in float32, which is rounded once the scores have gone.
  unit->loss_scratch.sample_bytes = numbers(unit->output) * (2 * 4 - static_cast<int64_t>(dtype_size(type)));
  unit->tensor = again.tensor;
  unit->collectives = again.collectives;
}

// A unit that reads another type than it computes in keeps its input converted.
void convert_input(plan::Unit* unit) {
  const DType read = unit->input.dtype;
  if (read == unit->compute || !plan::is_number(read)) return;
  const int64_t bytes = numbers(unit->input) * static_cast<int64_t>(dtype_size(unit->compute));
  unit->saved_bytes += bytes;
  const bool whole = unit->input.tensor_axis < 0;
  if (whole) unit->tensor.whole_saved_bytes += bytes;
  if (unit->parameters.empty()) return;
  unit->deferred_bytes += bytes;
  unit->kept_saved_bytes += bytes;
  if (whole) unit->tensor.whole_deferred_bytes += bytes;
}

}  // namespace

DType precision_of(std::string_view name) {
  std::vector<std::string> known;
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16}) {
    if (to_string(type) == name) return type;
    known.emplace_back(to_string(type));
  }
  throw Error(ErrorCode::kInvalidArgument, unknown_name_message("precision", name, known));
}

void compute_in(DType type, plan::ModelSpec* spec) {
  if (type == DType::kF32) return;
  for (plan::Unit& unit : spec->units) {
    const Kind* kind = find(unit.kind);
    if (kind != nullptr && kind->low_precision) lower(*kind, type, &unit);
  }
  for (size_t u = 0; u < spec->units.size(); ++u) {
    const int32_t source = plan::source_of(*spec, static_cast<int32_t>(u));
    if (source >= 0) spec->units[u].input.dtype = spec->units[source].output.dtype;
    convert_input(&spec->units[u]);
  }
  plan::validate(*spec);
}

OperationShares operation_shares(const plan::ModelSpec& spec) {
  double all = 0;
  OperationShares shares;
  for (const plan::Unit& unit : spec.units) {
    const double flops = unit.flops.forward + unit.flops.backward_input + unit.flops.backward_weight;
    const Kind* kind = find(unit.kind);
    all += flops;
    if (unit.compute == DType::kF32 || kind == nullptr || kind->converts) {
      shares.float32 += flops;
    } else if (kind->convolves) {
      shares.convolutions += flops;
    }
  }
  if (all <= 0) return {.float32 = 1};
  return {shares.float32 / all, shares.convolutions / all};
}

void reduce_in(DType type, plan::ModelSpec* spec) { spec->reduce = type; }

}  // namespace furrow::models
