// Whole runs that go from one layout of ranks to the next through checkpoints end as one process does.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "furrow/base/file.h"
#include "furrow/plan/optimizer_spec.h"
#include "tests/testing/rank_session_torch.h"

namespace furrow::train {
namespace {

using testing::expect_same_figures;
using ::testing::HasSubstr;
using testing::InEveryPrecision;
using testing::layout;
using testing::Meddling;
using ::testing::Not;
using testing::pipeline;
using testing::precisions;
using testing::RankLayout;
using testing::RankSession;
using testing::SampleLedger;

class ChainInEveryPrecision : public InEveryPrecision {};
INSTANTIATE_TEST_SUITE_P(Ranks, ChainInEveryPrecision, ::testing::ValuesIn(precisions()),
                         [](const auto& info) { return info.param.name; });

// One run that goes from layout to layout, stopped in each but the last, loses no sample and reads none
// twice.
TEST_P(ChainInEveryPrecision, GoesFromLayoutToLayoutThroughCheckpoints) {
  for (const std::string mode : {"disabled", "async"}) {
    SampleLedger alone_samples, samples;
    const observe::Summary alone = train_alone("alone_" + mode, &alone_samples);
    const std::string name = "chain_" + mode;
    const std::vector<RankLayout> chain = {layout(1, 2, 3),
                                           layout(2, 2, 2),
                                           layout(1, 1),
                                           pipeline("1F1B", layout(1, 2, 3)),
                                           layout(3, 1),
                                           layout(1, 4, 1),
                                           pipeline("GPipe", layout(2, 1)),
                                           layout(2, 1)};
    int64_t stop = 3;
    for (const RankLayout& each : chain) {
      SCOPED_TRACE(each.name);
      const bool last = &each == &chain.back();
      Meddling meddling{.ledger = &samples};
      if (!last) {
        meddling.cancel_rank = each.ranks - 1;
        meddling.cancel_step = stop;
      }
      const auto summaries =
          train_on(name, each, &each != &chain.front(), {"--checkpoint.async_mode", mode}, meddling);
      for (const observe::Summary& summary : summaries) {
        EXPECT_EQ(summary.status, last ? "finished" : "interrupted");
        // The vote is part of a step: one process stops at once, several after the next step at the latest.
        if (!last) {
          EXPECT_GE(summary.steps, stop);
          EXPECT_LE(summary.steps, stop + 1);
          EXPECT_EQ(summary.steps, summaries[0].steps);
        }
      }
      stop = summaries[0].steps + 2;
      if (last) expect_same_figures(summaries[0], alone);
    }
    EXPECT_EQ(weights(name), weights("alone_" + mode));
    EXPECT_EQ(samples.sorted(), alone_samples.sorted());
  }
}

// States of every form, an average and frozen parameters go through checkpoints into any layout.
TEST_F(RankSession, EveryOptimizerGoesFromLayoutToLayout) {
  for (const plan::OptimizerSpec& optimizer : plan::optimizer_specs()) {
    const std::string name(optimizer.name);
    SCOPED_TRACE(name);
    const std::vector<std::string> settings = {
        "--optimizer.name", name,  "--optimizer.momentum", "0.9",
        "--ema.decay",      "0.9", "--optimizer.groups",   "fc1.bias frozen=true"};
    const observe::Summary alone = train_on(name, layout(1, 1), false, settings).front();
    const std::vector<RankLayout> chain = {layout(1, 3, 3), pipeline("1F1B", layout(1, 2, 2)),
                                           layout(1, 2, 1)};
    for (const RankLayout& each : chain) {
      Meddling meddling;
      if (&each != &chain.back()) {
        meddling.cancel_rank = each.ranks - 1;
        meddling.cancel_step = 5 * (1 + (&each - chain.data()));
      }
      const auto summaries = train_on(name + "_chain", each, &each != &chain.front(), settings, meddling);
      if (&each == &chain.back()) expect_same_figures(summaries[0], alone);
    }
    EXPECT_EQ(weights(name + "_chain"), weights(name));
  }
}

// Masters of adapters alone, and frozen weights of 16 bits without any.
TEST_F(RankSession, AdaptersOf16BitsGoFromLayoutToLayout) {
  const std::vector<std::string> settings = {
      "--training.mixed_precision_param", "bfloat16", "--lora.rank", "4", "--lora.target_modules", "fc*"};
  const observe::Summary alone = train_on("alone", layout(1, 1), false, settings).front();
  const std::vector<RankLayout> chain = {layout(1, 3, 3), pipeline("1F1B", layout(1, 2, 2)), layout(2, 2, 1),
                                         layout(1, 2, 1)};
  for (const RankLayout& each : chain) {
    Meddling meddling;
    if (&each != &chain.back()) {
      meddling.cancel_rank = each.ranks - 1;
      meddling.cancel_step = 5 * (1 + (&each - chain.data()));
    }
    const auto summaries = train_on("chain", each, &each != &chain.front(), settings, meddling);
    if (&each == &chain.back()) expect_same_figures(summaries[0], alone);
  }
  EXPECT_EQ(weights("chain"), weights("alone"));
  EXPECT_EQ(read_file(run("chain") + "/adapter/adapter_model.safetensors"),
            read_file(run("alone") + "/adapter/adapter_model.safetensors"));
}

// A run that four layouts take turns at ends as one process does.
class RankChain : public RankSession {
 protected:
  void expect_chain_equals_alone();
};
void RankChain::expect_chain_equals_alone() {
  const observe::Summary alone = train_alone("alone");
  const std::vector<RankLayout> chain = {layout(1, 2, 3), layout(2, 2, 2), layout(1, 1), layout(3, 1)};
  int64_t stop = 4;
  for (const RankLayout& each : chain) {
    SCOPED_TRACE(each.name);
    const bool last = &each == &chain.back();
    Meddling meddling;
    meddling.cancel_rank = last ? -1 : each.ranks - 1;
    meddling.cancel_step = stop;
    const auto summaries = train_on("chain", each, &each != &chain.front(), {}, meddling);
    stop = summaries[0].steps + 5;
    if (last) expect_same_figures(summaries[0], alone);
  }
  EXPECT_EQ(weights("chain"), weights("alone"));
}

// Running statistics are in checkpoints, in the best model and in the export, from any layout to any other.
TEST_F(RankChain, StatisticsGoFromLayoutToLayoutToo) {
  network_ = {"--model.name", "blocks", "--model.units",
              R"(["stem: conv_norm out_channels=4", "b: residual_block out_channels=8 stride=2",)"
              R"( "fc: pool_linear out=classes"])"};
  expect_chain_equals_alone();
  EXPECT_THAT(weights("alone"), HasSubstr("stem.bn1.num_batches_tracked"));
  EXPECT_THAT(weights("alone"), HasSubstr("b.downsample.1.running_var"));
}

// Both phases of its steps, and noise that follows the samples.
TEST_F(RankChain, AGanGoesFromLayoutToLayoutToo) {
  network_ = {"--model.name",
              "gan",
              "--training.objective",
              "gan",
              "--validation.enable",
              "false",
              "--data.normalize",
              "false",
              "--model.generator_hidden",
              "[24]",
              "--model.discriminator_hidden",
              "[24]",
              "--optimizer.groups",
              R"(["generator.* lr=1e-3", "discriminator.* lr=5e-4"])"};
  expect_chain_equals_alone();
  EXPECT_THAT(weights("alone"), HasSubstr("generator.fc2.weight"));
  EXPECT_THAT(weights("alone"), HasSubstr("discriminator.fc2.weight"));
  EXPECT_THAT(weights("alone"), Not(HasSubstr("fooled")));
  EXPECT_EQ(read_file(run("chain") + "/samples.svg"), read_file(run("alone") + "/samples.svg"));
}

// The teacher, with statistics of its own, is no part of what is exported and evaluated.
TEST_F(RankChain, AStudentGoesFromLayoutToLayoutToo) {
  network_ = {"--model.name", "blocks", "--model.units",
              R"(["stem: conv_norm out_channels=4", "fc: pool_linear out=classes"])"};
  train_on("teacher", layout(1, 1));
  network_ = {"--training.objective", "distillation", "--distillation.teacher", run("teacher") + "/model"};
  expect_chain_equals_alone();
  EXPECT_THAT(weights("alone"), Not(HasSubstr("teacher")));
  const EvalResult test = evaluate(run("alone"), "test", config({}));
  EXPECT_EQ(test.samples, 100);
  network_ = {};
  train_on("untaught", layout(1, 1));
  EXPECT_NE(weights("untaught"), weights("alone")) << "control: the teacher counts";
  network_ = {"--training.objective", "distillation", "--distillation.teacher", run("nowhere")};
  EXPECT_THROW(train_on("none", layout(1, 1)), Error);
}

}  // namespace
}  // namespace furrow::train
