#include "furrow/train/run_state.h"

#include <gtest/gtest.h>

#include <cmath>

#include "furrow/base/error.h"

namespace furrow::train {
namespace {

TEST(RunState, RoundTripsToTheLastBit) {
  RunState state;
  state.step = 123;
  state.position = 1LL << 45;
  state.last_loss = 0.1 + 0.2;
  state.has_best = true;
  state.best_metric = 1.0 / 3;
  state.stopped_early = true;
  state.phases = {{3, {4096.5, 17}}, {5, {0.1 + 0.2, 1}}, {}};
  state.class_names = {"cat", "a big\n\\dog", "1.0"};
  const RunState read = parse_run_state(to_text(state));
  EXPECT_EQ(to_text(read), to_text(state));
  EXPECT_EQ(read.position, state.position);
  EXPECT_EQ(read.last_loss, state.last_loss);
  EXPECT_TRUE(std::isnan(read.last_validation_loss));
  EXPECT_TRUE(read.has_best);
  EXPECT_TRUE(read.stopped_early);
  EXPECT_EQ(read.phases, state.phases);
  EXPECT_EQ(read.class_names, state.class_names);
}

TEST(RunState, OfAnEarlierVersionHasNoLossScaleAndNoNames) {
  RunState state;
  state.step = 9;
  std::string text = to_text(state);
  text.resize(text.find("loss_scale"));
  EXPECT_EQ(parse_run_state(text).step, 9);
  EXPECT_EQ(parse_run_state(text).phases, std::vector<PhaseState>(1));
  EXPECT_TRUE(parse_run_state(text).class_names.empty());
  EXPECT_TRUE(parse_run_state(to_text(state)).class_names.empty());
}

TEST(RunState, OfAnEarlierVersionHasOneLossScaleForAllPhases) {
  RunState state;
  state.phases = {{7, {64, 2}}};
  RunState read = parse_run_state(to_text(state));
  read.expect_phases(2);
  EXPECT_EQ(read.phases, (std::vector<PhaseState>{{7, {64, 2}}, {7, {64, 2}}}));
  read.phases[1] = {0, {8, 1}};
  const std::vector<PhaseState> own = read.phases;
  read = parse_run_state(to_text(read));
  read.expect_phases(2);
  EXPECT_EQ(read.phases, own) << "control";
}

TEST(RunState, DamageIsNamed) {
  std::string text = to_text(RunState());
  EXPECT_THROW(parse_run_state(text.substr(5)), Error);
  EXPECT_THROW(parse_run_state(""), Error);
  text.replace(text.find("position 0"), 10, "position x");
  try {
    parse_run_state(text);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kDataLoss);
    EXPECT_NE(std::string(error.what()).find("position"), std::string::npos);
  }
}

}  // namespace
}  // namespace furrow::train
