// What a step was predicted to take, beside what it took.  Part of summary.json.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "furrow/base/memory.h"
#include "furrow/base/text.h"
#include "furrow/observe/json.h"

namespace furrow::observe {

// Of a training step.  Memory is of rank 0: the sum of the peaks by kind, which need not coincide.
struct StepFigures {
  double step_time_ms = 0;
  std::array<int64_t, kMemoryKinds> memory_by_kind{};
  int64_t wire_bytes = 0;  // received by all ranks
  double bubble = 0;       // 1 - computing / (ranks x makespan), first forward to last weight gradient
  double exposed_communication = 0;  // share of the step in which a rank only waited, mean over ranks
  int64_t memory_bytes() const;
};

struct Prediction {
  std::string source;  // "analytic", "profiled": where the predicted times come from
  StepFigures predicted, measured;
};

void write_prediction(JsonWriter& json, const Prediction& prediction);  // its fields, into an open object
std::optional<Prediction> read_prediction(const JsonValue& summary);    // Error{data_loss}
std::vector<std::array<std::string, 3>> prediction_rows(
    const Prediction& prediction);  // name, measured, predicted

}  // namespace furrow::observe
