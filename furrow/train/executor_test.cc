// The equalities of the executor: recompute, accumulation, threads of execution never change a bit.
#include <gtest/gtest.h>

#include <cmath>

#include "furrow/base/error.h"
#include "furrow/tensor/norm.h"
#include "furrow/train/executor_state_torch.h"
#include "furrow/train/executor_torch.h"
#include "tests/testing/tiny_training_torch.h"

namespace furrow::train {
namespace {

using testing::relative_error;
using testing::run_steps;
using testing::same_bits;
using testing::StepOptions;
using testing::StepResult;
using testing::TinyTraining;

TEST(Operations, EveryOneHasAHandler) {
  for (const plan::Op op : plan::all_ops()) EXPECT_NE(handler_of(op), nullptr) << plan::op_info(op).name;
}

class Networks : public ::testing::TestWithParam<std::string> {
 protected:
  TinyTraining tiny_ = testing::tiny(GetParam());
};

TEST_P(Networks, RecomputeChangesNoBitOfTenSteps) {
  const size_t units = tiny_.spec.units.size();
  StepOptions options;
  options.microbatch_sizes = {4, 4, 4};
  options.steps = 10;
  const StepResult plain = run_steps(tiny_, options);
  options.recompute.assign(units, true);
  const StepResult full = run_steps(tiny_, options);
  options.recompute.assign(units, false);
  options.recompute[units / 2] = true;
  const StepResult one = run_steps(tiny_, options);
  for (const StepResult* other : {&full, &one}) {
    EXPECT_TRUE(same_bits(plain.params, other->params));
    EXPECT_TRUE(same_bits(plain.read, other->read));
    EXPECT_TRUE(same_bits(plain.states, other->states));
    EXPECT_TRUE(same_bits(plain.statistics, other->statistics));
    EXPECT_EQ(plain.outputs.loss.loss.value(), other->outputs.loss.loss.value());
  }
}

TEST_P(Networks, AFlippedBitIsSeen) {
  StepOptions options;
  const StepResult a = run_steps(tiny_, options);
  const StepResult b = run_steps(tiny_, options);
  ASSERT_TRUE(same_bits(a.params, b.params));
  for (const at::Tensor& t : b.params) {
    if (t.defined() && t.numel() > 3) reinterpret_cast<uint32_t*>(t.data_ptr<float>())[3] ^= 1;
  }
  EXPECT_FALSE(same_bits(a.params, b.params));
}

// The gradients of microbatches computed apart, one program each.
std::vector<StepResult> apart(const TinyTraining& tiny, int count, int64_t size) {
  std::vector<StepResult> results;
  for (int m = 0; m < count; ++m) {
    StepOptions options;
    options.microbatch_sizes = {size};
    options.position = m * size;
    results.push_back(run_steps(tiny, options));
  }
  return results;
}

at::Tensor tree_sum(const std::vector<StepResult>& parts, size_t unit, int begin, int end) {
  if (end - begin == 1) return parts[begin].gradients[unit];
  const int middle = plan::tree_split(begin, end);
  return tree_sum(parts, unit, begin, middle) + tree_sum(parts, unit, middle, end);
}

TEST_P(Networks, AccumulationIsTheTreeSumBitForBit) {
  const bool tied =
      GetParam().find("-tied") != std::string::npos;  // its uses are summed apart: see the next test
  for (const int count : {2, 3, 5, 8}) {
    std::vector<StepResult> parts = apart(tiny_, count, 4);
    StepOptions options;
    options.microbatch_sizes.assign(count, 4);
    const StepResult whole = run_steps(tiny_, options);
    std::vector<at::Tensor> sums, swapped;
    for (size_t u = 0; u < parts[0].gradients.size(); ++u) {
      sums.push_back(parts[0].gradients[u].defined() ? tree_sum(parts, u, 0, count) : at::Tensor());
    }
    if (tied) {
      sums[0] = whole.gradients[0];
      EXPECT_LT(relative_error({tree_sum(parts, 0, 0, count)}, {whole.gradients[0]}), 1e-6);
    }
    EXPECT_TRUE(same_bits(sums, whole.gradients)) << count << " microbatches";
    if (count < 3) continue;  // a + b is b + a
    std::swap(parts[0], parts[count - 1]);
    for (size_t u = 0; u < parts[0].gradients.size(); ++u) {
      swapped.push_back(parts[0].gradients[u].defined() ? tree_sum(parts, u, 0, count) : at::Tensor());
    }
    EXPECT_FALSE(same_bits(swapped, whole.gradients)) << "a swapped microbatch went unseen";
  }
}

TEST_P(Networks, OneLargeBatchIsWithinABound) {
  // Norms over a microbatch make its size part of the recipe.
  const bool by_microbatch = GetParam().starts_with("resnet") || GetParam().starts_with("normed");
  StepOptions options;
  options.microbatch_sizes = {4, 4, 4, 4};
  const StepResult accumulated = run_steps(tiny_, options);
  options.microbatch_sizes = {16};
  const StepResult large = run_steps(tiny_, options);
  EXPECT_EQ(accumulated.outputs.loss.count, large.outputs.loss.count);
  if (by_microbatch) {
    EXPECT_GT(relative_error(accumulated.gradients, large.gradients), 1e-3);
    return;
  }
  EXPECT_NEAR(accumulated.outputs.loss.mean(), large.outputs.loss.mean(), 1e-6);
  EXPECT_LT(relative_error(accumulated.gradients, large.gradients), 2e-6);
  options.position = 16;
  EXPECT_GT(relative_error(accumulated.gradients, run_steps(tiny_, options).gradients), 1e-3);
}

TEST_P(Networks, TheNormIsThatOfTheMeanGradient) {
  const StepResult result = run_steps(tiny_, {});
  double squares = 0;
  for (const at::Tensor& gradient : result.gradients) {
    if (gradient.defined()) squares += gradient.to(at::kDouble).square().sum().item<double>();
  }
  const double expected = std::sqrt(squares) / result.outputs.loss.divisor();
  EXPECT_NEAR(result.outputs.scale.norm, expected, 1e-9 * expected);
  EXPECT_NEAR(result.outputs.scale.factor * result.outputs.loss.divisor(),
              std::min(1.0, 1.0 / (expected + 1e-6)), 1e-9);
}

TEST_P(Networks, OnlyParametersThatDecayDecay) {
  TinyTraining still = tiny_;
  still.config.optimizer.weight_decay = 0;
  const StepResult with = run_steps(tiny_, {}), without = run_steps(still, {});
  const plan::FlatLayout flat = plan::flat_layout(tiny_.spec);
  for (size_t u = 0; u < with.params.size(); ++u) {
    if (!with.params[u].defined()) continue;
    int64_t border = 0;
    const int64_t end = flat.units[u].elements;
    for (const plan::FlatGroup& group : flat.units[u].groups) border = group.decays ? group.end : border;
    const auto part = [](const at::Tensor& t, int64_t from, int64_t to) {
      return t.narrow(0, from, to - from);
    };
    EXPECT_TRUE(same_bits({part(with.params[u], border, end)}, {part(without.params[u], border, end)}));
    EXPECT_EQ(same_bits({part(with.params[u], 0, border)}, {part(without.params[u], 0, border)}),
              border == 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Tiny, Networks, ::testing::ValuesIn(testing::tiny_names()),
                         [](const auto& info) { return testing::test_name(info.param); });

// Parameters of one name in a run's buffers.
at::Tensor parameter_of(const TinyTraining& tiny, const StepResult& result, const std::string& name,
                        const std::vector<at::Tensor>& buffers) {
  const plan::ModelSpec spec = tiny.trained_spec();
  const plan::FlatLayout flat = plan::flat_layout(spec);
  for (size_t u = 0; u < spec.units.size(); ++u) {
    for (const plan::FlatSpan& span : flat.units[u].spans) {
      if (spec.units[u].parameters[span.parameter].name == name)
        return buffers[u].narrow(0, span.offset, span.size);
    }
  }
  ADD_FAILURE() << "no parameter " << name << result.params.size();
  return {};
}

std::vector<std::string> own_names(const plan::ModelSpec& spec) {
  std::vector<std::string> names;
  for (const plan::Unit& unit : spec.units) {
    for (const plan::Parameter& parameter : unit.parameters) {
      if (!parameter.tied()) names.push_back(parameter.name);
    }
  }
  return names;
}

// Each parameter frozen alone: it stays, nothing is allotted for it, and the gradients of all others keep
// every bit of theirs, so that one step of theirs does too (but for the global norm, which is not clipped
// here).
TEST_P(Networks, FreezingOneParameterChangesNoOther) {
  TinyTraining tiny = tiny_;
  StepOptions options;
  options.max_norm = 0;
  const StepResult plain = run_steps(tiny, options), start = run_steps(tiny, {.steps = 0});
  for (const std::string& frozen : own_names(tiny.spec)) {
    TinyTraining part = tiny;
    part.config.optimizer.groups = {frozen + " frozen=true"};
    const StepResult result = run_steps(part, options);
    for (const std::string& name : own_names(tiny.spec)) {
      const StepResult& expected = name == frozen ? start : plain;
      EXPECT_TRUE(same_bits({parameter_of(part, result, name, result.read)},
                            {parameter_of(tiny, expected, name, expected.read)}))
          << frozen << " " << name;
    }
  }
}

// Everything frozen but the last unit: the units below have no backward.
TEST(Freezing, BelowTheFirstTrainedUnitThereIsNoBackward) {
  TinyTraining tiny = testing::tiny("gpt-untied");
  tiny.config.optimizer.groups = {"* frozen=true", "lm_head.* frozen=false", "ln_f.* frozen=false"};
  const plan::Program program = plan::compile_train(tiny.trained_spec(), plan::Layout(), {{4}, {}, 2});
  int backward = 0;
  for (const plan::Instruction& instruction : program.instructions)
    backward += instruction.op == plan::Op::kBackwardInput ? 1 : 0;
  EXPECT_EQ(backward, 1);
  const StepResult result = run_steps(tiny, {.steps = 2}), start = run_steps(tiny, {.steps = 0});
  const auto same = [&](const std::string& name) {
    return same_bits({parameter_of(tiny, result, name, result.params)},
                     {parameter_of(tiny, start, name, start.params)});
  };
  EXPECT_TRUE(same("h.0.attn.c_attn.weight"));
  EXPECT_FALSE(same("lm_head.weight"));
}

// torch.nn.BatchNorm2d's rule, microbatch after microbatch: each alone folded into what the one before left.
TEST(Statistics, FoldMicrobatchesInOrder) {
  const TinyTraining tiny = testing::tiny("resnet");
  const StepResult start = run_steps(tiny, {.steps = 0});
  StepOptions options;
  options.microbatch_sizes = {4, 4, 3};
  const StepResult whole = run_steps(tiny, options);
  const plan::FlatLayout flat = plan::flat_layout(tiny.spec);
  for (size_t u = 0; u < tiny.spec.units.size(); ++u) {
    for (const plan::StatisticSpan& span : flat.units[u].statistics) {
      const plan::Statistic& statistic = tiny.spec.units[u].statistics[span.statistic];
      const auto part = [&](const StepResult& result) {
        return result.statistics[u].narrow(0, span.offset, span.size);
      };
      if (statistic.fold == plan::Statistic::Fold::kCount) {
        EXPECT_EQ(part(whole).view(at::kLong).item<int64_t>(), 3) << statistic.name;
        continue;
      }
      // One microbatch alone moves the start by momentum; what it says follows from that.
      at::Tensor running = part(start).to(at::kDouble), backwards = running;
      std::vector<at::Tensor> said;
      for (const int64_t m : {0, 1, 2}) {
        StepOptions one;
        one.microbatch_sizes = {options.microbatch_sizes[m]};
        one.position = 4 * m;
        const at::Tensor alone = part(run_steps(tiny, one)).to(at::kDouble);
        said.push_back((alone - 0.9 * part(start).to(at::kDouble)) / 0.1);
      }
      for (const int m : {0, 1, 2}) running = 0.9 * running + 0.1 * said[m];
      for (const int m : {2, 1, 0}) backwards = 0.9 * backwards + 0.1 * said[m];
      EXPECT_LT(relative_error({part(whole).to(at::kDouble)}, {running}), 1e-6) << statistic.name;
      EXPECT_GT(relative_error({part(whole).to(at::kDouble)}, {backwards}), 1e-5) << statistic.name;
    }
  }
}

// Their average follows what every step leaves, as torch.optim.swa_utils.AveragedModel has it with its
// buffers; a count is the model's own.
TEST(Statistics, AreAveragedWithTheWeights) {
  TinyTraining tiny = testing::tiny("resnet");
  const StepResult plain = run_steps(tiny, {.steps = 3});
  tiny.config.ema.decay = 0.75;
  std::vector<StepResult> after;
  for (const int steps : {0, 1, 2, 3}) after.push_back(run_steps(tiny, {.steps = steps}));
  const plan::FlatLayout flat = plan::flat_layout(tiny.spec);
  for (size_t u = 0; u < tiny.spec.units.size(); ++u) {
    for (const plan::StatisticSpan& span : flat.units[u].statistics) {
      const plan::Statistic& statistic = tiny.spec.units[u].statistics[span.statistic];
      const auto running = [&](const StepResult& result) {
        return result.statistics[u].narrow(0, span.offset, span.size);
      };
      const at::Tensor own =
          after[3].statistics[u].narrow(0, flat.units[u].statistic_elements + span.offset, span.size);
      EXPECT_TRUE(running(after[3]).equal(running(plain))) << statistic.name;
      if (statistic.fold == plan::Statistic::Fold::kCount) {
        EXPECT_EQ(own.view(at::kLong).item<int64_t>(), 3) << statistic.name;
        continue;
      }
      at::Tensor average = running(after[0]);
      for (const int step : {1, 2, 3}) {
        const at::Tensor old = average.to(at::kDouble);
        average = (old + 0.25 * (running(after[step]).to(at::kDouble) - old)).to(at::kFloat);
      }
      EXPECT_TRUE(own.equal(average)) << statistic.name;
      EXPECT_FALSE(own.equal(running(after[3]))) << "control: " << statistic.name;
    }
  }
}

TEST(Statistics, AStepThatIsSkippedLeavesThemAlone) {
  TinyTraining tiny = testing::tiny("resnet");
  const StepResult before = run_steps(tiny, {.steps = 0});
  std::vector<int64_t> first(4);
  data::SampleOrder(42, tiny.source->size(), true).indices(0, first);
  tiny.source->poison(first[1]);
  const StepResult after = run_steps(tiny, {});
  EXPECT_FALSE(after.outputs.scale.finite);
  EXPECT_TRUE(same_bits(before.statistics, after.statistics));
}

TEST(NonFinite, LeavesTheModelAlone) {
  TinyTraining tiny = testing::tiny("mlp");
  const StepResult before = run_steps(tiny, {.steps = 0});
  std::vector<int64_t> first(4);
  data::SampleOrder(42, tiny.source->size(), true).indices(0, first);
  tiny.source->poison(first[2]);
  const StepResult after = run_steps(tiny, {});
  EXPECT_FALSE(after.outputs.scale.finite);
  EXPECT_GE(after.outputs.scale.non_finite_unit, 0);
  EXPECT_TRUE(same_bits(before.params, after.params));
  EXPECT_TRUE(same_bits(before.states, after.states));
}

// A nanosecond passes with every reading.
class CountingClock : public Clock {
 public:
  int64_t monotonic_ns() const override { return ++readings_; }
  int64_t unix_ns() const override { return 0; }

 private:
  mutable int64_t readings_ = 0;
};

// Four readings an instruction, the handler between two of them; two around the whole.
TEST(OwnTime, IsWhatIsNotSpentInHandlers) {
  const TinyTraining tiny = testing::tiny("mlp");
  const OptimizerRule rule = tiny.rule();
  ModelState model(tiny.spec, rule.states(), 42);
  const CountingClock clock;
  RankContext rank;
  rank.clock = &clock;
  Executor executor(plan::compile_train(tiny.spec, plan::Layout(), {{4, 4}, {}, 2}), model,
                    find_objective("supervised"), &rule, rank);
  data::Loader loader(*tiny.source, data::SampleOrder(1, tiny.source->size(), true), {.sizes = {4, 4}});
  RunInputs inputs;
  inputs.loader = &loader;
  inputs.rates = {0.1, 0.9};
  const auto instructions = static_cast<int64_t>(executor.program().instructions.size());
  EXPECT_EQ(executor.run(inputs).own_ns, 3 * instructions + 1);
}

TEST(Cancelled, NothingIsApplied) {
  const TinyTraining tiny = testing::tiny("mlp");
  const OptimizerRule rule = tiny.rule();
  ModelState model(tiny.spec, rule.states(), 42), untouched(tiny.spec, rule.states(), 42);
  CancelToken cancel;
  cancel.cancel();
  RankContext rank;
  rank.cancel = &cancel;
  Executor executor(plan::compile_train(tiny.spec, plan::Layout(), {{4}, {}, 2}), model,
                    find_objective("supervised"), &rule, rank);
  data::Loader loader(*tiny.source, data::SampleOrder(1, tiny.source->size(), true), {.sizes = {4}});
  RunInputs inputs;
  inputs.loader = &loader;
  inputs.rates = {0.1, 0.9};
  try {
    executor.run(inputs);
    FAIL() << "ran although cancelled";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCancelled);
  }
  EXPECT_TRUE(same_bits({model.unit(0).params}, {untouched.unit(0).params}));
}

}  // namespace
}  // namespace furrow::train
