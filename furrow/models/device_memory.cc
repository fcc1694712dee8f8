#include "furrow/models/device_memory.h"

#include <algorithm>

#include "furrow/models/unit_builder.h"
#include "furrow/plan/unit_facts.h"

namespace furrow::models {
namespace {

bool is_table(const plan::Unit& unit, const plan::Parameter& parameter) {
  if (unit.kind == "embedding") return parameter.name.ends_with("weight");
  return unit.kind == "token_embedding" && parameter.name.ends_with("wte.weight");
}

// The gradient of the whole table, or of a rank's rows of it, from that of the output in float32.
void set_table_scratch(const plan::Unit& unit, int degree, plan::Scratch* scratch) {
  for (const plan::Parameter& parameter : unit.parameters) {
    if (!is_table(unit, parameter) || parameter.rule.frozen || parameter.adapter) continue;
    const int64_t rows = (parameter.shape[0] + degree - 1) / degree;
    scratch->fixed_bytes = std::max(scratch->fixed_bytes, rows * parameter.shape[1] * kFloatBytes);
    if (unit.compute != DType::kF32) scratch->sample_bytes = numbers_of(unit.output) * kFloatBytes;
  }
}

// What losses are taken of.
struct Rows {
  int64_t samples = 0;       // of a microbatch
  bool cut_classes = false;  // over a tensor axis: all rows at once
  bool scaled = false;       // the gradient is multiplied before it is rounded
};

// losses_by_rows() of tensor/loss.cc: float32 logarithms of probabilities, which become the gradient of 16
// bits, and before them float32 logits.  A gradient that is scaled stays float32 until it has been: then its
// copy of 16 bits comes last, and a chunk counts as that much more.
plan::Scratch cross_entropy_scratch(const plan::Unit& unit, const Rows& rows) {
  constexpr int64_t kElements = int64_t{8} << 20;  // rows_at_a_time() of tensor/loss.cc
  constexpr int64_t kRowBytes = 8 + 1 + 4 + 4;     // target, whether it counts, its share, its loss
  const int64_t classes = unit.output.shape.back(), all = numbers_of(unit.output);
  const bool narrow = unit.output.dtype != DType::kF32, scaled = narrow && rows.scaled;
  const int64_t each = !narrow ? 4 : scaled ? 6 : 8;  // of a number of the chunk
  const int64_t chunk = std::max<int64_t>(1, kElements / classes) * classes;
  const bool whole = rows.cut_classes || all * rows.samples <= chunk;
  plan::Scratch scratch{all / classes * kRowBytes + (scaled ? 4 * all : 0), 0};
  (whole ? scratch.sample_bytes : scratch.fixed_bytes) += each * (whole ? all : chunk);
  return scratch;
}

// composed_distillation() there: logarithms of both, the teacher's probabilities, and on the way to their
// divergence three products and one in float64.  (Of 16 bits add_teacher() counts a float32 copy.)
plan::Scratch distillation_scratch(const plan::Unit& unit) {
  const int64_t each = unit.output.dtype == DType::kF32 ? 32 : 30;
  return {each * numbers_of(unit.output)};
}

}  // namespace

void declare_compositions(const config::Config& config, plan::ModelSpec* spec) {
  const config::Training& training = config.training;
  const Rows rows{training.local_batch_size, config.parallelism.tensor_parallel_degree > 1,
                  plan::model_facts(*spec).scales_loss};
  for (plan::Unit& unit : spec->units) {
    set_table_scratch(unit, 1, &unit.weight_scratch);
    for (auto& [degree, bytes] : unit.tensor.calls) set_table_scratch(unit, degree, &bytes.weight_scratch);
    if (training.objective == "distillation")
      unit.loss_scratch = distillation_scratch(unit);
    else if (training.objective != "gan" && training.loss == "cross_entropy")
      unit.loss_scratch = cross_entropy_scratch(unit, rows);
  }
}

}  // namespace furrow::models
