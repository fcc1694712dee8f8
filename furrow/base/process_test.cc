#include "furrow/base/process.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

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

TEST(Process, ThreadsAreThoseThatLaunchersAskFor) {
  const auto with = [](const char* value) {
    ::setenv("OMP_NUM_THREADS", value, 1);
    const int threads = default_threads();
    ::unsetenv("OMP_NUM_THREADS");
    return threads;
  };
  EXPECT_EQ(with("3"), 3);
  EXPECT_EQ(with("4,2"), 4);
  for (const char* none : {"", "0", "-1", "many", "99999999999"}) EXPECT_EQ(with(none), core_count()) << none;
  EXPECT_EQ(default_threads(), core_count());
}

TEST(Process, KnowsItsLibraries) {
  EXPECT_TRUE(library_is_mapped("libc.so") || library_is_mapped("ld-musl"));
  EXPECT_FALSE(library_is_mapped("libtorch"));
}

}  // namespace
}  // namespace furrow
