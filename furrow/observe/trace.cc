#include "furrow/observe/trace.h"

#include <algorithm>

#include "furrow/base/file.h"
#include "furrow/base/text.h"

namespace furrow::observe {
namespace {

std::vector<std::string> lanes_of(std::span<const TraceEvent> events) {
  std::vector<std::string> lanes;
  for (const TraceEvent& event : events) {
    if (std::find(lanes.begin(), lanes.end(), event.stream) == lanes.end()) lanes.push_back(event.stream);
  }
  return lanes;
}

void write_name(JsonWriter& json, std::string_view what, int64_t process, size_t lane,
                const std::string& name) {
  json.begin_object().field("name", what).field("ph", "M").field("pid", process).field("tid", lane);
  json.key("args").begin_object().field("name", name).end_object().end_object();
}

void write_event(JsonWriter& json, const TraceEvent& event, int64_t process, size_t lane, int64_t origin_ns) {
  json.begin_object().field("name", event.name).field("cat", event.category).field("ph", "X");
  json.field("pid", process).field("tid", lane);
  json.field("ts", static_cast<double>(event.start_ns - origin_ns) / 1e3);
  json.field("dur", static_cast<double>(event.duration_ns) / 1e3);
  if (!event.args.empty()) {
    json.key("args").begin_object();
    for (const auto& [key, value] : event.args) json.field(key, value);
    json.end_object();
  }
  json.end_object();
}

}  // namespace

std::string to_chrome_trace(std::span<const TraceEvent> events, const std::string& process_name) {
  const int64_t process = 1;
  const auto lanes = lanes_of(events);
  const auto first = std::min_element(events.begin(), events.end(),
                                      [](const auto& a, const auto& b) { return a.start_ns < b.start_ns; });
  const int64_t origin_ns = events.empty() ? 0 : first->start_ns;

  JsonWriter json;
  json.begin_object().field("displayTimeUnit", "ms").key("traceEvents").begin_array();
  write_name(json, "process_name", process, 0, process_name);
  for (size_t lane = 0; lane < lanes.size(); ++lane)
    write_name(json, "thread_name", process, lane, lanes[lane]);
  for (const TraceEvent& event : events) {
    const auto lane = std::find(lanes.begin(), lanes.end(), event.stream) - lanes.begin();
    write_event(json, event, process, static_cast<size_t>(lane), origin_ns);
  }
  json.end_array().end_object();
  return json.text() + '\n';
}

void write_trace(const std::string& path, std::span<const TraceEvent> events,
                 const std::string& process_name) {
  write_file_atomic(path, to_chrome_trace(events, process_name));
}

}  // namespace furrow::observe
