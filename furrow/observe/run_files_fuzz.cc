// Arbitrary bytes as summary.json and as a line of metrics.jsonl: accepted, or refused as damaged; what is
// accepted reads back the same.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "furrow/base/error.h"
#include "furrow/observe/metrics_log.h"
#include "furrow/observe/summary.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using furrow::observe::MetricsLog;
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    const std::string written = furrow::observe::to_json(furrow::observe::parse_summary(text));
    if (furrow::observe::to_json(furrow::observe::parse_summary(written)) != written) std::abort();
  } catch (const furrow::Error& error) {
    if (error.code() != furrow::ErrorCode::kDataLoss) std::abort();
  }
  try {
    const std::string line = MetricsLog::to_json_line(furrow::observe::parse_metrics_line(text));
    if (MetricsLog::to_json_line(furrow::observe::parse_metrics_line(line)) != line) std::abort();
  } catch (const furrow::Error& error) {
    if (error.code() != furrow::ErrorCode::kDataLoss) std::abort();
  }
  return 0;
}
