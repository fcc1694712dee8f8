// Runs that go from layout to layout through checkpoints end as one process does, with every network,
// optimizer and precision.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "furrow/base/file.h"
#include "furrow/observe/metrics_log.h"
#include "furrow/plan/optimizer_spec.h"
#include "tests/testing/rank_sessions_torch.h"

namespace furrow::train {
namespace {

using testing::expect_same_figures;
using ::testing::HasSubstr;
using testing::layout;
using testing::Meddling;
using ::testing::Not;
using testing::pipeline;
using testing::RankLayout;
using testing::RankSession;
using testing::SampleLedger;

RankLayout in_buckets(RankLayout layout) {
  layout.name += "_in_buckets";
  layout.settings.insert(layout.settings.end(), {"--parallelism.bucket_cap_mb", "1"});
  return layout;
}

class GoesOn : public testing::InEveryPrecision {};
INSTANTIATE_TEST_SUITE_P(Ranks, GoesOn, testing::every_precision(), testing::precision_name);

// One run that goes from layout to layout, stopped in each but the last, loses no sample and reads none
// twice.
TEST_P(GoesOn, GoesFromLayoutToLayoutThroughCheckpoints) {
  for (const std::string mode : {"disabled", "async"}) {
    SampleLedger alone_samples, samples;
    const observe::Summary alone = train_alone("alone_" + mode, &alone_samples);
    const std::string name = "chain_" + mode;
    const std::vector<RankLayout> chain = {layout(1, 2, 3),
                                           in_buckets(layout(2, 2, 2)),
                                           layout(1, 1),
                                           pipeline("1F1B", layout(1, 2, 3)),
                                           in_buckets(layout(3, 1)),
                                           in_buckets(layout(1, 4, 1)),
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
    expect_same_figures(
        train_chain(name + "_chain", {layout(1, 3, 3), pipeline("1F1B", layout(1, 2, 2)), layout(1, 2, 1)},
                    settings),
        alone);
    EXPECT_EQ(weights(name + "_chain"), weights(name));
  }
}

// Several at once, and units of several types beside them.
TEST_F(RankSession, SeveralOptimizersGoFromLayoutToLayout) {
  const std::vector<std::string> settings = {
      "--optimizer.momentum",
      "0.9",
      "--ema.decay",
      "0.9",
      "--optimizer.groups",
      R"(["*.weight name=muon", "fc2.* name=adamw8bit", "fc1.bias name=sgd"])",
      "--training.mixed_precision_units",
      R"(["fc2 param=bfloat16"])"};
  const observe::Summary alone = train_on("alone", layout(1, 1), false, settings).front();
  EXPECT_NE(train_alone("float").loss, alone.loss) << "control: it is another recipe";
  expect_same_figures(
      train_chain("chain", {layout(1, 3, 3), pipeline("1F1B", layout(1, 2, 2)), layout(1, 2, 1)}, settings),
      alone);
  EXPECT_EQ(weights("chain"), weights("alone"));
}

// Gradients that travel in 16 bits: half the bytes on the wires, as they are counted there, and the bits of
// one process through layouts and checkpoints.
TEST_F(RankSession, GradientsOf16BitsMoveHalfTheBytesAndKeepTheBits) {
  const auto reduced = [](const observe::Summary& summary) {
    for (const observe::CollectiveAudit& row : summary.audit->bytes) {
      if (row.name == "reduce_scatter") return row;
    }
    return observe::CollectiveAudit{};
  };
  const std::vector<std::string> settings = {"--training.mixed_precision_reduce", "bfloat16"};
  const observe::Summary alone = train_on("alone", layout(1, 1), false, settings).front();
  EXPECT_NE(train_alone("float").loss, alone.loss) << "control: it is another recipe";
  for (const RankLayout& each : {layout(2, 1), layout(1, 2, 1), layout(1, 4, 3)}) {
    SCOPED_TRACE(each.name);
    const auto wide = reduced(train_on(each.name + "_float", each).front());
    const auto summaries = train_on(each.name, each, false, settings);
    const auto narrow = reduced(summaries.front());
    EXPECT_GT(narrow.bound_bytes, 0);
    EXPECT_EQ(2 * narrow.bound_bytes, wide.bound_bytes);
    EXPECT_EQ(2 * (narrow.wire_bytes - narrow.bound_bytes), wide.wire_bytes - wide.bound_bytes)
        << "of what is not bound, frames alone may stay";
    expect_same_figures(summaries.front(), alone);
    EXPECT_EQ(weights(each.name), weights("alone"));
  }
  network_ = settings;
  precision_ = "bfloat16";
  const observe::Summary both = train_alone("both");
  Meddling stopped{.cancel_rank = 1, .cancel_step = 7};
  train_on("chain", layout(1, 2, 2), false, {}, stopped);
  expect_same_figures(train_on("chain", layout(1, 3, 3), true).front(), both);
  EXPECT_EQ(weights("chain"), weights("both"));
}

// Units of several types: masters where they are needed, a loss scale for the one in float16.
TEST_F(RankSession, UnitsOfSeveralTypesGoFromLayoutToLayout) {
  const std::vector<std::string> settings = {"--training.mixed_precision_units",
                                             R"(["fc1 param=bfloat16", "fc2 param=float16"])"};
  const observe::Summary alone = train_on("alone", layout(1, 1), false, settings).front();
  EXPECT_NE(train_alone("float").loss, alone.loss) << "control: it is another recipe";
  expect_same_figures(
      train_chain("chain",
                  {layout(1, 3, 3), pipeline("1F1B", layout(1, 2, 2)), layout(2, 2, 1), layout(1, 2, 1)},
                  settings),
      alone);
  EXPECT_EQ(weights("chain"), weights("alone"));
}

// Masters of adapters alone, and frozen weights of 16 bits without any.
TEST_F(RankSession, AdaptersOf16BitsGoFromLayoutToLayout) {
  const std::vector<std::string> settings = {
      "--training.mixed_precision_param", "bfloat16", "--lora.rank", "4", "--lora.target_modules", "fc*"};
  const observe::Summary alone = train_on("alone", layout(1, 1), false, settings).front();
  expect_same_figures(
      train_chain("chain",
                  {layout(1, 3, 3), pipeline("1F1B", layout(1, 2, 2)), layout(2, 2, 1), layout(1, 2, 1)},
                  settings),
      alone);
  EXPECT_EQ(weights("chain"), weights("alone"));
  EXPECT_EQ(read_file(run("chain") + "/adapter/adapter_model.safetensors"),
            read_file(run("alone") + "/adapter/adapter_model.safetensors"));
}

TEST_F(RankSession, StatisticsGoFromLayoutToLayoutToo) {
  network_ = {"--model.name", "blocks", "--model.units",
              R"(["stem: conv_norm out_channels=4", "b: residual_block out_channels=8 stride=2",)"
              R"( "fc: pool_linear out=classes"])"};
  expect_chain_equals_alone();
  EXPECT_THAT(weights("alone"), HasSubstr("stem.bn1.num_batches_tracked"));
  EXPECT_THAT(weights("alone"), HasSubstr("b.downsample.1.running_var"));
}

// Of layers by themselves, over pixels and over rows; adapters beside one of the convolutions as well.
std::vector<std::string> normed_layers() {
  return {"--model.name", "blocks", "--model.units",
          R"(["n0: batch_norm", "c: conv out_channels=4 kernel=3 stride=2 bias=false",)"
          R"( "n1: batch_norm momentum=0.3 activation=relu", "p: max_pool kernel=2",)"
          R"( "fc1: linear out=12 bias=false", "n2: batch_norm activation=tanh", "fc: linear out=classes"])"};
}
TEST_F(RankSession, StatisticsOfLayersGoFromLayoutToLayoutToo) {
  network_ = normed_layers();
  network_.insert(network_.end(), {"--ema.decay", "0.9"});
  expect_chain_equals_alone();
  EXPECT_THAT(weights("alone"), AllOf(HasSubstr("n0.running_mean"), HasSubstr("n2.num_batches_tracked")));
}

TEST_F(RankSession, AdaptersOfConvolutionsGoFromLayoutToLayoutToo) {
  network_ = normed_layers();
  network_.insert(network_.end(), {"--lora.rank", "3", "--lora.target_modules", R"(["c", "fc1"])"});
  expect_chain_equals_alone();
  EXPECT_THAT(weights("alone"), Not(HasSubstr("lora")));
  const auto adapters = [&](const std::string& name) {
    return read_file(run(name) + "/adapter/adapter_model.safetensors");
  };
  EXPECT_EQ(adapters("chain"), adapters("alone"));
  EXPECT_THAT(adapters("alone"), HasSubstr("base_model.model.c.lora_A.weight"));
}

// So does their average, which is what is validated, kept as the best and exported.
TEST_F(RankSession, AveragedStatisticsGoFromLayoutToLayoutToo) {
  network_ = {"--model.name",
              "blocks",
              "--model.units",
              R"(["stem: conv_norm out_channels=4", "b: residual_block out_channels=8 stride=2",)"
              R"( "fc: pool_linear out=classes"])",
              "--ema.decay",
              "0.9"};
  expect_chain_equals_alone();
}

// A generator and a discriminator of one hidden layer each.
std::vector<std::string> small_gan() {
  return {"--model.name",
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
}

// Both phases of its steps, and noise that follows the samples.
TEST_F(RankSession, AGanGoesFromLayoutToLayoutToo) {
  network_ = small_gan();
  expect_chain_equals_alone();
  EXPECT_THAT(weights("alone"), HasSubstr("generator.fc2.weight"));
  EXPECT_THAT(weights("alone"), HasSubstr("discriminator.fc2.weight"));
  EXPECT_THAT(weights("alone"), Not(HasSubstr("fooled")));
  EXPECT_EQ(read_file(run("chain") + "/samples.svg"), read_file(run("alone") + "/samples.svg"));
}

// The chain stops and resumes in the middle of overflows and of intervals of growth.
TEST_F(RankSession, AGanInFloat16GoesOnWithItsTwoLossScales) {
  network_ = small_gan();
  network_.insert(network_.end(), {"--grad_scaler.init_scale", "536870912", "--grad_scaler.growth_interval",
                                   "3", "--metrics.log_freq", "1"});
  precision_ = "float16";
  expect_chain_equals_alone();
  std::map<std::string, double> last;
  bool alike = true;
  for (const observe::StepRecord& record : observe::read_metrics(run("alone") + "/metrics.jsonl")) {
    for (const auto& [name, value] : record.values) last[name] = value;
    alike = alike && last.at("loss_scale_discriminator") == last.at("loss_scale_generator");
  }
  EXPECT_FALSE(alike) << "each has its own";
  for (const std::string phase : {"discriminator", "generator"}) {
    EXPECT_GT(last.at("skipped_steps_" + phase), 2) << phase;
    EXPECT_LT(last.at("skipped_steps_" + phase), 15) << phase;
  }
  EXPECT_FALSE(last.contains("loss_scale"));
}

TEST_F(RankSession, AdaptersOfAGanGoFromLayoutToLayoutToo) {
  network_ = small_gan();
  network_.erase(network_.end() - 2, network_.end());  // groups, of what is frozen now
  network_.insert(network_.end(), {"--lora.rank", "3"});
  expect_chain_equals_alone();
  EXPECT_THAT(weights("alone"), Not(HasSubstr("lora")));
  const auto adapters = [&](const std::string& name) {
    return read_file(run(name) + "/adapter/adapter_model.safetensors");
  };
  EXPECT_EQ(adapters("chain"), adapters("alone"));
  EXPECT_THAT(adapters("alone"), AllOf(HasSubstr("generator.fc2.lora_B"),
                                       HasSubstr("discriminator.fc1.lora_A"), Not(HasSubstr("generated"))));
}

// The teacher, with statistics of its own, is no part of what is exported and evaluated.
TEST_F(RankSession, AStudentGoesFromLayoutToLayoutToo) {
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
