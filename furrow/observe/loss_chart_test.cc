#include "furrow/observe/loss_chart.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cmath>
#include <limits>

#include "furrow/base/file.h"
#include "furrow/observe/metrics_log.h"

namespace furrow::observe {
namespace {

size_t count(const std::string& text, std::string_view part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

std::vector<StepRecord> run(int64_t steps) {
  std::vector<StepRecord> records;
  for (int64_t step = 1; step <= steps; ++step) {
    StepRecord record{step, step, {{"loss", 2.0 / static_cast<double>(step)}}};
    if (step % 5 == 0) record.values.emplace_back("validation_loss", 2.5 / static_cast<double>(step));
    records.push_back(record);
  }
  return records;
}

TEST(LossChart, HasAxesLegendAndBothCurves) {
  const std::string svg = loss_chart_svg({{"runs/a<1>", run(10)}});
  EXPECT_EQ(count(svg, "<polyline"), 2u);
  EXPECT_EQ(count(svg, "<circle"), 3u);  // two validation points and the legend's
  for (const char* text : {">training<", ">validation<", ">step<", ">loss<", "Loss of a&lt;1&gt;"}) {
    EXPECT_EQ(count(svg, text), 1u) << text;
  }
  EXPECT_EQ(svg, loss_chart_svg({{"runs/a<1>", run(10)}}));
}

TEST(LossChart, LongCurvesAreSmoothedAndThinned) {
  const std::string svg = loss_chart_svg({{"a", run(200'000)}});
  EXPECT_EQ(count(svg, "stroke-opacity"), 1u);
  EXPECT_LT(svg.size(), 400'000u);
}

TEST(LossChart, SeveralRunsAreNamedInTheLegend) {
  const std::string svg = loss_chart_svg({{"runs/a", run(10)}, {"runs/b", run(10)}});
  for (const char* text : {">a training<", ">b training<", ">a validation<", ">b validation<"}) {
    EXPECT_EQ(count(svg, text), 1u) << text;
  }
}

TEST(LossChart, DegenerateDataStillDraws) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const auto& points : std::vector<std::vector<std::pair<double, double>>>{{},
                                                                                {{1, 1}},
                                                                                {{1, nan}},
                                                                                {{0, 0}, {1, 0}},
                                                                                {{1, 1e300}, {2, -1e300}},
                                                                                {{1, 1e-300}, {2, 2e-300}}}) {
    const std::string svg = to_svg({"t", "x", "y", {{"s", points}}});
    EXPECT_EQ(svg.find("nan"), std::string::npos) << svg;
    EXPECT_EQ(svg.find("inf"), std::string::npos) << svg;
    EXPECT_NE(svg.find("</svg>"), std::string::npos);
  }
}

TEST(LossChart, SinkDrawsWhatTheRunFolderHolds) {
  char folder[] = "/tmp/furrow_chart_XXXXXX";
  const std::string path = ::mkdtemp(folder);
  LossChartSink sink(path);
  sink.end("finished");
  EXPECT_FALSE(path_exists(path + "/loss.svg"));  // nothing was logged
  MetricsLog log(path + "/metrics.jsonl", 0);
  for (const StepRecord& record : run(10)) log.append(record);
  sink.end("finished");
  EXPECT_EQ(read_file(path + "/loss.svg"), loss_chart_svg({{path, run(10)}}));
  remove_all(path);
}

}  // namespace
}  // namespace furrow::observe
