#include "furrow/observe/sink.h"

#include <fmt/format.h>

#include <array>
#include <exception>

#include "furrow/base/log.h"

namespace furrow::observe {

bool is_machine_metric(std::string_view name) {
  constexpr std::array<std::string_view, 5> kUnits = {"_ms", "_s", "_bytes", "_per_second", "_ns"};
  for (const std::string_view unit : kUnits) {
    if (name.ends_with(unit)) return true;
  }
  return false;
}

const double* find_value(const StepRecord& record, std::string_view name) {
  for (const auto& [key, value] : record.values) {
    if (key == name) return &value;
  }
  return nullptr;
}

SinkGroup::SinkGroup(Sink* primary, std::span<Sink* const> others)
    : primary_(primary), others_(others.begin(), others.end()) {}

template <class Call>
void SinkGroup::each(const Call& call) {
  call(*primary_);
  for (Sink*& sink : others_) {
    if (sink == nullptr) continue;
    try {
      call(*sink);
    } catch (const std::exception& error) {
      log_warning(fmt::format("a record of the run stops here, training goes on: {}", error.what()));
      sink = nullptr;
    }
  }
}

void SinkGroup::begin(const std::string& run_name, const std::string& config_toml, int64_t resumed_step) {
  each([&](Sink& sink) { sink.begin(run_name, config_toml, resumed_step); });
}
void SinkGroup::progress(int64_t step, int64_t total_steps) {
  each([&](Sink& sink) { sink.progress(step, total_steps); });
}
void SinkGroup::log(const StepRecord& record) {
  each([&](Sink& sink) { sink.log(record); });
}
void SinkGroup::artifact(const std::string& name, const std::string& path) {
  each([&](Sink& sink) { sink.artifact(name, path); });
}
void SinkGroup::end(const std::string& status) {
  each([&](Sink& sink) { sink.end(status); });
}

}  // namespace furrow::observe
