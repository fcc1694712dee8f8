#include "furrow/base/base64.h"

#include <gtest/gtest.h>

namespace furrow {
namespace {

TEST(Base64, TheExamplesOfTheRfc) {
  const std::pair<std::string, std::string> examples[] = {
      {"", ""}, {"f", "Zg=="}, {"fo", "Zm8="}, {"foo", "Zm9v"}, {"foobar", "Zm9vYmFy"}, {"\xff\xfe", "//4="}};
  for (const auto& [bytes, text] : examples) {
    EXPECT_EQ(to_base64(bytes), text);
    EXPECT_EQ(from_base64(text), bytes);
  }
}

TEST(Base64, WhatIsNoneIsRefused) {
  for (const char* text : {"Zg=", "Zg", "Z===", "Zm9v!AAA", "Zg==Zg=="})
    EXPECT_EQ(from_base64(text), std::nullopt);
}

}  // namespace
}  // namespace furrow
