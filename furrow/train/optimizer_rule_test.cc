#include "furrow/train/optimizer_rule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "furrow/plan/optimizer_spec.h"

namespace furrow::train {
namespace {

TEST(OptimizerRule, EveryOptimizerHasOneLoopWithItsStates) {
  EXPECT_EQ(plan::optimizer_specs().size(), tensor::optimizers().size());
  for (const plan::OptimizerSpec& spec : plan::optimizer_specs()) {
    const auto states = std::count_if(spec.states.begin(), spec.states.end(),
                                      [](std::string_view state) { return !state.empty(); });
    EXPECT_EQ(static_cast<size_t>(states), tensor::find_optimizer(spec.name).states) << spec.name;
  }
}

TEST(OptimizerRule, TheScheduleMovesTheFirstDecayOfEveryOptimizer) {
  for (const plan::OptimizerSpec& spec : plan::optimizer_specs()) {
    config::Optimizer optimizer;
    optimizer.name = std::string(spec.name);
    const OptimizerRule rule(optimizer, {});
    const tensor::StepParameters p = rule.parameters(4, {.lr = 0.5, .momentum = 0.7}, 0.25, true);
    EXPECT_EQ(spec.name == "sgd" ? p.momentum : p.beta1, 0.7);
    EXPECT_EQ(p.step, 5);
    EXPECT_EQ(p.weight_decay, optimizer.weight_decay);
    EXPECT_EQ(rule.parameters(4, {}, 1, /*decay=*/false).weight_decay, 0);
  }
}

}  // namespace
}  // namespace furrow::train
