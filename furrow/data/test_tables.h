// For tests: how a table is opened, and what is said of one that is refused.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "furrow/base/error.h"
#include "furrow/data/dataset.h"

namespace furrow::data::testing {

inline DatasetOptions table_options(const std::filesystem::path& path, const std::string& target) {
  DatasetOptions options{.kind = "table", .path = path, .seed = 3};
  options.table_rules.target = target;
  options.table_rules.missing = {"?"};
  return options;
}

// One line, of an error with that code; "no error".
template <class Function>
std::string message_of(const Function& function, ErrorCode code = ErrorCode::kInvalidArgument) {
  try {
    function();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    return error.what();
  }
  return "no error";
}

// Of opening a table, with its test split.
inline std::string message_of(const DatasetOptions& options, ErrorCode code = ErrorCode::kInvalidArgument) {
  return message_of(
      [&] {
        const Dataset dataset = open_dataset(options);
        if (dataset.test) dataset.test->size();
      },
      code);
}

}  // namespace furrow::data::testing
