// Where rows end: against a reader that takes one byte after the other.
#include "furrow/data/csv_rows.h"

#include <gtest/gtest.h>

#include <random>

namespace furrow::data {
namespace {

// Behind the last whole row, and behind the first, by the states of RFC 4180 as Arrow has them.
std::pair<size_t, size_t> plain_ends(std::string_view text, char delimiter) {
  size_t last = 0, first = 0;
  bool quoted = false, at_start = true;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c != '"') continue;
      if (i + 1 < text.size() && text[i + 1] == '"') {
        ++i;
      } else {
        quoted = false;
      }
      continue;
    }
    if (c == '"' && at_start) {
      quoted = true;
      at_start = false;
      continue;
    }
    const bool lone = c == '\r' && i + 1 < text.size() && text[i + 1] != '\n';
    if (c == '\n' || lone) {
      last = i + 1;
      if (first == 0) first = last;
    }
    at_start = c == delimiter || c == '\n' || c == '\r';
  }
  return {last, first};
}

TEST(CsvRows, EndsAreThoseOfAReaderOfSingleBytes) {
  std::mt19937 random(5);
  constexpr std::string_view kBytes = "ab,,\"\"\"\n\r\n";
  size_t cuts = 0;
  for (int round = 0; round < 200'000; ++round) {
    std::string text;
    for (size_t i = random() % 24; i > 0; --i) text += kBytes[random() % kBytes.size()];
    const auto [last, first] = plain_ends(text, ',');
    ASSERT_EQ(whole_rows(text, ','), last) << ::testing::PrintToString(text);
    ASSERT_EQ(first_row(text, ','), first) << ::testing::PrintToString(text);
    cuts += last > 0 && last < text.size();
  }
  EXPECT_GT(cuts, 50'000u);
}

TEST(CsvRows, QuotesHoldLineEnds) {
  EXPECT_EQ(whole_rows("1,\"a\nb\"\n2,\"c\n", ','), 8u);
  EXPECT_EQ(whole_rows("1,a\"\nb\"\n", ','), 8u) << "no quote inside of a value opens one";
  EXPECT_EQ(whole_rows("1,\"say \"\"x\n\"\"\"\n2", ','), 15u);
  EXPECT_EQ(whole_rows("1;\"a\nb\"\n", ','), 8u) << "of another delimiter";
  EXPECT_EQ(whole_rows("1\r2\r", ','), 2u) << "the LF may be behind";
  EXPECT_EQ(whole_rows("", ','), 0u);
}

TEST(CsvRows, NamesMayBeQuoted) {
  EXPECT_EQ(names_of_line("a,\"b, \"\"c\"\"\",,d", ','),
            (std::vector<std::string>{"a", "b, \"c\"", "", "d"}));
}

}  // namespace
}  // namespace furrow::data
