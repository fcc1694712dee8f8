#include "furrow/base/process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <string>

#include "furrow/base/log.h"

namespace furrow {
namespace {

TEST(Process, SaysWhatItRunsOn) {
  EXPECT_FALSE(host_name().empty());
  EXPECT_EQ(process_id(), ::getpid());
  EXPECT_FALSE(cpu_model().empty());
  EXPECT_FALSE(instruction_set().empty());
  EXPECT_GE(core_count(), 1);
  EXPECT_LE(core_count(), static_cast<int>(::sysconf(_SC_NPROCESSORS_CONF)));
  EXPECT_GT(total_memory_bytes(), uint64_t{1} << 28);
}

// A child on one core and this process on all of its own: together they have those of both, once.
TEST(Process, CoresOfSeveralProcessesAreCountedOnce) {
  const int64_t own = process_id();
  EXPECT_EQ(core_count_of(std::array{own}), core_count());
  EXPECT_EQ(core_count_of(std::array{own, own}), core_count());
  const pid_t pinned = ::fork();
  if (pinned == 0) {
    ::pause();
    ::_exit(0);
  }
  cpu_set_t all, first;
  CPU_ZERO(&first);
  ASSERT_EQ(::sched_getaffinity(0, sizeof(all), &all), 0);
  for (int core = 0; core < CPU_SETSIZE && CPU_COUNT(&first) == 0; ++core) {
    if (CPU_ISSET(core, &all)) CPU_SET(core, &first);
  }
  ASSERT_EQ(::sched_setaffinity(pinned, sizeof(first), &first), 0);
  EXPECT_EQ(core_count_of(std::array<int64_t, 1>{pinned}), 1);
  EXPECT_EQ(core_count_of(std::array<int64_t, 2>{pinned, own}), core_count());
  ::kill(pinned, SIGKILL);
  ::waitpid(pinned, nullptr, 0);
  EXPECT_EQ(core_count_of(std::array<int64_t, 1>{pinned}), 1) << "one that is gone counts nothing";
}

TEST(Process, ThreadsAreThoseThatLaunchersAskFor) {
  const auto with = [](const char* value) {
    ::setenv("OMP_NUM_THREADS", value, 1);
    const int threads = default_threads();
    ::unsetenv("OMP_NUM_THREADS");
    return threads;
  };
  EXPECT_EQ(with("3"), 3);
  EXPECT_EQ(with("4,2"), 4);
  std::string log;
  set_log_writer([&log](std::string_view line) { log += line; });
  EXPECT_EQ(with(""), core_count());
  EXPECT_EQ(log, "");
  for (const char* none : {"many", "0", "-1", "99999999999"}) EXPECT_EQ(with(none), core_count()) << none;
  set_log_writer({});
  EXPECT_THAT(log, ::testing::HasSubstr("OMP_NUM_THREADS=many is no number above 0"));
  EXPECT_EQ(std::ranges::count(log, '\n'), 1) << log;
  EXPECT_EQ(default_threads(), core_count());
}

TEST(Process, UserFilesFollowTheEnvironment) {
  const std::string home = ::getenv("HOME") == nullptr ? "" : ::getenv("HOME");
  const char* before = ::getenv("XDG_CONFIG_HOME");
  const std::string folder = before == nullptr ? "" : before;
  ::unsetenv("FURROW_TEST_FILE");
  ::unsetenv("XDG_CONFIG_HOME");
  EXPECT_EQ(user_file("FURROW_TEST_FILE", "notes"), home + "/.config/furrow/notes");
  ::setenv("XDG_CONFIG_HOME", "/elsewhere", 1);
  EXPECT_EQ(user_file("FURROW_TEST_FILE", "notes"), "/elsewhere/furrow/notes");
  ::setenv("FURROW_TEST_FILE", "/here/it/is", 1);
  EXPECT_EQ(user_file("FURROW_TEST_FILE", "notes"), "/here/it/is");
  ::unsetenv("FURROW_TEST_FILE");
  before == nullptr ? ::unsetenv("XDG_CONFIG_HOME") : ::setenv("XDG_CONFIG_HOME", folder.c_str(), 1);
}

TEST(Process, KnowsItsLibraries) {
  EXPECT_TRUE(library_is_mapped("libc.so") || library_is_mapped("ld-musl"));
  EXPECT_FALSE(library_is_mapped("libtorch"));
}

}  // namespace
}  // namespace furrow
