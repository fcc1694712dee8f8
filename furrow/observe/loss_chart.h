// Loss curves as SVG: written by hand, so that a plot needs no library and equal runs give equal files.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "furrow/observe/sink.h"

namespace furrow::observe {

struct Series {
  enum class Style { kLine, kFaint, kMarked };    // kMarked: a dot on every point, for sparse ones
  std::string name;                               // in the legend; empty: not there
  std::vector<std::pair<double, double>> points;  // x ascending; not finite: left out
  Style style = Style::kLine;
  int color = 0;  // index into the palette
};

struct Chart {
  std::string title, x_label, y_label;
  std::vector<Series> series;
};

// Axes with round ticks, grid, legend; long series are thinned to the extremes of each pixel column.
std::string to_svg(const Chart& chart);

// Training and validation loss over steps, of one run or of several: (name, records) each.  Long noisy
// training curves are drawn faint with their exponential moving average on top.
std::string loss_chart_svg(const std::vector<std::pair<std::string, std::vector<StepRecord>>>& runs);

// Draws loss.svg of a run folder from its metrics.jsonl when the run ends.
class LossChartSink : public Sink {
 public:
  explicit LossChartSink(std::string run_folder) : run_folder_(std::move(run_folder)) {}
  void begin(const std::string& /*run_name*/, const std::string& /*config_toml*/,
             int64_t /*resumed_step*/) override {}
  void log(const StepRecord& /*record*/) override {}
  void artifact(const std::string& /*name*/, const std::string& /*path*/) override {}
  void end(const std::string& status) override;

 private:
  std::string run_folder_;
};

}  // namespace furrow::observe
