// Numbers and dates as people write them.
#include "furrow/data/text_shape.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace furrow::data {
namespace {

double number(std::string_view text, char decimal) {
  double value = std::nan("");
  return finite_number(text, decimal, value) ? value : std::nan("");
}

double days(std::string_view text) {
  double value = std::nan("");
  return days_of(text, value) ? value : std::nan("");
}

TEST(TextShape, NumbersHaveOneSignBeforeTheirDecimals) {
  EXPECT_EQ(number("3.14", '.'), 3.14);
  EXPECT_EQ(number("-3,14e2", ','), -314);
  EXPECT_EQ(number("12", ','), 12);
  for (const char* none : {"3,14", "", "x", "inf", "nan", "1e999"})
    EXPECT_TRUE(std::isnan(number(none, '.'))) << none;
  for (const char* none : {"3.14", "1.234,5", "3,1,4", "inf"})
    EXPECT_TRUE(std::isnan(number(none, ','))) << none;
}

// Days as Python's datetime has them: (datetime(...) - datetime(1970, 1, 1)) / timedelta(days=1).
TEST(TextShape, DatesAreDaysSince1970) {
  EXPECT_EQ(days("1970-01-01"), 0);
  EXPECT_EQ(days("1969-12-31"), -1);
  EXPECT_EQ(days("2024-02-29"), 19782);
  EXPECT_EQ(days("0001-01-01"), -719162);
  EXPECT_EQ(days("9999-12-31"), 2932896);
  EXPECT_EQ(days("2024-02-29T12:00"), 19782.5);
  EXPECT_EQ(days("2024-02-29 18:00:00"), 19782.75);
  EXPECT_EQ(days("2024-02-29T00:00:00.5Z"), (19782 * 86400.0 + 0.5) / 86400);
  EXPECT_EQ(days("2024-03-01T01:00+01"), 19783);
  EXPECT_EQ(days("2024-02-29T18:30:00-0530"), 19783);
  EXPECT_EQ(days("2024-03-01T05:45:00+05:45"), 19783);
  for (const char* none :
       {"", "2024", "2024-02", "2023-02-29", "2024-13-01", "2024-00-10", "2024-1-1", "0000-01-01",
        "2024-02-29x", "2024-02-29T", "2024-02-29T24:00", "2024-02-29T12:60", "2024-02-29T12:00:60",
        "2024-02-29T12:00:00.", "2024-02-29T12:00+", "2024-02-29T12:00+1", "20240229", "2024-02-29  12:00"})
    EXPECT_TRUE(std::isnan(days(none))) << none;
}

TEST(TextShape, TellsWhatTextsLookLike) {
  const auto all = [](TextShape want, char decimal, std::initializer_list<const char*> texts) {
    for (const char* text : texts) EXPECT_EQ(shape_of(text, decimal), want) << text;
  };
  all(TextShape::kDate, '.', {"2024-02-29", "2024-02-29T12:30:00Z"});
  all(TextShape::kLocalDate, '.',
      {"31.12.2024", "12/31/2024", "1/2/24", "2024/12/31", "31-12-2024", "31.12.2024 12:30"});
  all(TextShape::kTimeOfDay, '.', {"12:30", "23:59:59.5"});
  all(TextShape::kDecimals, '.', {"3,14", "-0,5", "1234,567", "0,125", "+3,1"});
  all(TextShape::kEither, '.', {"1,234", "-12,345"});
  all(TextShape::kGroups, '.', {"1.234,56", "1,234,567", "1'000", "1 000 000", "1\u202f000,5", "1.234.567"});
  all(TextShape::kUnit, '.', {"$3.20", "15 %", "1,5 \u20ac", "-$1,000", "99%"});
  all(TextShape::kDecimals, ',', {"3.14"});
  all(TextShape::kGroups, ',', {"1,234.56"});
  all(TextShape::kEither, ',', {"1.234"});
  all(TextShape::kOther, '.',
      {"", "clerk", "192.168.0.1", "1,2,3", "x3,14", "3,14x", ",5", "5,", "%", "$", "A-12", "45/90/2024",
       "1.2.3", "25:00", "room 12", "12345,678,901"});
}

TEST(TextShape, EveryShapeHasARemedy) {
  EXPECT_EQ(remedy_of(TextShape::kOther, '.'), "");
  EXPECT_EQ(remedy_of(TextShape::kDecimals, '.'), "a number with a decimal comma: set data.decimal = \",\"");
  EXPECT_EQ(remedy_of(TextShape::kDecimals, ','), "a number with a decimal point: set data.decimal = \".\"");
  for (int shape = 1; shape <= static_cast<int>(TextShape::kUnit); ++shape)
    EXPECT_NE(remedy_of(static_cast<TextShape>(shape), '.'), "") << shape;
}

}  // namespace
}  // namespace furrow::data
