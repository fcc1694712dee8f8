#include "furrow/observe/metrics_log.h"

#include <fmt/format.h>

#include <limits>

#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/observe/json.h"

namespace furrow::observe {
namespace {

struct Line {
  StepRecord record;
  bool closing = false;
};

Line parse(std::string_view line) {
  const JsonValue json = parse_json(line);
  const JsonValue* step = json.find("step");
  const JsonValue* samples = json.find("samples");
  if (step == nullptr || !step->integer() || samples == nullptr || !samples->integer()) {
    throw Error(ErrorCode::kDataLoss, "a record of metrics.jsonl needs whole numbers `step` and `samples`");
  }
  Line parsed{{*step->integer(), *samples->integer(), {}}};
  for (const auto& [name, value] : *json.object()) {
    if (name == "step" || name == "samples") continue;
    if (name == "audit" && value.object() != nullptr) {
      parsed.closing = true;
    } else if (value.is_null()) {
      parsed.record.values.emplace_back(name, std::numeric_limits<double>::quiet_NaN());
    } else if (const auto number = value.number()) {
      parsed.record.values.emplace_back(name, *number);
    } else {
      throw Error(ErrorCode::kDataLoss, fmt::format("`{}` is not a number", name));
    }
  }
  return parsed;
}

// The whole lines of the file, without their newlines; what follows the last newline was torn off by a crash.
std::vector<std::string_view> whole_lines(std::string_view text) {
  std::vector<std::string_view> lines;
  for (size_t begin = 0, end; (end = text.find('\n', begin)) != std::string_view::npos; begin = end + 1) {
    lines.push_back(text.substr(begin, end - begin));
  }
  return lines;
}

Line parse_line(const std::string& path, std::string_view line, size_t index) {
  try {
    return parse(line);
  } catch (const Error& error) {
    throw error.with_context(fmt::format("{}:{}", path, index + 1));
  }
}

}  // namespace

std::string MetricsLog::to_json_line(const StepRecord& record) {
  JsonWriter json;
  json.begin_object().field("step", record.step).field("samples", record.samples);
  for (const bool machine : {false, true}) {
    for (const auto& [name, value] : record.values) {
      if (is_machine_metric(name) == machine) json.field(name, value);
    }
  }
  json.end_object();
  return json.text() + '\n';
}

StepRecord parse_metrics_line(std::string_view line) { return parse(line).record; }

MetricsLog::MetricsLog(const std::string& path, int64_t resumed_step) {
  if (path_exists(path)) {
    const std::string before = read_file(path);
    std::string kept;
    const auto lines = whole_lines(before);
    for (size_t i = 0; i < lines.size(); ++i) {
      if (parse_line(path, lines[i], i).record.step <= resumed_step) kept.append(lines[i]).push_back('\n');
    }
    if (resumed_step <= 0) kept.clear();
    if (kept != before) write_file_atomic(path, kept);
  }
  file_ = std::make_unique<AppendFile>(path);
}

std::vector<StepRecord> read_metrics(const std::string& path) {
  std::vector<StepRecord> records;
  if (!path_exists(path)) return records;
  const std::string text = read_file(path);
  const auto lines = whole_lines(text);
  records.reserve(lines.size());
  for (size_t i = 0; i < lines.size(); ++i) {
    Line line = parse_line(path, lines[i], i);
    if (!line.closing) records.push_back(std::move(line.record));
  }
  return records;
}

}  // namespace furrow::observe
