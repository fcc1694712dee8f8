#include "apps/furrow/sinks.h"

#include <string_view>

#include "furrow/observe/console.h"
#include "furrow/observe/loss_chart.h"
#include "furrow/observe/tensorboard.h"

namespace furrow::app {
namespace {

using SinkPtr = std::unique_ptr<observe::Sink>;

struct SinkRow {
  std::string_view name;
  bool (*enabled)(const config::Config&);
  SinkPtr (*make)(const config::Config&, const std::string& run_folder);
};

constexpr SinkRow kSinks[] = {
    {"console", [](const config::Config&) { return true; },
     [](const config::Config& config, const std::string&) -> SinkPtr {
       return std::make_unique<observe::ConsoleSink>(
           observe::stderr_console(config.metrics.disable_color_printing));
     }},
    {"tensorboard", [](const config::Config& config) { return config.metrics.enable_tensorboard; },
     [](const config::Config&, const std::string& run_folder) -> SinkPtr {
       return std::make_unique<observe::TensorBoardSink>(run_folder + "/tb");
     }},
    {"loss chart", [](const config::Config& config) { return config.metrics.enable_plots; },
     [](const config::Config&, const std::string& run_folder) -> SinkPtr {
       return std::make_unique<observe::LossChartSink>(run_folder);
     }},
};

}  // namespace

std::vector<SinkPtr> make_sinks(const config::Config& config, const std::string& run_folder) {
  std::vector<SinkPtr> sinks;
  for (const SinkRow& row : kSinks) {
    if (row.enabled(config)) sinks.push_back(row.make(config, run_folder));
  }
  return sinks;
}

}  // namespace furrow::app
