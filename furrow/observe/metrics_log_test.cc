#include "furrow/observe/metrics_log.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cmath>
#include <limits>

#include "furrow/base/error.h"
#include "furrow/base/file.h"

namespace furrow::observe {
namespace {

class MetricsLogTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/furrow_metrics_XXXXXX";
    folder_ = ::mkdtemp(folder);
    path_ = folder_ + "/metrics.jsonl";
  }
  void TearDown() override { remove_all(folder_); }
  static StepRecord record(int64_t step) {
    return {step, step * 64, {{"loss", 1.0 / static_cast<double>(step)}, {"lr", 0.1}}};
  }
  std::string folder_, path_;
};

TEST_F(MetricsLogTest, MachineMetricsComeLastAndNumbersReadBackExactly) {
  const StepRecord written{
      10, 640, {{"samples_per_second", 5100.5}, {"loss", 0.1}, {"grad_norm", 1.0 / 3.0}}};
  EXPECT_EQ(MetricsLog::to_json_line(written),
            "{\"step\":10,\"samples\":640,\"loss\":0.1,\"grad_norm\":0.3333333333333333,"
            "\"samples_per_second\":5100.5}\n");
  MetricsLog(path_, 0).append(written);
  const auto back = read_metrics(path_);
  ASSERT_EQ(back.size(), 1u);
  EXPECT_EQ(*find_value(back[0], "grad_norm"), 1.0 / 3.0);
  EXPECT_EQ(back[0].samples, 640);
}

TEST_F(MetricsLogTest, ValuesThatAreNotFiniteAreNullAndReadAsNan) {
  MetricsLog(path_, 0).append({1, 1, {{"loss", std::numeric_limits<double>::infinity()}}});
  EXPECT_EQ(read_file(path_), "{\"step\":1,\"samples\":1,\"loss\":null}\n");
  EXPECT_TRUE(std::isnan(*find_value(read_metrics(path_)[0], "loss")));
}

TEST_F(MetricsLogTest, OnlyAnAuditIsNotANumber) {
  EXPECT_TRUE(parse_metrics_line(R"({"step":1,"samples":2,"audit":{"ranks":2}})").values.empty());
  for (const char* damaged : {R"({"step":1,"samples":2,"other":{"ranks":2}})",
                              R"({"step":1,"samples":2,"audit":"text"})", R"({"step":1,"audit":{}})"}) {
    EXPECT_THROW(parse_metrics_line(damaged), Error) << damaged;
  }
}

TEST_F(MetricsLogTest, AResumedFileEqualsTheUninterruptedOne) {
  MetricsLog whole(folder_ + "/whole.jsonl", 0);
  for (int64_t step = 1; step <= 6; ++step) whole.append(record(step));
  {
    MetricsLog before(path_, 0);
    for (int64_t step = 1; step <= 5; ++step) before.append(record(step));
  }
  AppendFile(path_).append("{\"step\":6,\"sam");  // torn by a crash
  MetricsLog after(path_, 3);
  for (int64_t step = 4; step <= 6; ++step) after.append(record(step));
  EXPECT_EQ(read_file(path_), read_file(folder_ + "/whole.jsonl"));
  after.append(record(6));
  EXPECT_NE(read_file(path_), read_file(folder_ + "/whole.jsonl"));
}

TEST_F(MetricsLogTest, ResumingFromTheStartKeepsNothing) {
  MetricsLog(path_, 0).append({0, 0, {{"validation_loss", 2.3}}});
  const MetricsLog again(path_, 0);
  EXPECT_EQ(read_file(path_), "");
}

TEST_F(MetricsLogTest, ADamagedLineIsNamed) {
  write_file_atomic(path_, "{\"step\":1,\"samples\":1}\n{\"step\":\n{\"step\":3,\"samples\":3}\n");
  try {
    MetricsLog log(path_, 9);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kDataLoss);
    EXPECT_NE(std::string(error.what()).find("metrics.jsonl:2: "), std::string::npos) << error.what();
  }
}

TEST_F(MetricsLogTest, RecordsNeedTheirStep) {
  for (const char* line : {"{}", "{\"step\":1}", "{\"step\":1.5,\"samples\":1}", "[1]",
                           "{\"step\":1,\"samples\":1,\"loss\":\"x\"}"}) {
    EXPECT_THROW(parse_metrics_line(line), Error) << line;
  }
}

TEST_F(MetricsLogTest, NoFileMeansNoRecords) { EXPECT_TRUE(read_metrics(path_).empty()); }

}  // namespace
}  // namespace furrow::observe
