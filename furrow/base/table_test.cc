#include "furrow/base/table.h"

#include <gtest/gtest.h>

#include "furrow/base/error.h"

namespace furrow {
namespace {

Table sample() {
  Table table(
      {{.title = "run"}, {.title = "step time", .key = "step_time_ms", .decimals = 1}, {.title = "steps"}});
  table.add_row({"müller", 12.345, int64_t{100}});
  table.add_row({"b", std::monostate{}, int64_t{5}});
  return table;
}

TEST(Table, AlignsText) {
  EXPECT_EQ(sample().text(),
            "run     step time  steps\n"
            "müller       12.3    100\n"
            "b               -      5\n");
}

TEST(Table, SameRowsAsJson) {
  EXPECT_EQ(sample().print(/*as_json=*/true),
            "[\n  {\n    \"run\": \"müller\",\n    \"step_time_ms\": 12.345,\n    \"steps\": 100\n  },\n"
            "  {\n    \"run\": \"b\",\n    \"step_time_ms\": null,\n    \"steps\": 5\n  }\n]\n");
}

TEST(Table, BytesAreTextForPeopleAndANumberInJson) {
  Table table({{"memory", "", kAsBytes}});
  table.add_row({int64_t{1536}});
  EXPECT_EQ(table.text(), " memory\n1.5 KiB\n");
  EXPECT_NE(table.json().find("\"memory\": 1536"), std::string::npos);
}

TEST(Table, EmptyAndWrong) {
  Table table({{.title = "two words"}});
  EXPECT_EQ(table.text(), "two words\n");
  EXPECT_EQ(table.json(), "[]\n");
  EXPECT_THROW(table.add_row({}), Error);
  table.add_row({true});
  EXPECT_EQ(table.text(), "two words\nyes\n");
  EXPECT_NE(table.json().find("\"two_words\": true"), std::string::npos);
}

}  // namespace
}  // namespace furrow
