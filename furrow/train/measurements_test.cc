// What becomes of times of instructions: on cores, and on a device behind the thread that tells it.
#include "furrow/train/measurements.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "furrow/models/architectures.h"
#include "furrow/plan/compile.h"
#include "furrow/train/recipe.h"

namespace furrow::train {
namespace {

using plan::Op;

class MeasuredTimes : public ::testing::Test {
 protected:
  MeasuredTimes() {
    config_.model.name = "mlp";
    config_.model.hidden = {8};
    config_.training.local_batch_size = 4;
    config_.training.global_batch_size = 4;
    spec_ = models::describe(config_.model, {{DType::kF32, {-1, 16}}, 10});
    program_ = plan::compile_train(spec_, plan::Layout(), train_options(config_, spec_));
    rows_ = std::make_unique<plan::ProgramCosts>(*costs_, spec_, program_, 1);
  }

  const plan::Instruction& first(Op op) const {
    return *std::ranges::find(program_.instructions, op, &plan::Instruction::op);
  }
  // Thrice: medians, whatever is slow once.
  void add(Op op, double seconds, Measurements* to) const {
    for (const double each : {seconds, 100 * seconds, seconds / 2}) to->add(*rows_, first(op), each);
  }
  static plan::ProfileSection section(const Measurements& measured) {
    plan::ProfileSection section;
    measured.give(&section);
    return section;
  }
  static const plan::FlatSample* flat(const plan::ProfileSection& section, const std::string& op) {
    const auto found = std::ranges::find(section.flats, op, &plan::FlatSample::op);
    return found == section.flats.end() ? nullptr : &*found;
  }

  config::Config config_;
  plan::ModelSpec spec_;
  plan::Program program_;
  std::unique_ptr<plan::Costs> costs_ = plan::analytic_costs(plan::local_cluster({1, 1 << 30, false}, 1));
  std::unique_ptr<plan::ProgramCosts> rows_;
};

TEST_F(MeasuredTimes, OfCoresAreTheThreads) {
  Measurements measured(false);
  add(Op::kForward, 1e-3, &measured);
  add(Op::kLoss, 2e-3, &measured);
  add(Op::kStep, 3e-3, &measured);
  const plan::ProfileSection section = this->section(measured);
  ASSERT_EQ(section.units.size(), 1u);
  EXPECT_EQ(section.units[0].kind, "linear");
  EXPECT_EQ(section.units[0].work, plan::Work::kForward);
  EXPECT_EQ(section.units[0].samples, 4);
  EXPECT_EQ(section.units[0].seconds, 1e-3);
  EXPECT_EQ(section.units[0].launch_s, 0);
  ASSERT_EQ(section.flats.size(), 2u);
  EXPECT_EQ(flat(section, "loss")->seconds, 2e-3);
  EXPECT_EQ(flat(section, "step")->seconds, 3e-3);
  EXPECT_EQ(flat(section, "step")->launch_s, 0);
}

// What the thread waits for lasts on the device until the thread has it: telling is the rest.
TEST_F(MeasuredTimes, OfADeviceAreItsOwnBesideThoseOfTelling) {
  Measurements measured(true);
  add(Op::kForward, 1e-5, &measured);
  add(Op::kLoss, 5e-3, &measured);
  add(Op::kStep, 1e-5, &measured);
  add(Op::kLoad, 7e-5, &measured);
  for (const Op op : {Op::kForward, Op::kLoss, Op::kStep, Op::kLoad})
    measured.add_of_device(*rows_, first(op), 4e-3);
  const plan::ProfileSection section = this->section(measured);
  EXPECT_EQ(section.units.at(0).seconds, 4e-3);
  EXPECT_EQ(section.units.at(0).launch_s, 1e-5);
  EXPECT_EQ(flat(section, "loss")->seconds, 4e-3);
  EXPECT_DOUBLE_EQ(flat(section, "loss")->launch_s, 1e-3);
  EXPECT_EQ(flat(section, "step")->launch_s, 1e-5);
  EXPECT_EQ(flat(section, "load")->seconds, 7e-5) << "the thread's";
  EXPECT_EQ(flat(section, "load")->launch_s, 0);
}

// Nothing on cores, but of a device something is told, and some of it awaited.
TEST_F(MeasuredTimes, OfWhatDoesNothingAreTheOverhead) {
  plan::Instruction scale = first(Op::kLoss);
  scale.op = Op::kFoldStats;
  for (const bool behind : {false, true}) {
    Measurements measured(behind);
    measured.add(*rows_, scale, 1e-6);
    const plan::ProfileSection section = this->section(measured);
    EXPECT_EQ(section.overhead_s, behind ? 0 : 1e-6);
    EXPECT_EQ(flat(section, "fold_stats") != nullptr, behind);
  }
}

TEST_F(MeasuredTimes, OfMovementsAreByMessage) {
  Measurements measured(false);
  plan::Moved moved;
  moved.call.operation = "gather_params";
  moved.call.bytes = 4096;
  moved.call.messages = 2;
  moved.members = {0, 1, 2};
  measured.add_movement(moved, 6e-3);
  const plan::ProfileSection section = this->section(measured);
  EXPECT_EQ(section.movements, (std::vector<plan::MovementSample>{{"gather_params", 3, 2048, 3e-3}}));
}

}  // namespace
}  // namespace furrow::train
