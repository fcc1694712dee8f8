#include "furrow/comm/awake.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <optional>

#include "furrow/base/clock.h"

namespace furrow::comm {
namespace {

constexpr int64_t kMs = 1'000'000;

int64_t now_ns() { return system_clock().monotonic_ns(); }

// Milliseconds that a child which is stopped for `stop_ms` finds missing, if somebody in it is wakeful.
int64_t missing_ms(int64_t stop_ms, bool wakeful) {
  int pipe_ends[2];
  EXPECT_EQ(::pipe(pipe_ends), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    std::optional<Wakeful> awake;
    if (wakeful) awake.emplace();
    const int64_t begin = now_ns(), awake_begin = awake_ns();
    (void)!::write(pipe_ends[1], "", 1);
    while (now_ns() - begin < (stop_ms + 200) * kMs) {
      awake_ns();
      ::usleep(10'000);
    }
    const int64_t missing = (now_ns() - begin) - (awake_ns() - awake_begin);
    (void)!::write(pipe_ends[1], &missing, sizeof missing);
    ::_exit(0);
  }
  char begun = 0;
  int64_t missing = -1;
  EXPECT_EQ(::read(pipe_ends[0], &begun, 1), 1);
  ::kill(child, SIGSTOP);
  ::usleep(static_cast<useconds_t>(stop_ms * 1000));
  ::kill(child, SIGCONT);
  EXPECT_EQ(::read(pipe_ends[0], &missing, sizeof missing), static_cast<ssize_t>(sizeof missing));
  ::waitpid(child, nullptr, 0);
  ::close(pipe_ends[0]);
  ::close(pipe_ends[1]);
  return missing / kMs;
}

TEST(Awake, LeavesOutWhatTheProcessWasStoppedFor) {
  EXPECT_GE(missing_ms(1500, true), 1400);
  EXPECT_GE(missing_ms(800, true), 700) << "less than the shortest time-out";
  EXPECT_LT(missing_ms(1500, false), 100) << "nobody is there to tell a stop from silence";
}

TEST(Awake, NeverGoesBack) {
  const Wakeful wakeful;
  int64_t before = awake_ns();
  for (int i = 0; i < 1000; ++i) {
    const int64_t now = awake_ns();
    EXPECT_GE(now, before);
    before = now;
  }
  EXPECT_LE(before + stopped_ns(), now_ns());
}

}  // namespace
}  // namespace furrow::comm
