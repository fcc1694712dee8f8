#include "furrow/observe/run_folder.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sstream>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/observe/json.h"

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

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
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

// What every process of a run sent and held, in the keys of summary.json; records of steps are as without it.
TEST_F(RunFolderTest, MetricsEndWithTheAuditOfEachProcess) {
  Summary summary;
  summary.status = "interrupted";
  summary.samples_per_second = 200;
  summary.memory_bytes[static_cast<size_t>(MemoryKind::kGradients)] = 4096;
  RankAudit audit;
  audit.ranks = 2;
  audit.steps = 2;
  audit.bytes = {{"reduce_scatter", 30, 10 * 1024, 10 * 1000}};
  audit.comm_to_compute = 0.25;
  audit.operations_per_step = 40;
  audit.operation_latency_us = 2.5;
  audit.step_seconds = 0.01;
  audit.rank_samples_per_second = {100.5, 99};
  audit.scaling_efficiency = 0.975;
  audit.weak_scaling_efficiency = 0.99;
  summary.audit = audit;
  for (const int64_t begun : {0, 2}) {
    RunFolder folder = begun == 0 ? RunFolder::create(run_) : RunFolder::resume(run_);
    folder.begin("a", "", begun);
    for (int64_t step = begun + 1; step <= begun + 2; ++step) folder.log({step, 64 * step, {{"loss", 2.5}}});
    summary.steps = begun + 2;
    summary.samples = 64 * summary.steps;
    folder.write_summary(summary);
    folder.end(summary.status);
  }
  const std::vector<std::string> lines = lines_of(read_file(run_ + "/metrics.jsonl"));
  ASSERT_EQ(lines.size(), 6u);
  const JsonValue closing = parse_json(lines[5]);
  EXPECT_EQ(closing.find("step")->integer(), 4);
  EXPECT_EQ(closing.find("samples")->integer(), 256);
  const JsonValue* last = closing.find("audit");
  ASSERT_NE(last, nullptr);
  const JsonValue whole = parse_json(read_file(run_ + "/summary.json"));
  for (const char* key :
       {"status", "samples_per_second", "ranks", "layout", "bytes", "exposed_communication",
        "comm_to_compute", "latency_overhead", "rank_samples_per_second", "scaling_efficiency",
        "weak_scaling_efficiency", "memory_bytes", "planned_memory_bytes"}) {
    ASSERT_NE(last->find(key), nullptr) << key;
    ASSERT_NE(whole.find(key), nullptr) << key;
  }
  EXPECT_EQ(last->find("bytes")->find("reduce_scatter")->find("wire")->integer(), 10240);
  EXPECT_EQ(last->find("bytes")->find("reduce_scatter")->find("bound")->integer(), 10000);
  EXPECT_EQ(last->find("memory_bytes")->find("gradients")->integer(), 4096);
  EXPECT_EQ(parse_json(lines[2]).find("step")->integer(), 2) << "of the process before";
  const std::vector<StepRecord> records = read_metrics(run_ + "/metrics.jsonl");
  EXPECT_EQ(records.size(), 4u);
  EXPECT_EQ(records.back().step, 4);
  EXPECT_EQ(read_run(run_).loss, 2.5);

  const std::string before = read_file(run_ + "/metrics.jsonl");
  {
    RunFolder folder = RunFolder::resume(run_);  // finds nothing left to do
    folder.begin("a", "", 4);
    folder.write_summary(summary);
  }
  EXPECT_EQ(read_file(run_ + "/metrics.jsonl"), before);
  RunFolder::resume(run_).begin("a", "", 3);
  EXPECT_EQ(lines_of(read_file(run_ + "/metrics.jsonl")).size(), 4u) << "3 steps and the first audit";
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
    EXPECT_NE(std::string(error.what()).find("give another --job.dump_folder"), std::string::npos);
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
