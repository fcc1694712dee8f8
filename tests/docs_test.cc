// Documents that restate code say what the code says.  FURROW_UPDATE_DOCS=1 (./dev docs) rewrites the
// generated ones.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "furrow/base/error.h"
#include "furrow/config/help.h"
#include "tests/testing/fuzz_replay.h"

namespace furrow {
namespace {

std::string read(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in) << "no file " << path;
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

TEST(Docs, ConfigReferenceIsCurrent) {
  const std::filesystem::path path = testing::source_root() / "docs/config.md";
  const std::string expected = config::reference_markdown();
  if (std::getenv("FURROW_UPDATE_DOCS") != nullptr) std::ofstream(path, std::ios::binary) << expected;
  EXPECT_TRUE(read(path) == expected) << "docs/config.md is stale: run ./dev docs";
}

TEST(Docs, ErrorsNamesEveryCodeWithItsExitStatus) {
  const std::string page = read(testing::source_root() / "docs/errors.md");
  for (int i = 0; i <= static_cast<int>(ErrorCode::kInternal); ++i) {
    const auto code = static_cast<ErrorCode>(i);
    const std::string row =
        "| " + std::to_string(exit_status(code)) + " | `" + std::string(to_string(code)) + "` |";
    EXPECT_NE(page.find(row), std::string::npos) << "docs/errors.md has no row that starts: " << row;
  }
}

}  // namespace
}  // namespace furrow
