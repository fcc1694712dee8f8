// Training in float16: against plain libtorch, overflow, the loss scale over steps and ranks.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "furrow/plan/flat_layout.h"
#include "tests/testing/tiny_world_torch.h"

namespace furrow::train {
namespace {

using testing::run_steps;
using testing::same_bits;
using testing::StepOptions;
using testing::StepResult;
using testing::TinyTraining;

// Parameters and gradients of one unit, by the order of its spec.
std::vector<at::Tensor> parts(const plan::ModelSpec& spec, size_t unit, const at::Tensor& flat) {
  const plan::UnitLayout layout = plan::unit_layout(spec.units[unit]);
  std::vector<at::Tensor> views(spec.units[unit].parameters.size());
  for (const plan::FlatSpan& span : layout.spans)
    views[span.parameter] =
        flat.narrow(0, span.offset, span.size).view(spec.units[unit].parameters[span.parameter].shape);
  return views;
}

at::Tensor rounded(const at::Tensor& x) { return x.to(at::kHalf).to(at::kFloat); }

// The gradients of the sum of losses times `factor`, by unit and parameter: libtorch's products and the same
// rounding between them.
std::vector<std::vector<at::Tensor>> reference(const plan::ModelSpec& spec, const StepResult& start,
                                               const at::Tensor& images, const at::Tensor& targets,
                                               double factor) {
  std::vector<at::Tensor> inputs, weights;
  at::Tensor x = rounded(images.flatten(1));
  for (size_t u = 0; u < spec.units.size(); ++u) {
    const std::vector<at::Tensor> own = parts(spec, u, start.params[u]);
    inputs.push_back(x);
    weights.push_back(rounded(own[0]));
    x = at::linear(x, weights.back(), rounded(own[1]));
    x = rounded(u + 1 < spec.units.size() ? at::relu(x) : x);
  }
  at::Tensor dy = rounded((at::softmax(x, 1) - at::one_hot(targets, 10)) * factor);
  std::vector<std::vector<at::Tensor>> gradients(spec.units.size());
  for (size_t u = spec.units.size(); u-- > 0;) {
    gradients[u] = {dy.t().mm(inputs[u]), dy.sum(0)};
    if (u > 0) dy = rounded(rounded(dy.mm(weights[u])) * (inputs[u] > 0));
  }
  return gradients;
}

struct Batch {
  at::Tensor images = at::empty({4, 1, 28, 28}), targets = at::empty({4}, at::kLong);
};

Batch first_batch(const TinyTraining& tiny) {
  std::vector<int64_t> indices(4);
  data::SampleOrder(42, tiny.source->size(), true).indices(0, indices);
  Batch batch;
  const auto view = [](const at::Tensor& t, DType type) {
    return ArrayView{
        type, t.sizes().vec(), {static_cast<std::byte*>(t.data_ptr()), static_cast<size_t>(t.nbytes())}, {}};
  };
  const std::vector<ArrayView> views = {view(batch.images, DType::kF32), view(batch.targets, DType::kI64)};
  tiny.source->read(indices, views);
  return batch;
}

// Distance from the reference in float16 with a scale, and of gradients that travel without one.
TEST(Float16, GradientsAreThoseOfPlainLibtorch) {
  TinyTraining tiny = testing::tiny("mlp@float16");
  const StepResult start = run_steps(tiny, {.steps = 0});
  const Batch batch = first_batch(tiny);
  for (const double scale : {1.0, 1024.0, 65536.0}) {
    StepOptions options;
    options.loss_scale = {scale, 0};
    const StepResult result = run_steps(tiny, options);
    const double factor = factor_of_sum(options.loss_scale, 4);
    const auto expected = reference(tiny.spec, start, batch.images, batch.targets, factor);
    double square = 0;
    for (size_t u = 0; u < expected.size(); ++u) {
      const std::vector<at::Tensor> own = parts(tiny.spec, u, result.gradients[u]);
      for (size_t i = 0; i < own.size(); ++i) {
        EXPECT_LT(testing::relative_error({own[i]}, {expected[u][i]}), 2e-3) << scale << " " << u << " " << i;
        square += (own[i].to(at::kDouble) / factor).square().sum().item<double>();
      }
    }
    EXPECT_NEAR(result.outputs.scale.norm, std::sqrt(square) / 4, 1e-9 * std::sqrt(square));
  }
}

// A power of two goes through products without a trace, until gradients are too small for float16.
TEST(Float16, TheScaleCancelsUntilGradientsAreLost) {
  const TinyTraining tiny = testing::tiny("mlp@float16");
  StepOptions options;
  options.loss_scale = {65536, 0};
  const StepResult large = run_steps(tiny, options);
  const auto error_with = [&](double factor) {
    options.loss_scale.factor = factor;
    const StepResult other = run_steps(tiny, options);
    std::vector<at::Tensor> scaled;
    for (const at::Tensor& gradient : other.gradients) scaled.push_back(gradient * (65536 / factor));
    return testing::relative_error(scaled, large.gradients);
  };
  EXPECT_LT(error_with(32768), 1e-4);
  EXPECT_GT(error_with(std::ldexp(1.0, -18)), 1e-2) << "control: without a scale they are lost";
}

// Steps whose gradients overflow leave everything alone and lower the scale, until one is finite.
TEST(Float16, AnOverflowSkipsTheStepAndLowersTheScale) {
  const TinyTraining tiny = testing::tiny("gpt-tied@float16");
  const StepResult start = run_steps(tiny, {.steps = 0});
  StepOptions options;
  options.loss_scale = {std::ldexp(1.0, 40), 5};
  const StepResult once = run_steps(tiny, options);
  EXPECT_FALSE(once.outputs.scale.finite);
  EXPECT_TRUE(std::isfinite(once.outputs.loss.mean()));
  EXPECT_EQ(once.outputs.phases[0].state, (PhaseState{1, {std::ldexp(1.0, 39), 0}}));
  EXPECT_TRUE(same_bits(once.params, start.params));
  EXPECT_TRUE(same_bits(once.read, start.read));
  EXPECT_TRUE(same_bits(once.states, start.states));
  options.steps = 40;
  const StepResult later = run_steps(tiny, options);
  EXPECT_TRUE(later.outputs.scale.finite);
  EXPECT_LT(later.outputs.phases[0].state.loss_scale.factor, std::ldexp(1.0, 30));
  EXPECT_GT(later.outputs.phases[0].state.loss_scale.factor, 1024);
  EXPECT_FALSE(same_bits(later.params, start.params));
}

// The same steps, skipped and taken, on any ranks; growth and overflow on the way.
TEST(Float16, OverflowAndGrowthAreTheSameInEveryLayout) {
  for (const std::string name : {"gpt-tied@float16", "lstm@float16", "convnet@float16"}) {
    TinyTraining tiny = testing::tiny(name);
    tiny.config.grad_scaler.growth_interval = 2;
    StepOptions options;
    options.microbatch_sizes = {2, 2, 2, 1};
    options.steps = 12;
    options.loss_scale = {std::ldexp(1.0, 24), 1};
    const StepResult whole = run_steps(tiny, options);
    EXPECT_GT(whole.skipped, 0) << name;
    EXPECT_LT(whole.skipped, options.steps - 2) << name;
    std::vector<testing::WorldOptions> worlds = testing::some_layouts();
    worlds.push_back({.shard = 2, .zero_stage = 1, .pipeline = 2});
    for (const testing::WorldOptions& world : worlds) {
      testing::run_world(tiny, options, world, [&](const testing::RankResult& rank) {
        EXPECT_EQ(testing::difference(rank, whole), "") << name << " " << world.name();
      });
    }
    StepOptions recompute = options;
    recompute.recompute.assign(tiny.spec.units.size(), true);
    EXPECT_TRUE(same_bits(run_steps(tiny, recompute).params, whole.params)) << name;
  }
}

}  // namespace
}  // namespace furrow::train
