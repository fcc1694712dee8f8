#include "furrow/base/error.h"

#include <gtest/gtest.h>

#include <set>

namespace furrow {
namespace {

TEST(Error, ContextsReadOutermostFirst) {
  const Error inner(ErrorCode::kDataLoss, "checksum differs");
  const Error outer = inner.with_context("piece 3").with_context("loading checkpoint x");
  EXPECT_STREQ(outer.what(), "loading checkpoint x: piece 3: checksum differs");
  EXPECT_EQ(outer.code(), ErrorCode::kDataLoss);
  EXPECT_EQ(outer.message(), "checksum differs");
  EXPECT_EQ(outer.contexts(), (std::vector<std::string>{"loading checkpoint x", "piece 3"}));
  EXPECT_STREQ(inner.what(), "checksum differs");
}

TEST(Error, EveryCodeHasItsOwnNameAndExitStatus) {
  std::set<std::string_view> names;
  std::set<int> statuses;
  for (int code = 0; code <= static_cast<int>(ErrorCode::kInternal); ++code) {
    names.insert(to_string(static_cast<ErrorCode>(code)));
    statuses.insert(exit_status(static_cast<ErrorCode>(code)));
  }
  EXPECT_EQ(names.size(), 13u);
  EXPECT_EQ(statuses.size(), 13u);
  EXPECT_EQ(exit_status(ErrorCode::kInvalidArgument), 2);
  EXPECT_EQ(*statuses.begin(), 2);
}

TEST(Check, NamesPlaceExpressionAndDetail) {
  EXPECT_NO_THROW(FURROW_CHECK(1 + 1 == 2));
  try {
    FURROW_CHECK(1 + 1 == 3, "arithmetic");
    FAIL() << "the check passed";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInternal);
    const std::string text = error.what();
    EXPECT_NE(text.find("error_test.cc:"), std::string::npos);
    EXPECT_NE(text.find("1 + 1 == 3: arithmetic"), std::string::npos);
  }
}

}  // namespace
}  // namespace furrow
