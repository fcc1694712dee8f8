#include "furrow/plan/optimizer_spec.h"

#include <gmock/gmock.h>

#include "furrow/base/error.h"
#include "furrow/plan/flat_layout.h"
#include "furrow/plan/testing/specs.h"
#include "furrow/plan/value_bytes.h"

namespace furrow::plan {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::vector<std::string> names(const config::Optimizer& optimizer, const config::LrScheduler& schedule,
                               const config::Ema& ema = {}) {
  std::vector<std::string> names;
  for (const StateSpec& state : optimizer_states(optimizer, schedule, ema)) names.push_back(state.name);
  return names;
}

TEST(OptimizerSpec, SgdKeepsABufferOnlyWhereSomethingMovesByMomentum) {
  config::Optimizer optimizer;
  config::LrScheduler schedule;
  optimizer.name = "sgd";
  EXPECT_THAT(names(optimizer, schedule), IsEmpty());
  schedule.decay_type = "one_cycle";
  EXPECT_THAT(names(optimizer, schedule), ElementsAre("momentum_buffer"));
  schedule.decay_type = "cosine";
  optimizer.momentum = 0.9;
  EXPECT_THAT(names(optimizer, schedule), ElementsAre("momentum_buffer"));
}

TEST(OptimizerSpec, StatesAreInTheOrderOfTheBuffers) {
  config::Optimizer optimizer;
  EXPECT_THAT(names(optimizer, {}), ElementsAre("exp_avg", "exp_avg_sq"));
  optimizer.name = "lion";
  EXPECT_THAT(names(optimizer, {}), ElementsAre("exp_avg"));
}

TEST(OptimizerSpec, AnAverageIsTheLastState) {
  config::Optimizer optimizer;
  config::Ema ema;
  ema.decay = 0.9;
  EXPECT_THAT(names(optimizer, {}, ema), ElementsAre("exp_avg", "exp_avg_sq", "ema"));
}

// A chain of two units, "u0.weight u0.bias u1.weight u1.bias", under these groups.
ModelSpec grouped(const std::vector<std::string>& groups, const std::string& name = "adamw") {
  ModelSpec spec = testing::chain(2);
  config::Optimizer optimizer;
  optimizer.name = name;
  optimizer.lr = 0.5;
  optimizer.groups = groups;
  apply_optimizer(optimizer, &spec);
  return spec;
}

TEST(Groups, LaterEntriesWinKeyByKey) {
  const ModelSpec spec =
      grouped({"u0.* lr=0.25 weight_decay=2", "*.bias lr=1 frozen=true", "u1.bias frozen=false"});
  const auto rule = [&](int unit, int parameter) { return spec.units[unit].parameters[parameter].rule; };
  EXPECT_EQ(rule(0, 0), (ParameterRule{false, 0.5, 2.0}));
  EXPECT_EQ(rule(0, 1), (ParameterRule{true, 2.0, 2.0}));
  EXPECT_EQ(rule(1, 0), ParameterRule{});
  EXPECT_EQ(rule(1, 1), (ParameterRule{false, 2.0, {}}));
}

TEST(Groups, AnOptimizerOfItsOwnHasItsOwnDecays) {
  const ModelSpec spec =
      grouped({"u0.* beta1=0.5 eps=0", "u0.bias beta1=0 beta2=0.999", "u1.weight eps=0.25"});
  const auto rule = [&](int unit, int parameter) { return spec.units[unit].parameters[parameter].rule; };
  EXPECT_EQ(rule(0, 0), (ParameterRule{false, 1, {}, 0.5, {}, 0.0}));
  EXPECT_EQ(rule(0, 1), (ParameterRule{false, 1, {}, 0.0, 0.999, 0.0}));
  EXPECT_EQ(rule(1, 0), (ParameterRule{false, 1, {}, {}, {}, 0.25}));
  EXPECT_EQ(rule(1, 1), ParameterRule{});
  EXPECT_EQ(flat_layout(spec).units[0].groups.size(), 2u) << "of each its own";
  const auto error_of = [](const std::string& entry, const std::string& optimizer) -> std::string {
    try {
      grouped({entry}, optimizer);
    } catch (const Error& error) {
      return error.message();
    }
    return "accepted";
  };
  for (const OptimizerSpec& each : optimizer_specs()) {
    for (const std::string key : {"beta1", "beta2", "eps"}) {
      const std::string message = error_of("u0.* " + key + "=0.5", std::string(each.name));
      const bool has = each.name == "lion" ? key != "eps" : each.name != "sgd" && each.name != "adafactor";
      EXPECT_THAT(message, HasSubstr(has ? "accepted" : "has no " + key)) << each.name;
    }
  }
}

// States belong to the parameters of their optimizer alone, in whichever slice those lie.
TEST(Groups, ParametersMayHaveAnOptimizerOfTheirOwn) {
  config::Optimizer optimizer;
  optimizer.groups = {"*.bias name=sgd momentum=0.5", "u1.weight name=adamw8bit", "u1.bias name=adamw"};
  EXPECT_THAT(optimizers_of(optimizer), ElementsAre("adamw", "sgd", "adamw8bit"));
  ModelSpec spec = testing::chain(2, 64);
  optimizer.groups[2] = "u1.bias lr=1";
  apply_optimizer(optimizer, &spec);
  EXPECT_EQ(spec.units[0].parameters[0].rule.optimizer, "adamw");
  EXPECT_EQ(spec.units[0].parameters[1].rule.optimizer, "sgd");
  EXPECT_EQ(spec.units[0].parameters[1].rule.momentum, 0.5);
  EXPECT_EQ(spec.alignment, kStateBlock);
  config::Ema ema;
  ema.decay = 0.9;
  const std::vector<StateSpec> states = optimizer_states(optimizer, {}, ema);
  EXPECT_THAT(names(optimizer, {}, ema),
              ElementsAre("exp_avg", "exp_avg_sq", "momentum_buffer", "exp_avg", "exp_avg_scale",
                          "exp_avg_root", "exp_avg_root_scale", "ema"));
  const FlatLayout flat = flat_layout(spec);  // of each unit the weight's 64 x 64 and a block of the bias
  const auto sizes = [&](int unit, const Slice& slice) {
    std::vector<int64_t> sizes;
    for (const StateSpec& state : states)
      sizes.push_back(state_slice(state.form, flat.units[static_cast<size_t>(unit)], slice).size());
    return sizes;
  };
  EXPECT_THAT(sizes(0, {0, 5120}), ElementsAre(4096, 4096, 1024, 0, 0, 0, 0, 5120));
  EXPECT_THAT(sizes(1, {0, 5120}), ElementsAre(0, 0, 1024, 4096, 16, 4096, 16, 5120));
  EXPECT_THAT(sizes(0, {3072, 5120}), ElementsAre(1024, 1024, 1024, 0, 0, 0, 0, 2048));
  EXPECT_THAT(sizes(1, {1024, 2048}), ElementsAre(0, 0, 0, 1024, 4, 1024, 4, 1024));
  EXPECT_EQ(state_shape(states[2].form, flat.units[0].spans[0], spec.units[0].parameters[0]), Shape{0});
  EXPECT_EQ(state_shape(states[2].form, flat.units[0].spans[1], spec.units[0].parameters[1]), Shape{64});
  EXPECT_EQ(state_shape(states[4].form, flat.units[1].spans[0], spec.units[1].parameters[0]), Shape{16});
}

// Naming the run's own optimizer alone changes nothing.
TEST(Groups, OneOptimizerNeedsNoName) {
  EXPECT_EQ(grouped({"*.bias name=adamw"}).units[0].parameters[1].rule, ParameterRule{});
  const ModelSpec spec = grouped({"u0.* name=muon", "u0.weight name=sgd", "u1.weight name=lamb"}, "adamw");
  EXPECT_FALSE(spec.units[0].parameters[0].whole);
  EXPECT_TRUE(spec.units[1].parameters[0].whole);
  EXPECT_FALSE(spec.units[1].parameters[1].whole);
}

TEST(Groups, FrozenProductsCostNoBackwardOfWeights) {
  const ModelSpec plain = testing::chain(2), spec = grouped({"u0.* frozen=true", "u1.weight frozen=true"});
  EXPECT_EQ(spec.units[0].flops.backward_weight, 0);
  EXPECT_EQ(spec.units[0].flops.backward_input, plain.units[0].flops.backward_input);
  EXPECT_EQ(spec.units[0].deferred_bytes, 0);
  EXPECT_EQ(spec.units[1].deferred_bytes, plain.units[1].deferred_bytes);
}

TEST(Groups, WhatNeedsWholeParametersSaysSo) {
  EXPECT_TRUE(grouped({}, "lamb").units[0].parameters[0].whole);
  EXPECT_FALSE(grouped({}, "adamw").units[0].parameters[0].whole);
  EXPECT_FALSE(grouped({"u0.weight frozen=true"}, "lamb").units[0].parameters[0].whole);
}

TEST(Groups, MuonTakesHiddenMatricesAlone) {
  ModelSpec spec = testing::chain(3);
  spec.units[0].input.dtype = DType::kI64;
  config::Optimizer optimizer;
  optimizer.name = "muon";
  apply_optimizer(optimizer, &spec);
  EXPECT_FALSE(spec.units[0].parameters[0].whole) << "an embedding";
  EXPECT_TRUE(spec.units[1].parameters[0].whole);
  EXPECT_FALSE(spec.units[1].parameters[1].whole) << "a bias";
  EXPECT_FALSE(spec.units[2].parameters[0].whole) << "the head";
}

TEST(Groups, BlocksBelongToOneParameter) {
  const ModelSpec spec = grouped({}, "adamw8bit");
  for (const UnitLayout& unit : flat_layout(spec).units) {
    for (const FlatSpan& span : unit.spans) EXPECT_EQ(span.offset % kStateBlock, 0);
  }
}

TEST(Groups, ErrorsNameTheEntry) {
  const std::pair<const char*, const char*> cases[] = {
      {"u7.* lr=1", "'u7.* lr=1': it matches no parameter"},
      {"u0.*", "write \"PATTERN key=value"},
      {"u0.* rate=1", "unknown key 'rate'"},
      {"u0.* lr=-1", "lr = -1 is no number"},
      {"u0.* lr=nan", "lr = nan is no number"},
      {"u0.* beta1=1", "beta1 = 1 is no number"},
      {"u0.* beta2=-1", "at least 0 and below 1"},
      {"u0.* eps=-1", "eps = -1 is no number"},
      {"u0.* name=adamv", "unknown optimizer 'adamv'"},
      {"u0.* name", "write name=adamw"},
      {"u0.* momentum=0.5", "adamw has no momentum"},
      {"u0.* beta1=0.5 name=sgd", "u0.weight is stepped by sgd, which has no beta1"},
      {"u0.* frozen=1", "frozen = 1 is not true"},
      {"u0.* weight_decay", "weight_decay =  is no number"}};
  for (const auto& [entry, message] : cases) {
    try {
      grouped({entry});
      ADD_FAILURE() << entry;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      EXPECT_THAT(error.message(), HasSubstr(message));
    }
  }
}

TEST(Groups, AnEarlierEntryMayNotBeForgotten) {
  try {
    grouped({"u0.* beta1=0.5", "*.bias name=sgd"});
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_THAT(error.message(), HasSubstr("sgd has no beta1, which an earlier entry sets for u0.bias"));
  }
}

// Masters are state: frozen parameters have none, whatever their unit computes in.
TEST(Groups, MastersAreOfTrainedParametersAlone) {
  ModelSpec spec = testing::chain(2);
  spec.units[0].compute = spec.units[0].output.dtype = spec.units[1].input.dtype = DType::kBF16;
  const auto state_of = [](ModelSpec with, const std::vector<std::string>& groups) {
    config::Optimizer optimizer;
    optimizer.groups = groups;
    apply_optimizer(optimizer, &with);
    const FlatLayout flat = flat_layout(with);
    const std::vector<int64_t> sizes = {1};
    const Placement alone;
    const StateForms none;
    return value_bytes({with, flat, sizes, alone, none}, state_value(0, 0));
  };
  const int64_t all = flat_layout(spec).units[0].elements;
  EXPECT_EQ(state_of(spec, {}), 4 * all);
  EXPECT_EQ(state_of(spec, {"u0.weight frozen=true"}), 4 * kGrid);
  EXPECT_EQ(state_of(spec, {"u0.* frozen=true"}), 0);
}

TEST(Groups, MuonTakesMatricesThatRead16Bits) {
  ModelSpec spec = testing::chain(3);
  for (Unit& unit : spec.units) unit.compute = unit.input.dtype = unit.output.dtype = DType::kBF16;
  config::Optimizer optimizer;
  optimizer.name = "muon";
  apply_optimizer(optimizer, &spec);
  EXPECT_TRUE(spec.units[1].parameters[0].whole);
}

TEST(Groups, TiedParametersFollowTheirOwner) {
  ModelSpec spec = testing::chain(2);
  spec.units[1].parameters[0].tied_to = "u0.weight";
  config::Optimizer optimizer;
  optimizer.groups = {"u0.weight frozen=true"};
  apply_optimizer(optimizer, &spec);
  EXPECT_TRUE(spec.units[1].parameters[0].rule.frozen);
  optimizer.groups = {"u1.weight frozen=true"};
  EXPECT_THROW(apply_optimizer(optimizer, &spec), Error);
}

TEST(OptimizerSpec, UnknownNameListsTheKnownOnes) {
  try {
    find_optimizer_spec("adamv");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(error.message(),
                HasSubstr("known: adafactor, adam, adamw, adamw8bit, lamb, lion, muon, sgd"));
  }
}

}  // namespace
}  // namespace furrow::plan
