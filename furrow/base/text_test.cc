#include "furrow/base/text.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "furrow/base/error.h"

namespace furrow {
namespace {

TEST(Format, DoublesAreShortestAndReadBack) {
  EXPECT_EQ(format_double(0.1), "0.1");
  EXPECT_EQ(format_double(0.1f), "0.1");
  EXPECT_EQ(format_double(static_cast<double>(0.1f)), "0.10000000149011612");
  EXPECT_EQ(format_double(NAN), "nan");
  EXPECT_EQ(format_double(-std::numeric_limits<double>::infinity()), "-inf");
  for (const double value : {1e300, 1.0 / 3, 5e-324, 123456789.0}) {
    double back = 0;
    ASSERT_TRUE(parse_double(format_double(value), back));
    EXPECT_EQ(back, value);
  }
}

TEST(Format, ForPeople) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(1536), "1.5 KiB");
  EXPECT_EQ(format_bytes((uint64_t{1} << 20) - 1), "1.0 MiB");
  EXPECT_EQ(format_bytes(uint64_t{3435973837}), "3.2 GiB");
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(999), "999");
  EXPECT_EQ(format_count(1234567), "1,234,567");
  EXPECT_EQ(format_count(-123456), "-123,456");
  EXPECT_EQ(format_fixed(3.14159, 3), "3.142");
  EXPECT_EQ(format_seconds(0.00085), "850 us");
  EXPECT_EQ(format_seconds(0.0123), "12.3 ms");
  EXPECT_EQ(format_seconds(4.56), "4.56 s");
  EXPECT_EQ(format_seconds(200), "3 m 20 s");
  EXPECT_EQ(format_seconds(7500), "2 h 05 m");
}

TEST(Parse, TakesTheWholeTextOrNothing) {
  double real = 0;
  int64_t integer = 0;
  EXPECT_TRUE(parse_double("+1e-3", real));
  EXPECT_EQ(real, 1e-3);
  EXPECT_FALSE(parse_double("1x", real));
  EXPECT_FALSE(parse_double("", real));
  EXPECT_TRUE(parse_int("-12", integer));
  EXPECT_EQ(integer, -12);
  EXPECT_FALSE(parse_int("1.5", integer));
  EXPECT_FALSE(parse_int("99999999999999999999", integer));
}

TEST(Text, BytesHaveUnits) {
  const std::pair<const char*, uint64_t> good[] = {{"0", 0},
                                                   {"65536", 65536},
                                                   {"12B", 12},
                                                   {"256MiB", 256u << 20},
                                                   {"1.5 GB", 1500000000},
                                                   {"2KiB", 2048},
                                                   {"3 kB", 3000},
                                                   {"1TiB", 1ull << 40},
                                                   {"0.5GiB", 1u << 29},
                                                   {"1TB", 1000000000000},
                                                   {"1e3 MB", 1000000000}};
  for (const auto& [text, expected] : good) {
    uint64_t bytes = 1;
    EXPECT_TRUE(parse_bytes(text, bytes)) << text;
    EXPECT_EQ(bytes, expected) << text;
  }
  for (const char* text :
       {"", "MiB", "-1", "-1MiB", "1 mib", "12 MiB x", "nan", "inf", "99999999TB", "1MiBB"}) {
    uint64_t bytes = 7;
    EXPECT_FALSE(parse_bytes(text, bytes)) << text;
    EXPECT_EQ(bytes, 7u);
  }
}

TEST(Text, SplitsJoinsTrimsAndMatches) {
  EXPECT_EQ(split("a,,b", ','), (std::vector<std::string>{"a", "", "b"}));
  EXPECT_EQ(split("", ','), (std::vector<std::string>{""}));
  EXPECT_EQ(join({"a", "b"}, ", "), "a, b");
  EXPECT_EQ(trim(" \ta b\n"), "a b");
  EXPECT_EQ(trim(" \n"), "");
  EXPECT_TRUE(glob_match("block*", "block12"));
  EXPECT_TRUE(glob_match("*.w?", "fc1.w2"));
  EXPECT_TRUE(glob_match("a*b*c", "aXbbYc"));
  EXPECT_FALSE(glob_match("a*b*c", "aXbbY"));
  EXPECT_FALSE(glob_match("", "x"));
  EXPECT_TRUE(glob_match("**", ""));
}

TEST(Json, QuotesEveryByteSequence) {
  EXPECT_TRUE(is_utf8("Grüße \xF0\x9F\x8C\xBE"));
  EXPECT_EQ(json_quote("a\"b\\c\n\x01"), "\"a\\\"b\\\\c\\n\\u0001\"");
  EXPECT_EQ(json_quote("Grüße \xF0\x9F\x8C\xBE"), "\"Grüße \xF0\x9F\x8C\xBE\"");
  for (const char* bad : {"\xFF", "\xC0\x80", "\xED\xA0\x80", "\xF5\x80\x80\x80", "\xE2\x82"}) {
    EXPECT_EQ(json_quote(bad).find(bad), std::string::npos);
    EXPECT_NE(json_quote(bad).find("\xEF\xBF\xBD"), std::string::npos);
    EXPECT_FALSE(is_utf8(bad));
  }
}

TEST(Json, WritesNestedValues) {
  JsonWriter json;
  json.begin_object().field("step", 3).field("loss", 0.5).field("name", "x").field("ok", true);
  json.key("dims").begin_array().value(1).value(int64_t{-2}).begin_array().end_array().end_array();
  json.field("bad", std::nan("")).field("f", 0.1f).key("none").null().key("sub").begin_object().end_object();
  json.end_object();
  EXPECT_EQ(
      json.text(),
      R"({"step":3,"loss":0.5,"name":"x","ok":true,"dims":[1,-2,[]],"bad":null,"f":0.1,"none":null,"sub":{}})");
}

TEST(Json, Indents) {
  JsonWriter json(2);
  json.begin_object().key("a").begin_array().value(1).value(2).end_array().field("b", "c").end_object();
  EXPECT_EQ(json.text(), "{\n  \"a\": [\n    1,\n    2\n  ],\n  \"b\": \"c\"\n}");
}

TEST(Json, WrongNestingIsCaught) {
  EXPECT_THROW(JsonWriter().begin_object().value(1), Error);
  EXPECT_THROW(JsonWriter().begin_array().key("x"), Error);
  EXPECT_THROW(JsonWriter().begin_array().end_object(), Error);
  EXPECT_THROW(JsonWriter().value(1).value(2), Error);
  JsonWriter open;
  open.begin_array();
  EXPECT_THROW(open.text(), Error);
}

}  // namespace
}  // namespace furrow
