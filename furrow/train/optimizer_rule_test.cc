#include "furrow/train/optimizer_rule.h"

#include <gtest/gtest.h>

#include <string>

#include "furrow/base/error.h"
#include "furrow/plan/optimizer_spec.h"

namespace furrow::train {
namespace {

TEST(OptimizerRule, EveryOptimizerHasOneLoopWithItsStates) {
  EXPECT_EQ(plan::optimizer_specs().size(), tensor::optimizers().size());
  for (const plan::OptimizerSpec& spec : plan::optimizer_specs()) {
    EXPECT_EQ(spec.state_count(), tensor::find_optimizer(spec.name).states) << spec.name;
  }
}

TEST(OptimizerRule, TheScheduleMovesTheFirstDecayOfEveryOptimizer) {
  for (const plan::OptimizerSpec& spec : plan::optimizer_specs()) {
    config::Optimizer optimizer;
    optimizer.name = std::string(spec.name);
    const OptimizerRule rule(optimizer, {});
    const tensor::StepParameters p = rule.parameters(4, {.lr = 0.5, .momentum = 0.7}, 0.25, {});
    EXPECT_EQ(spec.name == "sgd" ? p.momentum : p.beta1, 0.7);
    EXPECT_EQ(p.step, 5);
    EXPECT_EQ(p.weight_decay, optimizer.weight_decay);
    plan::FlatGroup group;
    group.decays = false;
    EXPECT_EQ(rule.parameters(4, {}, 1, group).weight_decay, 0);
    group.rule = {.lr_scale = 0.5, .weight_decay = 3};
    EXPECT_EQ(rule.parameters(4, {.lr = 2}, 1, group).weight_decay, 3);
    EXPECT_EQ(rule.parameters(4, {.lr = 2}, 1, group).lr, 1);
    EXPECT_EQ(rule.parameters(4, {.momentum = 0.7}, 1, group).beta2, optimizer.beta2);
    group.rule.beta1 = 0.25;
    group.rule.beta2 = 0.75;
    group.rule.eps = 0.125;
    const tensor::StepParameters own = rule.parameters(4, {.momentum = 0.7}, 1, group);
    EXPECT_EQ(own.beta1, 0.25);
    EXPECT_EQ(own.beta2, 0.75);
    EXPECT_EQ(own.eps, 0.125);
  }
}

// Each steps by its own states, and by what the schedule says of the run's where it moves that.
TEST(OptimizerRule, AGroupsOptimizerHasItsOwnStatesAndMomentum) {
  config::Optimizer optimizer;
  optimizer.momentum = 0.25;
  optimizer.groups = {"a name=sgd", "b name=muon momentum=0.75", "c name=adam"};
  const OptimizerRule rule(optimizer, {}, {.decay = 0.5});
  plan::FlatGroup group;
  const auto of = [&](const std::string& name) -> const plan::FlatGroup& {
    group.rule.optimizer = name;
    return group;
  };
  EXPECT_EQ(rule.kernel_of(of("adamw").rule).states, (std::vector<size_t>{0, 1}));
  EXPECT_EQ(rule.kernel_of(of("sgd").rule).states, (std::vector<size_t>{2}));
  EXPECT_EQ(rule.kernel_of(of("muon").rule).states, (std::vector<size_t>{3, 4}));
  EXPECT_EQ(rule.kernel_of(of("adam").rule).states, (std::vector<size_t>{5, 6}));
  EXPECT_EQ(rule.states().size(), 8U);
  EXPECT_EQ(rule.kernel_of(of("sgd").rule).optimizer->name, "sgd");
  EXPECT_THROW(rule.kernel_of(of("lion").rule), Error);
  EXPECT_EQ(rule.parameters(0, {.momentum = 0.5}, 1, of("sgd")).momentum, 0.25);
  EXPECT_EQ(rule.parameters(0, {.momentum = 0.5}, 1, of("adam")).beta1, 0.5);
  config::LrScheduler moving;
  moving.decay_type = "one_cycle";
  const OptimizerRule moved(optimizer, moving);
  EXPECT_EQ(moved.parameters(0, {.momentum = 0.5}, 1, of("sgd")).momentum, 0.5);
  EXPECT_EQ(moved.parameters(0, {.momentum = 0.5}, 1, of("muon")).momentum, 0.25);
  group.rule.momentum = 0.75;
  EXPECT_EQ(moved.parameters(0, {.momentum = 0.5}, 1, of("muon")).momentum, 0.75);
}

TEST(OptimizerRule, TheAverageForgetsItsStartWithWarmup) {
  config::Ema ema{.decay = 0.5};
  EXPECT_EQ(OptimizerRule({}, {}, ema).average_decay(0), 0.5);
  ema.warmup = true;
  EXPECT_EQ(OptimizerRule({}, {}, ema).average_decay(0), 2.0 / 11);
  EXPECT_EQ(OptimizerRule({}, {}, ema).average_decay(1000), 0.5);
  EXPECT_EQ(OptimizerRule({}, {}, ema).states().back().name, plan::kAverageState);
}

}  // namespace
}  // namespace furrow::train
