#include "furrow/base/file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <functional>

#include "furrow/base/failpoint.h"

namespace furrow {
namespace {

namespace fs = std::filesystem;

class File : public ::testing::Test {
 protected:
  File() {
    std::string pattern = ::testing::TempDir() + "furrow_file_XXXXXX";
    folder = ::mkdtemp(pattern.data());
  }
  ~File() override {
    arm_failpoints("");
    remove_all(folder);
  }
  size_t entries() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
  }
  std::string folder;
};

ErrorCode code_of(const std::function<void()>& act, std::string* text = nullptr) {
  try {
    act();
  } catch (const Error& error) {
    if (text != nullptr) *text = error.what();
    return error.code();
  }
  ADD_FAILURE() << "no error";
  return ErrorCode::kInternal;
}

TEST_F(File, WritesReadsAndReplaces) {
  const std::string path = folder + "/a.txt";
  write_file_atomic(path, "one");
  EXPECT_EQ(read_file(path), "one");
  write_file_atomic(path, std::string("t\0wo", 4));
  EXPECT_EQ(read_file(path), std::string("t\0wo", 4));
  write_file_atomic(path, "");
  EXPECT_EQ(read_file(path), "");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(File, ErrorsNamePathAndReason) {
  std::string text;
  EXPECT_EQ(code_of([&] { read_file(folder + "/none"); }, &text), ErrorCode::kNotFound);
  EXPECT_NE(text.find(folder + "/none: No such file or directory"), std::string::npos) << text;
  EXPECT_EQ(code_of([&] { write_file_atomic(folder + "/no/such", "x"); }), ErrorCode::kNotFound);
  EXPECT_EQ(code_of([&] { read_file(folder); }), ErrorCode::kInvalidArgument);
  write_file_atomic(folder + "/big", "12345");
  EXPECT_EQ(code_of([&] { read_file(folder + "/big", 4); }), ErrorCode::kInvalidArgument);
  EXPECT_EQ(read_file(folder + "/big", 5), "12345");
  EXPECT_EQ(errno_error(ENOSPC, "write", "x").code(), ErrorCode::kResourceExhausted);
  EXPECT_EQ(errno_error(EROFS, "write", "x").code(), ErrorCode::kPermissionDenied);
  EXPECT_EQ(errno_error(EACCES, "write", "x").code(), ErrorCode::kPermissionDenied);
  EXPECT_EQ(errno_error(EIO, "write", "x").code(), ErrorCode::kDataLoss);
}

TEST_F(File, AFailedWriteLeavesTheOldFileAndNothingElse) {
  const std::string path = folder + "/a.txt";
  write_file_atomic(path, "old");
  for (const char* point : {"file.write=enospc", "file.before_rename=error"}) {
    arm_failpoints(point);
    EXPECT_THROW(write_file_atomic(path, "new"), Error) << point;
    arm_failpoints("");
    EXPECT_EQ(read_file(path), "old");
    EXPECT_EQ(entries(), 1u) << point;
  }
}

TEST_F(File, AFullDiskIsResourceExhausted) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  AppendFile full("/dev/full");
  std::string text;
  EXPECT_EQ(code_of([&] { full.append("x"); }, &text), ErrorCode::kResourceExhausted);
  EXPECT_NE(text.find("No space left on device"), std::string::npos) << text;
}

// A real limit of the system in the middle of a write, in a child because the limit is of the process.
TEST_F(File, AShortWriteCleansUp) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{4096, 4096};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    int status = 1;
    try {
      write_file_atomic(folder + "/large", std::string(10'000, 'x'));
    } catch (const Error& error) {
      status = error.code() == ErrorCode::kResourceExhausted && entries() == 0 ? 0 : 2;
    }
    _exit(status);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST_F(File, AReadOnlyFolderIsPermissionDenied) {
  if (::geteuid() == 0) {
    std::string text;  // root may write anywhere but into /proc
    EXPECT_NE(code_of([&] { write_file_atomic("/proc/furrow", "x"); }, &text), ErrorCode::kInternal);
    EXPECT_NE(text.find("/proc/furrow"), std::string::npos) << text;
    return;
  }
  ::chmod(folder.c_str(), 0500);
  EXPECT_EQ(code_of([&] { write_file_atomic(folder + "/a", "x"); }), ErrorCode::kPermissionDenied);
  ::chmod(folder.c_str(), 0700);
}

TEST_F(File, StreamedFilePatchesAndVanishesWithoutCommit) {
  const std::string path = folder + "/s";
  {
    AtomicFile file(path);
    file.write("hello world");
    file.write_at(0, std::as_bytes(std::span("HELLO", 5)));
    EXPECT_EQ(file.size(), 11u);
    EXPECT_THROW(file.write_at(10, std::as_bytes(std::span("xx", 2))), Error);
    EXPECT_FALSE(path_exists(path));
    file.commit();
    EXPECT_THROW(file.commit(), Error);
  }
  EXPECT_EQ(read_file(path), "HELLO world");
  {
    AtomicFile file(path);
    file.write("ab");
    file.extend(3);
    file.write("f");
    file.write_at(4, std::as_bytes(std::span("e", 1)));
    EXPECT_EQ(file.size(), 6u);
    file.commit();
  }
  EXPECT_EQ(read_file(path), std::string("ab\0\0ef", 6));
  {
    AtomicFile(folder + "/never").write("x");
  }
  EXPECT_EQ(entries(), 1u);
}

TEST_F(File, MapsAndMoves) {
  write_file_atomic(folder + "/m", "mapped");
  write_file_atomic(folder + "/empty", "");
  MappedFile file(folder + "/m");
  EXPECT_EQ(file.text(), "mapped");
  MappedFile moved(std::move(file));
  EXPECT_EQ(moved.text(), "mapped");
  moved = MappedFile(folder + "/empty");
  EXPECT_EQ(moved.bytes().size(), 0u);
  EXPECT_EQ(code_of([&] { MappedFile missing(folder + "/none"); }), ErrorCode::kNotFound);
}

TEST_F(File, FoldersAreMadeRenamedAndRemoved) {
  make_directories(folder + "/a/b/c");
  make_directories(folder + "/a/b/c");
  write_file_atomic(folder + "/a/b/c/x", "x");
  rename_durably(folder + "/a/b", folder + "/d");
  EXPECT_TRUE(path_exists(folder + "/d/c/x"));
  EXPECT_EQ(code_of([&] { make_directories(folder + "/d/c/x"); }), ErrorCode::kAlreadyExists);
  remove_all(folder + "/d");
  remove_all(folder + "/d");
  EXPECT_FALSE(path_exists(folder + "/d"));
  EXPECT_EQ(parent_directory("x"), ".");
  EXPECT_EQ(parent_directory("/x"), "/");
  EXPECT_EQ(parent_directory("a/b/"), "a");
}

TEST_F(File, AFolderIsReplaced) {
  make_directories(folder + "/old");
  make_directories(folder + "/new");
  write_file_atomic(folder + "/old/a", "old");
  write_file_atomic(folder + "/new/b", "new");
  replace_directory(folder + "/new", folder + "/old");
  EXPECT_EQ(read_file(folder + "/old/b"), "new");
  EXPECT_FALSE(path_exists(folder + "/old/a"));
  EXPECT_EQ(entries(), 1u);
  replace_directory(folder + "/old", folder + "/third");
  EXPECT_EQ(read_file(folder + "/third/b"), "new");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(File, ReadsAtAnyPlaceUpToTheEnd) {
  write_file_atomic(folder + "/a", "0123456789");
  const int descriptor = ::open((folder + "/a").c_str(), O_RDONLY | O_CLOEXEC);
  const auto at = [&](uint64_t offset) {
    std::string text(4, '-');
    const size_t got = read_at(descriptor, offset, std::as_writable_bytes(std::span(text)), "a");
    return text + " " + std::to_string(got);
  };
  EXPECT_EQ(at(3), "3456 4");
  EXPECT_EQ(at(8), "89-- 2");
  EXPECT_EQ(at(10), "---- 0");
  EXPECT_EQ(at(0), "0123 4");
  ::close(descriptor);
  EXPECT_THROW(at(0), Error);
}

TEST_F(File, AppendsAndTruncates) {
  {
    AppendFile(folder + "/log").append("a\n");
  }
  {
    AppendFile file(folder + "/log");
    file.append("b\n");
    file.sync();
  }
  EXPECT_EQ(read_file(folder + "/log"), "a\nb\n");
  {
    AppendFile(folder + "/log", /*truncate=*/true).append("c\n");
  }
  EXPECT_EQ(read_file(folder + "/log"), "c\n");
}

}  // namespace
}  // namespace furrow
