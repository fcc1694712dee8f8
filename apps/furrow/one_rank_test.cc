#include "apps/furrow/one_rank.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include "furrow/base/file.h"
#include "furrow/base/process.h"

namespace furrow::app {
namespace {

class OneRank : public ::testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/furrow_one_rank_XXXXXX";
    root_ = ::mkdtemp(folder);
    ::unsetenv("OMP_NUM_THREADS");
    ranks_ = config::parse(R"(
      [model]
      name = "mlp"
      hidden = [8]
      [training]
      steps = 10
      local_batch_size = 32
      global_batch_size = 128
      threads = 1
    )",
                           "one_rank_test");
    alone_.samples_per_second = 1000;
    alone_.threads = 1;
    alone_.processor = cpu_model();
    alone_.audit.emplace().layout = "dp_replicate 1, dp_shard 1";
  }
  void TearDown() override { remove_all(root_); }

  void add_run(const std::string& name, const config::Config& config, const observe::Summary& summary) {
    make_directories(root_ + "/" + name);
    write_file_atomic(root_ + "/" + name + "/config.toml", config::to_toml(config));
    write_file_atomic(root_ + "/" + name + "/summary.json", observe::to_json(summary));
  }
  train::OneRankRates rates() const { return one_rank_rates(ranks_, root_ + "/ours", 2); }

  std::string root_;
  config::Config ranks_;    // of the run on two ranks
  observe::Summary alone_;  // of one rank that compares
};

TEST_F(OneRank, NothingIsKnownWithoutANeighbour) {
  EXPECT_FALSE(rates().same_batch);
  EXPECT_FALSE(rates().same_batch_a_rank);
}

TEST_F(OneRank, TheBatchSaysWhichScalingItIs) {
  config::Config config = ranks_;
  add_run("strong", config, alone_);
  config.training.global_batch_size = 64;
  alone_.samples_per_second = 900;
  add_run("weak", config, alone_);
  EXPECT_EQ(rates().same_batch, 1000);
  EXPECT_EQ(rates().same_batch_a_rank, 900);
}

// global_batch_size = -1 is local_batch_size for each data rank: the run of one rank has a share of ours.
TEST_F(OneRank, ABatchThatRanksDecideIsComparedAsItIs) {
  ranks_.training.global_batch_size = -1;  // 32 of one rank, 64 of two
  add_run("alone", ranks_, alone_);
  EXPECT_FALSE(rates().same_batch);
  EXPECT_EQ(rates().same_batch_a_rank, 1000);
}

// Threads as they ran: `threads = 0` is what the machine gave then, and a number is that number.
TEST_F(OneRank, ThreadsAreThoseThatRan) {
  config::Config any = ranks_;
  any.training.threads = 0;
  add_run("any", any, alone_);
  EXPECT_EQ(rates().same_batch, 1000) << "one thread, whoever said so";
  alone_.threads = 2;
  add_run("any", any, alone_);
  EXPECT_FALSE(rates().same_batch) << "two threads, though the configs may be equal";
  ranks_.training.threads = 0;
  ::setenv("OMP_NUM_THREADS", "2", 1);
  EXPECT_EQ(rates().same_batch, 1000);
  ::setenv("OMP_NUM_THREADS", "1", 1);
  EXPECT_FALSE(rates().same_batch);
  ::unsetenv("OMP_NUM_THREADS");
}

TEST_F(OneRank, WhatDiffersDoesNotCompare) {
  const auto expect_none = [this](const config::Config& config, const observe::Summary& summary) {
    add_run("other", config, summary);
    EXPECT_FALSE(rates().same_batch);
    EXPECT_FALSE(rates().same_batch_a_rank);
  };
  config::Config config = ranks_;
  config.training.mixed_precision_param = "bfloat16";
  expect_none(config, alone_);
  config = ranks_;
  config.training.device = "cuda";
  expect_none(config, alone_);
  config = ranks_;
  config.activation_checkpoint.mode = "full";
  expect_none(config, alone_);
  config = ranks_;
  config.training.global_batch_size = 96;
  expect_none(config, alone_);
  observe::Summary summary = alone_;
  summary.processor = "another";
  expect_none(ranks_, summary);
  summary = alone_;
  summary.audit.emplace().ranks = 2;
  expect_none(ranks_, summary);
  summary = alone_;
  summary.samples_per_second = 0;  // ended before its second step
  expect_none(ranks_, summary);
  write_file_atomic(root_ + "/other/summary.json", "{");
  EXPECT_FALSE(rates().same_batch);
  add_run("other", ranks_, alone_);
  EXPECT_EQ(rates().same_batch, 1000) << "the control";
}

}  // namespace
}  // namespace furrow::app
