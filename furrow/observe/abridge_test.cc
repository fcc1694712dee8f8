#include "furrow/observe/abridge.h"

#include <gtest/gtest.h>

#include <string>

namespace furrow::observe {
namespace {

TEST(Abridge, OfTooManyEventsTheFirstAndTheLastStay) {
  std::vector<TraceEvent> events;
  for (int i = 0; i < 10; ++i) {
    TraceEvent event;
    event.name = std::to_string(9 - i);
    event.start_ns = 100 * (9 - i);
    event.duration_ns = 50;
    events.push_back(event);
  }
  EXPECT_EQ(abridged(events, 10).front().name, "9");  // as they were
  const std::vector<TraceEvent> few = abridged(events, 5);
  ASSERT_EQ(few.size(), 5u);
  const std::vector<std::string> names = {"0", "1", "6 events", "8", "9"};
  for (size_t i = 0; i < few.size(); ++i) EXPECT_EQ(few[i].name, names[i]);
  EXPECT_EQ(few[2].stream, "left out");
  EXPECT_EQ(few[2].start_ns, 200);
  EXPECT_EQ(few[2].duration_ns, 600);
}

}  // namespace
}  // namespace furrow::observe
