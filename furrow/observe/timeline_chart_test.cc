#include "furrow/observe/timeline_chart.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace furrow::observe {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

size_t count(const std::string& text, const std::string& what) {
  size_t found = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++found;
  return found;
}

TEST(TimelineChart, HasALaneForEachStreamAndABoxForEachEvent) {
  const std::vector<TraceEvent> events = {
      {"forward a<b", "forward", "compute", 1'000'000, 3'000'000, {}},
      {"forward a<b", "forward", "predicted compute", 1'000'000, 2'000'000, {}},
      {"step a", "step", "compute", 4'000'000, 1'000'000, {}}};
  const TimelineChart chart{"a step", events, {}};
  const std::string svg = to_svg(chart);
  EXPECT_THAT(svg, HasSubstr("forward a&lt;b, 3000.0 us"));
  EXPECT_THAT(svg, HasSubstr(">predicted compute</text>"));
  EXPECT_THAT(svg, HasSubstr(">4.00 ms</text>"));
  EXPECT_THAT(svg, Not(HasSubstr("planned memory")));
  EXPECT_EQ(count(svg, "<title>"), events.size() + 2);  // and two operations in the legend
  EXPECT_EQ(svg, to_svg(chart));
}

TEST(TimelineChart, StacksMemoryByKind) {
  const std::vector<TraceEvent> events = {{"forward a", "forward", "compute", 0, 4'000'000, {}}};
  TimelineChart chart{"a step", events, {}};
  MemoryMoment moment;
  moment.bytes[static_cast<size_t>(MemoryKind::kParameters)] = 1024;
  chart.memory.push_back(moment);
  moment.time_ns = 2'000'000;
  moment.bytes[static_cast<size_t>(MemoryKind::kActivations)] = 3072;
  chart.memory.push_back(moment);
  const std::string svg = to_svg(chart);
  EXPECT_EQ(count(svg, "<title>parameters 1.0 KiB"), 2u);
  EXPECT_EQ(count(svg, "<title>activations 3.0 KiB"), 1u);
  EXPECT_THAT(svg, HasSubstr("height=\"112.5\""));  // three quarters of 150
  EXPECT_THAT(svg, HasSubstr(">4.0 KiB</text>"));
}

TEST(TimelineChart, OfVeryManyEventsHasTheLongestOfAPixel) {
  std::vector<TraceEvent> events;
  for (int i = 0; i < 100'000; ++i)
    events.push_back(
        {i % 100 == 7 ? "longer" : "short", "forward", "compute", i * 1000, i % 100 == 7 ? 900 : 10, {}});
  events.push_back({"wide", "step", "compute", 100'000'000, 50'000'000, {}});
  TimelineChart chart{"a step", events, {}};
  chart.memory.resize(100'000);
  for (size_t i = 0; i < chart.memory.size(); ++i) {
    chart.memory[i].time_ns = static_cast<int64_t>(i) * 1000;
    chart.memory[i].bytes[static_cast<size_t>(MemoryKind::kParameters)] = i % 100 == 50 ? 2048 : 1024;
  }
  const std::string svg = to_svg(chart);
  EXPECT_LT(svg.size(), size_t{1} << 20);
  EXPECT_EQ(count(svg, "<title>wide"), 1u);
  EXPECT_GT(count(svg, "<title>longer"), 600u);
  EXPECT_LT(count(svg, "<title>short"), 10u);
  EXPECT_GT(count(svg, "<title>parameters 2.0 KiB"), 600u);
  EXPECT_LT(count(svg, "<title>parameters 1.0 KiB"), 10u);
}

TEST(TimelineChart, OfNothingIsEmpty) { EXPECT_THAT(to_svg({"nothing", {}, {}}), HasSubstr("</svg>")); }

}  // namespace
}  // namespace furrow::observe
