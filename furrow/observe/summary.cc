#include "furrow/observe/summary.h"

#include <fmt/format.h>

#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/observe/json_reader.h"

namespace furrow::observe {
namespace {

using Bytes = std::array<int64_t, kMemoryKinds>;

void write_optional(JsonWriter& json, std::string_view key, const std::optional<double>& value) {
  if (value) json.field(key, *value);
}

void write_bytes(JsonWriter& json, std::string_view key, const Bytes& bytes) {
  json.key(key).begin_object();
  for (size_t kind = 0; kind < kMemoryKinds; ++kind) {
    json.field(to_string(static_cast<MemoryKind>(kind)), bytes[kind]);
  }
  json.end_object();
}

void read_bytes(const JsonValue& json, std::string_view key, Bytes& out) {
  const JsonValue* value = json.find(key);
  if (value == nullptr) return;
  for (size_t kind = 0; kind < kMemoryKinds; ++kind) {
    JsonReader(*value).read(to_string(static_cast<MemoryKind>(kind)), out[kind]);
  }
}

void write_device(JsonWriter& json, const DeviceUse& device) {
  json.key("device").begin_object().field("name", device.name);
  json.field("memory_bytes", device.memory_bytes).field("planned_bytes", device.planned_bytes);
  json.field("peak_bytes", device.peak_bytes).field("reserved_bytes", device.reserved_bytes);
  json.end_object();
}

std::optional<DeviceUse> read_device(const JsonValue& summary) {
  const JsonValue* const json = summary.find("device");
  if (json == nullptr) return std::nullopt;
  DeviceUse device;
  const JsonReader reader(*json);
  reader.read("name", device.name);
  reader.read("memory_bytes", device.memory_bytes);
  reader.read("planned_bytes", device.planned_bytes);
  reader.read("peak_bytes", device.peak_bytes);
  reader.read("reserved_bytes", device.reserved_bytes);
  return device;
}

void write_memory(JsonWriter& json, const Summary& summary) {
  write_bytes(json, "memory_bytes", summary.memory_bytes);
  write_bytes(json, "planned_memory_bytes", summary.planned_memory_bytes);
  write_bytes(json, "closing_memory_bytes", summary.closing_memory_bytes);
  if (summary.device) write_device(json, *summary.device);
}

using Rows = std::vector<std::array<std::string, 3>>;

void add_optional(Rows& rows, const char* name, const std::optional<double>& value, int decimals) {
  if (value) rows.push_back({name, format_fixed(*value, decimals), ""});
}

void add_memory(Rows& rows, const Summary& summary) {
  rows.push_back({"memory by kind", "measured", "planned"});
  for (size_t kind = 0; kind < kMemoryKinds; ++kind) {
    const auto measured = static_cast<uint64_t>(summary.memory_bytes[kind]);
    const auto planned = static_cast<uint64_t>(summary.planned_memory_bytes[kind]);
    if (measured == 0 && planned == 0) continue;
    rows.push_back({fmt::format("  {}", to_string(static_cast<MemoryKind>(kind))), format_bytes(measured),
                    planned == 0 ? "-" : format_bytes(planned)});
  }
  std::string closing;
  for (size_t kind = 0; kind < kMemoryKinds; ++kind) {
    if (summary.closing_memory_bytes[kind] == 0) continue;
    closing += fmt::format("{}{} {}", closing.empty() ? "" : ", ", to_string(static_cast<MemoryKind>(kind)),
                           format_bytes(static_cast<uint64_t>(summary.closing_memory_bytes[kind])));
  }
  if (!closing.empty()) rows.push_back({"  to test and export", closing, ""});
  if (summary.device) {
    const DeviceUse& device = *summary.device;
    const auto text = [](int64_t bytes) { return format_bytes(static_cast<uint64_t>(bytes)); };
    rows.push_back({"  on the device", text(device.peak_bytes), text(device.planned_bytes)});
    rows.push_back({"device",
                    fmt::format("{}, {} reserved{}", device.name, text(device.reserved_bytes),
                                device.memory_bytes > 0 ? " of " + text(device.memory_bytes) : ""),
                    ""});
  }
  rows.push_back({"peak resident memory", format_bytes(static_cast<uint64_t>(summary.peak_rss_bytes)), ""});
}

}  // namespace

std::string to_json(const Summary& summary) {
  JsonWriter json(2);
  json.begin_object().field("name", summary.name).field("status", summary.status);
  json.field("steps", summary.steps).field("samples", summary.samples);
  write_optional(json, "loss", summary.loss);
  write_optional(json, "validation_loss", summary.validation_loss);
  write_optional(json, "validation_accuracy", summary.validation_accuracy);
  write_optional(json, "test_loss", summary.test_loss);
  write_optional(json, "test_accuracy", summary.test_accuracy);
  if (summary.best_step) json.field("best_step", *summary.best_step);
  json.field("samples_per_second", summary.samples_per_second);
  if (summary.audit) write_audit(json, *summary.audit);
  if (summary.prediction) write_prediction(json, *summary.prediction);
  json.key("step_time_ms").begin_object();
  json.field("median", summary.step_time_median_ms).field("p99", summary.step_time_p99_ms).end_object();
  json.field("time_to_first_step_s", summary.time_to_first_step_s).field("data_wait_s", summary.data_wait_s);
  json.field("saves", summary.saves).field("save_wait_s", summary.save_wait_s);
  json.field("peak_rss_bytes", summary.peak_rss_bytes);
  write_memory(json, summary);
  json.field("arithmetic", summary.arithmetic);
  json.field("seed", summary.seed).field("threads", summary.threads);
  json.field("processor", summary.processor);
  json.field("furrow_version", summary.furrow_version).field("git_commit", summary.git_commit);
  json.field("instruction_set", summary.instruction_set).field("library_build", summary.library_build);
  json.end_object();
  return json.text() + '\n';
}

std::string to_closing_line(const Summary& summary) {
  JsonWriter json;
  json.begin_object().field("step", summary.steps).field("samples", summary.samples);
  json.key("audit").begin_object().field("status", summary.status);
  json.field("samples_per_second", summary.samples_per_second);
  if (summary.audit) write_audit(json, *summary.audit);
  write_memory(json, summary);
  json.end_object().end_object();
  return json.text() + '\n';
}

Summary parse_summary(const std::string& text) {
  const JsonValue json = parse_json(text);
  if (json.object() == nullptr) throw Error(ErrorCode::kDataLoss, "a summary is a JSON object");
  Summary summary;
  const JsonReader reader(json);
  reader.read("name", summary.name);
  reader.read("status", summary.status);
  reader.read("steps", summary.steps);
  reader.read("samples", summary.samples);
  reader.read("loss", summary.loss);
  reader.read("validation_loss", summary.validation_loss);
  reader.read("validation_accuracy", summary.validation_accuracy);
  reader.read("test_loss", summary.test_loss);
  reader.read("test_accuracy", summary.test_accuracy);
  reader.read("best_step", summary.best_step);
  reader.read("samples_per_second", summary.samples_per_second);
  summary.audit = read_audit(json);
  summary.prediction = read_prediction(json);
  if (const JsonValue* times = json.find("step_time_ms")) {
    JsonReader(*times).read("median", summary.step_time_median_ms);
    JsonReader(*times).read("p99", summary.step_time_p99_ms);
  }
  reader.read("time_to_first_step_s", summary.time_to_first_step_s);
  reader.read("data_wait_s", summary.data_wait_s);
  reader.read("saves", summary.saves);
  reader.read("save_wait_s", summary.save_wait_s);
  reader.read("peak_rss_bytes", summary.peak_rss_bytes);
  read_bytes(json, "memory_bytes", summary.memory_bytes);
  read_bytes(json, "planned_memory_bytes", summary.planned_memory_bytes);
  read_bytes(json, "closing_memory_bytes", summary.closing_memory_bytes);
  summary.device = read_device(json);
  reader.read("arithmetic", summary.arithmetic);
  reader.read("seed", summary.seed);
  reader.read("threads", summary.threads);
  reader.read("processor", summary.processor);
  reader.read("furrow_version", summary.furrow_version);
  reader.read("git_commit", summary.git_commit);
  reader.read("instruction_set", summary.instruction_set);
  reader.read("library_build", summary.library_build);
  return summary;
}

std::string to_table(const Summary& summary) {
  Rows rows;
  rows.push_back({"run", fmt::format("{} ({})", summary.name, summary.status), ""});
  rows.push_back({"steps", format_count(summary.steps), ""});
  rows.push_back({"samples", format_count(summary.samples), ""});
  add_optional(rows, "loss", summary.loss, 5);
  add_optional(rows, "validation loss", summary.validation_loss, 5);
  add_optional(rows, "validation accuracy", summary.validation_accuracy, 4);
  add_optional(rows, "test loss", summary.test_loss, 5);
  add_optional(rows, "test accuracy", summary.test_accuracy, 4);
  if (summary.best_step) rows.push_back({"best step", format_count(*summary.best_step), ""});
  const bool timed = summary.samples_per_second > 0;  // a step besides the first of the process
  if (timed)
    rows.push_back(
        {"samples per second", format_count(static_cast<int64_t>(summary.samples_per_second)), ""});
  if (!summary.arithmetic.empty() && summary.arithmetic != "float32")
    rows.push_back({"computes in", summary.arithmetic, ""});
  if (timed) {
    rows.push_back({"step time",
                    fmt::format("{} median, {} p99", format_seconds(summary.step_time_median_ms / 1e3),
                                format_seconds(summary.step_time_p99_ms / 1e3)),
                    ""});
  }
  rows.push_back({"time to first step", format_seconds(summary.time_to_first_step_s), ""});
  rows.push_back({"waited for data", format_seconds(summary.data_wait_s), ""});
  if (summary.saves > 0) {
    rows.push_back({"waited for saves",
                    fmt::format("{} ({} checkpoints)", format_seconds(summary.save_wait_s), summary.saves),
                    ""});
  }
  if (summary.audit) {
    for (const auto& row : audit_rows(*summary.audit)) rows.push_back(row);
  }
  if (summary.prediction) {
    for (const auto& row : prediction_rows(*summary.prediction)) rows.push_back(row);
  }
  add_memory(rows, summary);

  std::string text;
  for (const auto& [name, value, planned] : rows) {
    text += planned.empty() ? fmt::format("{:<22}{}\n", name, value)
                            : fmt::format("{:<22}{:<14}{}\n", name, value, planned);
  }
  return text;
}

}  // namespace furrow::observe
