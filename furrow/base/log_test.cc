#include "furrow/base/log.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

namespace furrow {
namespace {

class Log : public ::testing::Test {
 protected:
  Log() {
    set_log_writer([this](std::string_view line) { lines.emplace_back(line); });
  }
  ~Log() override {
    set_log_writer({});
    set_log_level(LogLevel::kInfo);
  }
  std::vector<std::string> lines;
};

TEST_F(Log, PrefixesAndFiltersByLevel) {
  set_log_level(LogLevel::kInfo);
  log(LogLevel::kDebug, "hidden");
  log_info("shown");
  log_warning("careful");
  log(LogLevel::kError, "bad");
  EXPECT_EQ(lines, (std::vector<std::string>{"shown\n", "warning: careful\n", "error: bad\n"}));
  set_log_level(LogLevel::kError);
  log_warning("hidden");
  EXPECT_EQ(lines.size(), 3u);
}

TEST_F(Log, LinesOfThreadsDoNotMix) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      for (int i = 0; i < 100; ++i) log_info(std::string(20, static_cast<char>('a' + t)));
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(lines.size(), 400u);
  for (const std::string& line : lines) {
    EXPECT_EQ(std::count(line.begin(), line.end(), line[0]), 20);
  }
}

TEST(LogToStderr, WritesTheLine) {
  set_log_writer({});
  ::testing::internal::CaptureStderr();
  log_warning("to the terminal");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "warning: to the terminal\n");
}

}  // namespace
}  // namespace furrow
