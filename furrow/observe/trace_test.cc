#include "furrow/observe/trace.h"

#include <gtest/gtest.h>

#include "furrow/observe/json.h"

namespace furrow::observe {
namespace {

TEST(Trace, CompleteEventsInMicrosecondsOneLanePerStream) {
  const TraceEvent events[] = {
      {"forward conv1", "forward", "compute", 5'001'500, 2'000, {{"microbatch", "0"}}},
      {"load", "load", "loader", 5'000'000, 1'000, {}},
      {"step \"fc1\"", "step", "compute", 5'010'000, 500, {}},
  };
  const JsonValue json = parse_json(to_chrome_trace(events, "furrow"));
  const auto& list = std::get<JsonValue::Array>(json.find("traceEvents")->value);
  ASSERT_EQ(list.size(), 6u);  // the process, two lanes, three events
  EXPECT_EQ(*list[1].find("args")->find("name")->text(), "compute");
  EXPECT_EQ(*list[2].find("args")->find("name")->text(), "loader");
  EXPECT_EQ(*list[3].find("ph")->text(), "X");
  EXPECT_EQ(list[3].find("ts")->number(), 1.5);
  EXPECT_EQ(list[3].find("dur")->number(), 2);
  EXPECT_EQ(*list[3].find("args")->find("microbatch")->text(), "0");
  EXPECT_EQ(list[4].find("ts")->number(), 0);
  EXPECT_EQ(list[4].find("tid")->integer(), 1);
  EXPECT_EQ(*list[5].find("name")->text(), "step \"fc1\"");
}

TEST(Trace, WithoutEventsIsStillATrace) {
  EXPECT_NE(parse_json(to_chrome_trace({}, "furrow")).find("traceEvents"), nullptr);
}

}  // namespace
}  // namespace furrow::observe
