#include "furrow/observe/run_lock.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <optional>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "tests/testing/child.h"

namespace furrow::observe {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

int no_locks(int /*descriptor*/, int16_t /*type*/) { return ENOLCK; }
int not_known(int /*descriptor*/, int16_t /*type*/) { return ENOSYS; }
int broken(int /*descriptor*/, int16_t /*type*/) { return EIO; }

class RunLocks : public ::testing::TestWithParam<FileLock> {
 protected:
  const std::string& folder() const { return folder_.path(); }
  std::string owner() const { return folder() + "/.owner"; }
  RunLock take() const { return RunLock(folder(), GetParam()); }
  bool has_locks() const { return GetParam() == &lock_whole_file; }

  // A process that has the lock when this returns, until it is killed.
  pid_t holder() const {
    int told[2];
    if (::pipe(told) != 0) return -1;
    const pid_t pid = ::fork();
    if (pid == 0) {
      const RunLock lock = take();
      [[maybe_unused]] const ssize_t written = ::write(told[1], "x", 1);
      ::pause();
      ::_exit(0);
    }
    char byte = 0;
    EXPECT_EQ(::read(told[0], &byte, 1), 1);
    ::close(told[0]);
    ::close(told[1]);
    return pid;
  }
  static void kill_and_wait(pid_t pid) {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
  }

  testing::TemporaryFolder folder_;
};

TEST_P(RunLocks, OneWriterAtATime) {
  {
    const RunLock lock = take();
    EXPECT_EQ(path_exists(owner()), !has_locks());
    EXPECT_TRUE(RunLock::is_held(folder()));
    EXPECT_THAT([&] { take(); },
                ThrowsMessage<Error>(HasSubstr("another process is writing the run " + folder())));
    EXPECT_TRUE(RunLock::is_held(folder())) << "whoever was refused took nothing along";
  }
  EXPECT_FALSE(RunLock::is_held(folder()));
  EXPECT_FALSE(path_exists(owner()));
  take();
}

TEST_P(RunLocks, ItDiesWithItsProcess) {
  const pid_t pid = holder();
  EXPECT_TRUE(RunLock::is_held(folder()));
  EXPECT_THAT([&] { take(); }, ThrowsMessage<Error>(HasSubstr("another process is writing the run")));
  kill_and_wait(pid);
  EXPECT_EQ(path_exists(owner()), !has_locks());
  EXPECT_FALSE(RunLock::is_held(folder()));
  take();
}

TEST_P(RunLocks, ItMovesWithItsObject) {
  std::optional<RunLock> first(take());
  const RunLock second(std::move(*first));
  first.reset();
  EXPECT_TRUE(RunLock::is_held(folder()));
}

INSTANTIATE_TEST_SUITE_P(FileSystems, RunLocks, ::testing::Values(&lock_whole_file, &no_locks, &not_known));

TEST(RunLockWithoutLocks, WhatAnotherHostLeftIsAPersonsToJudge) {
  const testing::TemporaryFolder folder;
  const std::string owner = folder.path() + "/.owner";
  for (const char* text : {"host far\nboot 1\nnetwork 2\npid 3\n", ""}) {
    write_file_atomic(owner, std::string_view(text));
    EXPECT_THAT([&] { RunLock(folder.path(), &no_locks); },
                ThrowsMessage<Error>(AllOf(
                    HasSubstr(*text == '\0' ? "an unknown process" : "host far, boot 1, network 2, pid 3"),
                    HasSubstr("has no locks (No locks available)"), HasSubstr("remove " + owner))));
    EXPECT_EQ(read_file(owner), text);
    EXPECT_TRUE(RunLock::is_held(folder.path()));
  }
  std::filesystem::remove(owner);
  RunLock(folder.path(), &no_locks);
}

TEST(RunLockWithoutLocks, OtherErrorsAreTold) {
  const testing::TemporaryFolder folder;
  EXPECT_THAT([&] { RunLock(folder.path(), &broken); },
              ThrowsMessage<Error>(HasSubstr("cannot lock " + folder.path() + "/.lock")));
  EXPECT_FALSE(path_exists(folder.path() + "/.owner"));
}

}  // namespace
}  // namespace furrow::observe
