#include "furrow/train/recipe.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "furrow/base/error.h"

namespace furrow::train {
namespace {

config::Training training(int64_t local, int64_t global) {
  config::Training t;
  t.local_batch_size = local;
  t.global_batch_size = global;
  return t;
}

std::string message_of(const std::function<void()>& fn) {
  try {
    fn();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "";
}

TEST(Recipe, MicrobatchesFillTheGlobalBatch) {
  EXPECT_EQ(microbatch_sizes(training(32, 96)), (std::vector<int64_t>{32, 32, 32}));
  EXPECT_EQ(microbatch_sizes(training(32, -1)), (std::vector<int64_t>{32}));
  EXPECT_EQ(microbatch_sizes(training(32, -1), 3), (std::vector<int64_t>{32, 32, 32}));
  EXPECT_EQ(microbatch_sizes(training(32, 64), 4), (std::vector<int64_t>{32, 32}));
  EXPECT_EQ(microbatch_sizes(training(32, 100)), (std::vector<int64_t>{32, 32, 32, 4}));
  EXPECT_EQ(microbatch_sizes(training(32, 33)), (std::vector<int64_t>{32, 1}));
}

TEST(Recipe, LessThanOneMicrobatchIsRefused) {
  const std::string message = message_of([] { microbatch_sizes(training(32, 31)); });
  EXPECT_NE(message.find("global_batch_size 31 is less than one microbatch of local_batch_size 32"),
            std::string::npos)
      << message;
}

TEST(Recipe, EpochsRoundUpToWholeSteps) {
  config::Training t = training(32, 64);
  t.steps = 7;
  t.epochs = 0;
  EXPECT_EQ(total_steps(t, 1000), 7);
  t.epochs = 2;
  EXPECT_EQ(total_steps(t, 1000), 32);  // 2000 / 64 = 31.25
  t.global_batch_size = -1;
  EXPECT_EQ(total_steps(t, 1000, 4), 16);  // 2000 / 128 = 15.6
}

plan::ModelSpec three_units() {
  plan::ModelSpec spec;
  for (const char* name : {"embed", "h.0", "h.1"}) {
    plan::Unit unit;
    unit.name = name;
    spec.units.push_back(unit);
  }
  return spec;
}

// A norm over the rows of a microbatch needs two; over pixels one sample has enough.
TEST(Recipe, ANormOfOneRowIsRefused) {
  config::Config config;
  config.training.local_batch_size = 4;
  config.training.global_batch_size = 9;
  plan::ModelSpec spec = three_units();
  spec.units[1].kind = "batch_norm";
  spec.units[1].input = {DType::kF32, {-1, 6}};
  const std::string message = message_of([&] { train_options(config, spec); });
  EXPECT_NE(message.find("a microbatch of one sample, of which unit h.0 (batch_norm) has one value"),
            std::string::npos)
      << message;
  config.training.global_batch_size = 8;
  EXPECT_EQ(message_of([&] { train_options(config, spec); }), "") << "two microbatches of four";
  config.training.global_batch_size = 9;
  spec.units[1].input.shape = {-1, 6, 1, 2};
  EXPECT_EQ(message_of([&] { train_options(config, spec); }), "") << "two pixels";
  spec.units[1].input.shape = {-1, 6, 1, 1};
  EXPECT_NE(message_of([&] { train_options(config, spec); }), "");
  spec.units[1].inference = true;
  EXPECT_EQ(message_of([&] { train_options(config, spec); }), "") << "a teacher's";
}

TEST(Recipe, RecomputeByPattern) {
  config::ActivationCheckpoint config;
  config.mode = "none";
  EXPECT_EQ(recompute_units(config, three_units()), (std::vector<bool>{false, false, false}));
  config.mode = "full";
  EXPECT_EQ(recompute_units(config, three_units()), (std::vector<bool>{true, true, true}));
  config.mode = "selective";
  config.units = {"h.*"};
  EXPECT_EQ(recompute_units(config, three_units()), (std::vector<bool>{false, true, true}));
  config.units.clear();
  plan::ModelSpec spec = three_units();  // of no kind in particular, so of one
  EXPECT_EQ(recompute_units(config, spec), (std::vector<bool>{false, true, false}));
  spec.units[0].kind = "embedding";
  EXPECT_EQ(recompute_units(config, spec), (std::vector<bool>{false, false, true}));
  spec.units[1].kind = "block";
  EXPECT_EQ(recompute_units(config, spec), (std::vector<bool>{false, true, false}));
  config.units = {"layer.*"};
  const std::string message = message_of([&] { recompute_units(config, three_units()); });
  EXPECT_NE(message.find("embed, h.0, h.1"), std::string::npos) << message;
}

}  // namespace
}  // namespace furrow::train
