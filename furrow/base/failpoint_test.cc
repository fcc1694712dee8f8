#include "furrow/base/failpoint.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "furrow/base/error.h"

namespace furrow {
namespace {

class Failpoint : public ::testing::Test {
 protected:
  ~Failpoint() override { arm_failpoints(""); }
};

void pass() { FURROW_FAILPOINT("test.here"); }

ErrorCode code_of_pass() {
  try {
    pass();
  } catch (const Error& error) {
    return error.code();
  }
  return ErrorCode::kCancelled;  // stands for "no error"
}

TEST_F(Failpoint, UnarmedDoesNothing) {
  pass();
  arm_failpoints("test.elsewhere=error");
  pass();
}

TEST_F(Failpoint, ErrorsAsNamed) {
  arm_failpoints("test.here=error,other=kill");
  EXPECT_EQ(code_of_pass(), ErrorCode::kInternal);
  arm_failpoints("test.here=enospc");
  EXPECT_EQ(code_of_pass(), ErrorCode::kResourceExhausted);
  arm_failpoints("test.here=delay:0");
  EXPECT_EQ(code_of_pass(), ErrorCode::kCancelled);
}

TEST_F(Failpoint, FiresFromTheNthPassOn) {
  arm_failpoints("test.here=error@3");
  EXPECT_NO_THROW(pass());
  EXPECT_NO_THROW(pass());
  EXPECT_THROW(pass(), Error);
  EXPECT_THROW(pass(), Error);
}

TEST_F(Failpoint, KillsTheProcess) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    arm_failpoints("test.here=kill");
    pass();
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGKILL);
}

TEST_F(Failpoint, MalformedListIsRefused) {
  for (const char* list :
       {"test.here", "=kill", "test.here=explode", "test.here=error@x", "a=delay:", "a=kill@-1"}) {
    EXPECT_THROW(arm_failpoints(list), Error) << list;
  }
}

}  // namespace
}  // namespace furrow
