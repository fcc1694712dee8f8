#include "furrow/observe/prediction.h"

#include <fmt/format.h>

#include <numeric>

#include "furrow/observe/json_reader.h"

namespace furrow::observe {
namespace {

void write_figures(JsonWriter& json, std::string_view key, const StepFigures& figures,
                   const std::string& source) {
  json.key(key).begin_object();
  if (!source.empty()) json.field("source", source);
  json.field("step_time_ms", figures.step_time_ms).field("memory_bytes", figures.memory_bytes());
  json.key("memory_by_kind").begin_object();
  for (size_t kind = 0; kind < kMemoryKinds; ++kind)
    json.field(to_string(static_cast<MemoryKind>(kind)), figures.memory_by_kind[kind]);
  json.end_object();
  json.field("wire_bytes", figures.wire_bytes).field("bubble", figures.bubble);
  json.field("exposed_communication", figures.exposed_communication).end_object();
}

StepFigures read_figures(const JsonValue& json) {
  StepFigures figures;
  const JsonReader reader(json);
  reader.read("step_time_ms", figures.step_time_ms);
  reader.read("wire_bytes", figures.wire_bytes);
  reader.read("bubble", figures.bubble);
  reader.read("exposed_communication", figures.exposed_communication);
  const JsonValue* kinds = json.find("memory_by_kind");
  if (kinds == nullptr) return figures;
  for (size_t kind = 0; kind < kMemoryKinds; ++kind)
    JsonReader(*kinds).read(to_string(static_cast<MemoryKind>(kind)), figures.memory_by_kind[kind]);
  return figures;
}

std::string percent(double share) { return format_fixed(100 * share, 1) + " %"; }
std::string bytes(int64_t count) { return format_bytes(static_cast<uint64_t>(count)); }
std::string time(double ms) { return format_seconds(ms / 1e3); }

}  // namespace

int64_t StepFigures::memory_bytes() const {
  return std::accumulate(memory_by_kind.begin(), memory_by_kind.end(), int64_t{0});
}

void write_prediction(JsonWriter& json, const Prediction& prediction) {
  write_figures(json, "predicted", prediction.predicted, prediction.source);
  write_figures(json, "measured", prediction.measured, "");
}

std::optional<Prediction> read_prediction(const JsonValue& summary) {
  const JsonValue* predicted = summary.find("predicted");
  const JsonValue* measured = summary.find("measured");
  if (predicted == nullptr || measured == nullptr) return std::nullopt;
  Prediction prediction{"", read_figures(*predicted), read_figures(*measured)};
  JsonReader(*predicted).read("source", prediction.source);
  return prediction;
}

std::vector<std::array<std::string, 3>> prediction_rows(const Prediction& prediction) {
  const StepFigures &m = prediction.measured, &p = prediction.predicted;
  std::vector<std::array<std::string, 3>> rows;
  rows.push_back({"a step", "measured", "predicted"});
  rows.push_back(
      {"  time", time(m.step_time_ms), fmt::format("{} ({})", time(p.step_time_ms), prediction.source)});
  rows.push_back({"  memory of rank 0", bytes(m.memory_bytes()), bytes(p.memory_bytes())});
  rows.push_back({"  bubble", percent(m.bubble), percent(p.bubble)});
  if (m.wire_bytes == 0 && p.wire_bytes == 0) return rows;
  rows.push_back({"  bytes of all ranks", bytes(m.wire_bytes), bytes(p.wire_bytes)});
  rows.push_back({"  waited for ranks", percent(m.exposed_communication), percent(p.exposed_communication)});
  return rows;
}

}  // namespace furrow::observe
