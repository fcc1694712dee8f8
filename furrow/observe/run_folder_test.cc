#include "furrow/observe/run_folder.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "furrow/base/error.h"
#include "furrow/base/file.h"

namespace furrow::observe {
namespace {

template <class Call>
ErrorCode code_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code();
  }
  ADD_FAILURE() << "no error";
  return ErrorCode::kInternal;
}

class RunFolderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/furrow_run_XXXXXX";
    root_ = ::mkdtemp(folder);
    run_ = root_ + "/runs/a";
  }
  void TearDown() override { remove_all(root_); }
  std::string root_, run_;
};

TEST_F(RunFolderTest, HoldsTheRecordOfARun) {
  {
    RunFolder folder = RunFolder::create(run_ + "/");
    EXPECT_EQ(folder.path(), run_);
    folder.begin("a", "[job]\n", 0);
    folder.write_plan("plan");
    folder.log({1, 64, {{"loss", 2.5}}});
    folder.log({2, 128, {{"loss", 2.25}}});
    EXPECT_EQ(read_run(run_).status, "running");
    Summary summary;
    summary.status = "finished";
    summary.steps = 2;
    folder.write_summary(summary);
    folder.end("finished");
  }
  const RunInfo info = read_run(run_);
  EXPECT_EQ(info.name, "a");
  EXPECT_EQ(info.status, "finished");
  EXPECT_EQ(info.last_step, 2);
  EXPECT_EQ(info.loss, 2.25);
  EXPECT_EQ(info.summary->steps, 2);
  EXPECT_EQ(read_config_text(run_), "[job]\n");
  EXPECT_EQ(read_file(run_ + "/plan.txt"), "plan");
}

TEST_F(RunFolderTest, ARunThatNeverEndedCountsAsKilled) {
  RunFolder::create(run_).begin("a", "", 0);
  EXPECT_EQ(read_run(run_).status, "killed");
}

TEST_F(RunFolderTest, OnlyOneWriterAtATime) {
  RunFolder folder = RunFolder::create(run_);
  EXPECT_EQ(code_of([&] { RunFolder::create(run_); }), ErrorCode::kUnavailable);
  folder.begin("a", "", 0);
  EXPECT_EQ(code_of([&] { RunFolder::resume(run_); }), ErrorCode::kUnavailable);
}

TEST_F(RunFolderTest, RefusesAFolderThatHoldsARunUnlessResumed) {
  RunFolder::create(run_).begin("a", "old", 0);
  EXPECT_EQ(code_of([&] { RunFolder::create(run_); }), ErrorCode::kAlreadyExists);
  EXPECT_EQ(read_config_text(run_), "old");
  RunFolder again = RunFolder::resume(run_);
  again.begin("a", "new", 0);
  EXPECT_EQ(read_config_text(run_), "new");
}

TEST_F(RunFolderTest, ResumeWithoutARunIsNotFoundAndMakesNothing) {
  EXPECT_EQ(code_of([&] { RunFolder::resume(run_); }), ErrorCode::kNotFound);
  EXPECT_EQ(code_of([&] { read_run(run_); }), ErrorCode::kNotFound);
  EXPECT_FALSE(path_exists(run_));
}

TEST_F(RunFolderTest, GivenUpBeforeItBeganLeavesNothing) {
  RunFolder::create(run_);
  EXPECT_FALSE(path_exists(run_));
  RunFolder moved = [&] { return RunFolder(RunFolder::create(run_)); }();
  EXPECT_TRUE(path_exists(run_));
}

TEST_F(RunFolderTest, KeepsWhatElseIsInTheFolder) {
  make_directories(run_);
  write_file_atomic(run_ + "/notes.txt", "mine");
  RunFolder::create(run_);
  EXPECT_EQ(read_file(run_ + "/notes.txt"), "mine");
}

TEST_F(RunFolderTest, APathThatCannotBeWrittenIsNamed) {
  write_file_atomic(root_ + "/file", "");
  try {
    RunFolder::create(root_ + "/file/a");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(root_ + "/file"), std::string::npos) << error.what();
  }
}

TEST_F(RunFolderTest, NamesTakeTheNextFreeNumber) {
  EXPECT_EQ(claim_run_folder(root_, "mlp"), root_ + "/mlp-001");
  EXPECT_EQ(claim_run_folder(root_, "mlp"), root_ + "/mlp-002");
  EXPECT_EQ(claim_run_folder(root_, "gpt"), root_ + "/gpt-001");
  ::rmdir((root_ + "/mlp-001").c_str());
  EXPECT_EQ(claim_run_folder(root_, "mlp"), root_ + "/mlp-001");
}

TEST_F(RunFolderTest, ListIsSortedAndSkipsWhatIsNoRun) {
  for (const char* name : {"b", "a"}) RunFolder::create(root_ + "/" + name).begin(name, "", 0);
  make_directories(root_ + "/c");
  const auto runs = list_runs(root_);
  ASSERT_EQ(runs.size(), 2u);
  EXPECT_EQ(runs[0].name, "a");
  EXPECT_EQ(runs[1].name, "b");
  EXPECT_TRUE(list_runs(root_ + "/none").empty());
}

TEST_F(RunFolderTest, ResumeDropsTheOldSummaryAndLaterRecords) {
  {
    RunFolder folder = RunFolder::create(run_);
    folder.begin("a", "", 0);
    for (int64_t step = 1; step <= 4; ++step) folder.log({step, step, {{"loss", 1.0}}});
    folder.write_summary({});
  }
  RunFolder::resume(run_).begin("a", "", 2);
  EXPECT_EQ(read_run(run_).last_step, 2);
  EXPECT_FALSE(read_run(run_).summary.has_value());
}

}  // namespace
}  // namespace furrow::observe
