// Two phases a step: the numbers of plain autograd in double, whatever is recomputed or accumulated.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <tuple>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/plan/flat_layout.h"
#include "furrow/train/executor_torch.h"
#include "tests/testing/tiny_world_torch.h"

namespace furrow::train {
namespace {

using testing::relative_error;
using testing::run_steps;
using testing::same_bits;
using testing::StepOptions;
using testing::StepResult;
using testing::TinyTraining;

using Named = std::map<std::string, at::Tensor>;

// Parameters (or their gradients) by name, in double.
Named named(const plan::ModelSpec& spec, const std::vector<at::Tensor>& flat) {
  Named tensors;
  const plan::FlatLayout layout = plan::flat_layout(spec);
  for (size_t u = 0; u < spec.units.size(); ++u) {
    for (const plan::FlatSpan& span : layout.units[u].spans) {
      const plan::Parameter& parameter = spec.units[u].parameters[span.parameter];
      tensors[parameter.name] =
          flat[u].narrow(0, span.offset, span.size).view(parameter.shape).to(at::kDouble).clone();
    }
  }
  return tensors;
}

void want_gradients(Named* params, const std::string& prefix) {
  for (auto& [name, tensor] : *params) tensor.set_requires_grad(name.starts_with(prefix));
}

// alpha / rank of testing::adapted().
constexpr double kAdapterScale = 2;

at::Tensor layer(const Named& params, const std::string& name, const at::Tensor& x) {
  const at::Tensor y = at::linear(x, params.at(name + ".weight"), params.at(name + ".bias"));
  const auto a = params.find(name + ".lora_A.weight");
  if (a == params.end()) return y;
  return y + kAdapterScale * at::linear(at::linear(x, a->second), params.at(name + ".lora_B.weight"));
}

at::Tensor two_layers(const Named& params, const std::string& prefix, const at::Tensor& x) {
  return layer(params, prefix + "fc2", at::leaky_relu(layer(params, prefix + "fc1", x), 0.2));
}

at::Tensor judged(const Named& params, const at::Tensor& x, double label) {
  const at::Tensor logit = two_layers(params, "discriminator.", x);
  return at::binary_cross_entropy_with_logits(logit, at::full_like(logit, label), {}, {},
                                              at::Reduction::Mean);
}

// The first batch of a run, and the noise of its samples.
struct Batch {
  at::Tensor images, noise;
};

Batch first_batch(const TinyTraining& tiny, int64_t size) {
  data::Loader loader(*tiny.source, data::SampleOrder(42, tiny.source->size(), true), {.sizes = {size}});
  const data::Batch& batch = *loader.next();
  const auto pixels = batch.arrays[0].as<float>();
  tensor::OpContext context;
  context.seed = 42;
  context.sample_ids = batch.sample_ids;
  const at::Tensor images = at::tensor(at::ArrayRef<float>(pixels.data(), pixels.size())).view({size, -1});
  const at::Tensor noise = nn::make_block(tiny.spec.units[0])->forward(images, {}, context);
  return {images.to(at::kDouble), noise.to(at::kDouble)};
}

struct Expected {
  Named gradients;
  double discriminator = 0, generator = 0;  // losses
};

// `stepped`: the parameters with the discriminator that the generator learns from.
Expected plain_step(const Named& start, const Named& stepped, const Batch& batch) {
  Expected expected;
  Named params;
  for (const auto& [name, tensor] : start) params[name] = tensor.clone();
  want_gradients(&params, "discriminator.");
  const at::Tensor made = at::sigmoid(two_layers(params, "generator.", batch.noise));
  const at::Tensor loss = (judged(params, batch.images, 1) + judged(params, made, 0)) / 2;
  loss.backward();
  expected.discriminator = loss.item<double>();
  for (const auto& [name, tensor] : params) {
    if (name.starts_with("discriminator.")) expected.gradients[name] = tensor.grad();
  }
  for (const auto& [name, tensor] : stepped) params[name] = tensor.detach().clone();
  for (const auto& [name, tensor] : start) {
    if (name.starts_with("generator.")) params[name] = tensor.detach().clone();
  }
  want_gradients(&params, "generator.");
  const at::Tensor fooled = judged(params, at::sigmoid(two_layers(params, "generator.", batch.noise)), 1);
  fooled.backward();
  expected.generator = fooled.item<double>();
  for (const auto& [name, tensor] : params) {
    if (name.starts_with("generator.")) expected.gradients[name] = tensor.grad();
  }
  return expected;
}

double error_of(const Named& ours, const Named& expected, const std::string& prefix) {
  std::vector<at::Tensor> a, b;
  for (const auto& [name, tensor] : expected) {
    if (!name.starts_with(prefix)) continue;
    a.push_back(ours.at(name));
    b.push_back(tensor);
  }
  return relative_error(a, b);
}

// Steps by the mean gradient itself, so that it can be read off: the buffers of a phase serve the next one.
TinyTraining plain_descent(const std::string& name = "gan") {
  TinyTraining tiny = testing::tiny(name);
  tiny.config.optimizer.name = "sgd";
  tiny.config.optimizer.lr = 1;
  tiny.config.optimizer.beta1 = 0;  // the momentum of a step, too
  tiny.config.optimizer.weight_decay = 0;
  return tiny;
}

Named descended(const Named& before, const Named& after) {
  Named gradients;
  for (const auto& [name, tensor] : before) gradients[name] = tensor - after.at(name);
  return gradients;
}

TEST(Gan, AStepIsThatOfPlainAutogradInDouble) {
  const TinyTraining tiny = plain_descent();
  StepOptions options;
  options.microbatch_sizes = {16};
  options.max_norm = 0;
  const StepResult start = run_steps(tiny, {.steps = 0}), result = run_steps(tiny, options);
  const Named before = named(tiny.spec, start.params), after = named(tiny.spec, result.params);
  const Named ours = descended(before, after);
  const Batch batch = first_batch(tiny, 16);
  const Expected expected = plain_step(before, after, batch);
  EXPECT_LT(error_of(ours, expected.gradients, "discriminator."), 1e-5);
  EXPECT_LT(error_of(ours, expected.gradients, "generator."), 1e-5);
  ASSERT_EQ(result.outputs.phases.size(), 2U);
  EXPECT_EQ(result.outputs.phases[0].loss.count, 32);
  EXPECT_EQ(result.outputs.phases[1].loss.count, 16);
  EXPECT_NEAR(result.outputs.phases[0].loss.mean(), expected.discriminator, 1e-6);
  EXPECT_NEAR(result.outputs.phases[1].loss.mean(), expected.generator, 1e-6);

  // Controls: a generator that learned from the discriminator before its step, and other noise.
  const Expected stale = plain_step(before, before, batch);
  EXPECT_GT(error_of(ours, stale.gradients, "generator."), 1e-3);
  EXPECT_LT(error_of(ours, stale.gradients, "discriminator."), 1e-5);
  const Expected other = plain_step(before, after, {batch.images, batch.noise.roll(1, 0).neg()});
  EXPECT_GT(error_of(ours, other.gradients, "discriminator."), 1e-3);
}

// Each phase trains the adapters of its network; the discriminator's get gradients over the data and over
// what is generated.
TEST(Gan, AStepOfAdaptersIsThatOfPlainAutogradInDouble) {
  TinyTraining tiny = plain_descent();
  tiny.config.lora = testing::adapted("gan").config.lora;
  tiny.config.lora.dropout = 0;
  const plan::ModelSpec spec = tiny.trained_spec();
  const plan::FlatLayout flat = plan::flat_layout(spec);
  StepOptions options;
  options.microbatch_sizes = {16};
  options.max_norm = 0;
  options.start = [&](ModelState& model) {  // both matrices have gradients where neither is zero
    for (size_t u = 0; u < spec.units.size(); ++u) {
      for (const plan::FlatSpan& span : flat.units[u].spans) {
        if (!spec.units[u].parameters[span.parameter].name.ends_with("lora_B.weight")) continue;
        model.unit(static_cast<int>(u))
            .params.narrow(0, span.offset, span.size)
            .copy_(at::arange(span.size, at::kFloat).cos() / 8);
      }
    }
  };
  StepOptions none = options;
  none.steps = 0;
  const Named before = named(spec, run_steps(tiny, none).params);
  const StepResult result = run_steps(tiny, options);
  const Named after = named(spec, result.params), ours = descended(before, after);
  const Batch batch = first_batch(tiny, 16);
  const auto adapters_of = [&](const Expected& expected) {
    Named adapters = expected.gradients;
    std::erase_if(adapters, [](const auto& each) { return each.first.find(".lora_") == std::string::npos; });
    return adapters;
  };
  const Expected expected = plain_step(before, after, batch);
  EXPECT_EQ(adapters_of(expected).size(), 6U);
  EXPECT_LT(error_of(ours, adapters_of(expected), "discriminator."), 1e-5);
  EXPECT_LT(error_of(ours, adapters_of(expected), "generator."), 1e-5);
  EXPECT_NEAR(result.outputs.phases[0].loss.mean(), expected.discriminator, 1e-6);
  EXPECT_NEAR(result.outputs.phases[1].loss.mean(), expected.generator, 1e-6);
  for (const auto& [name, moved] : ours)
    EXPECT_EQ(moved.count_nonzero().item<int64_t>() > 0, name.find(".lora_") != std::string::npos) << name;
  EXPECT_GT(error_of(ours, adapters_of(plain_step(before, before, batch)), "generator."), 1e-3) << "control";
}

TEST(Gan, RecomputeChangesNoBitOfTenSteps) {
  const TinyTraining tiny = testing::tiny("gan");
  StepOptions options;
  options.microbatch_sizes = {4, 4, 3};
  options.steps = 10;
  const StepResult plain = run_steps(tiny, options);
  options.recompute.assign(tiny.spec.units.size(), true);
  const StepResult full = run_steps(tiny, options);
  EXPECT_TRUE(same_bits(plain.params, full.params));
  EXPECT_TRUE(same_bits(plain.states, full.states));
  for (size_t p = 0; p < 2; ++p)
    EXPECT_EQ(plain.outputs.phases[p].loss.loss.value(), full.outputs.phases[p].loss.loss.value());
}

TEST(Gan, AccumulatedOrAtOnceIsWithinABound) {
  for (const auto& [name, gradients, loss] : {std::tuple("gan", 1e-5, 1e-6), {"gan@float16", 5e-3, 1e-4}}) {
    const TinyTraining tiny = testing::tiny(name);
    StepOptions options;
    options.microbatch_sizes = {4, 4, 4, 4};
    const StepResult accumulated = run_steps(tiny, options);
    options.microbatch_sizes = {16};
    const StepResult large = run_steps(tiny, options);
    EXPECT_LT(relative_error(accumulated.gradients, large.gradients), gradients) << name;
    EXPECT_NEAR(accumulated.outputs.phases[1].loss.mean(), large.outputs.phases[1].loss.mean(), loss) << name;
    options.position = 16;
    EXPECT_GT(relative_error(accumulated.gradients, run_steps(tiny, options).gradients), 2e-2) << "control";
  }
}

// Each phase is clipped by the norm of its own gradients: every step is as long as allowed.
TEST(Gan, EveryPhaseIsClippedAlone) {
  const TinyTraining tiny = plain_descent();
  StepOptions options;
  options.max_norm = 1e-2;
  const StepResult start = run_steps(tiny, {.steps = 0}), result = run_steps(tiny, options);
  const Named moved = descended(named(tiny.spec, start.params), named(tiny.spec, result.params));
  for (size_t p = 0; p < 2; ++p) {
    double squares = 0;
    for (const auto& [name, tensor] : moved) {
      if (name.starts_with(tiny.spec.phases[p])) squares += tensor.square().sum().item<double>();
    }
    const PhaseOutputs& phase = result.outputs.phases[p];
    EXPECT_GT(phase.scale.norm, 1e-2) << "else nothing is clipped";
    EXPECT_NEAR(std::sqrt(squares), 1e-2, 1e-5);
    EXPECT_NEAR(phase.scale.factor * static_cast<double>(phase.loss.count), 1e-2 / (phase.scale.norm + 1e-6),
                1e-9);
  }
}

// The verdict of the discriminator's phase keeps it from its step; the generator, whose samples are sound,
// goes on.
TEST(Gan, APhaseThatIsNotFiniteIsSkippedAlone) {
  const TinyTraining tiny = testing::tiny("gan");
  const StepResult start = run_steps(tiny, {.steps = 0}), sound = run_steps(tiny, {});
  EXPECT_TRUE(sound.outputs.scale.finite);
  std::vector<int64_t> first(4);
  data::SampleOrder(42, tiny.source->size(), true).indices(0, first);
  tiny.source->poison(first[1]);
  const StepResult result = run_steps(tiny, {});
  EXPECT_FALSE(result.outputs.phases[0].scale.finite);
  EXPECT_TRUE(result.outputs.phases[1].scale.finite);
  EXPECT_FALSE(result.outputs.scale.finite);
  const Named before = named(tiny.spec, start.params), after = named(tiny.spec, result.params);
  EXPECT_TRUE(before.at("discriminator.fc1.weight").equal(after.at("discriminator.fc1.weight")));
  EXPECT_FALSE(before.at("generator.fc1.weight").equal(after.at("generator.fc1.weight")));
}

std::vector<PhaseState> at_scales(double discriminator, double generator) {
  return {{0, {discriminator, 0}}, {0, {generator, 0}}};
}

constexpr double kOverflows = 0x1p40, kFits = 0x1p10;

// Each phase's gradients travel times its own scale, of its own targets, and are divided by it again.
TEST(Gan, AFloat16StepIsThatOfPlainAutogradAtAnyTwoScales) {
  TinyTraining tiny = plain_descent("gan@float16");
  StepOptions options;
  options.microbatch_sizes = {16};
  options.max_norm = 0;
  const StepResult start = run_steps(tiny, {.steps = 0});
  const Named before = named(tiny.spec, start.params);
  const Batch batch = first_batch(tiny, 16);
  const auto errors_at = [&](double discriminator, double generator) {
    options.phases = at_scales(discriminator, generator);
    const StepResult result = run_steps(tiny, options);
    const Named after = named(tiny.spec, result.params), ours = descended(before, after);
    const Expected expected = plain_step(before, after, batch);
    EXPECT_NEAR(result.outputs.phases[0].loss.mean(), expected.discriminator, 1e-3);
    EXPECT_NEAR(result.outputs.phases[1].loss.mean(), expected.generator, 1e-3);
    return std::pair(error_of(ours, expected.gradients, "discriminator."),
                     error_of(ours, expected.gradients, "generator."));
  };
  for (const auto& [discriminator, generator] : {std::pair(kFits, 65536.0), {65536.0, kFits}}) {
    const auto [of_discriminator, of_generator] = errors_at(discriminator, generator);
    EXPECT_LT(of_discriminator, 5e-3);
    EXPECT_LT(of_generator, 5e-3);
  }
  // Control: what the scale is there for.
  constexpr double kLost = 0x1p-18;
  EXPECT_GT(errors_at(kLost, kFits).first, 2e-2);
  EXPECT_GT(errors_at(kFits, kLost).second, 2e-2);
}

// The generator's overflow leaves the discriminator where it would be, to the bit; the discriminator's leaves
// the generator where it is when the data alone keep the discriminator from its step.
TEST(Gan, AnOverflowInOnePhaseLeavesTheOtherAlone) {
  TinyTraining tiny = testing::tiny("gan@float16");
  const auto step_at = [&](double discriminator, double generator) {
    StepOptions options;
    options.microbatch_sizes = {4, 3};
    options.phases = at_scales(discriminator, generator);
    return run_steps(tiny, options);
  };
  const auto same = [&](const StepResult& a, const StepResult& b, const std::string& net) {
    bool all = true;
    const Named left = named(tiny.spec, a.params), right = named(tiny.spec, b.params);
    for (const auto& [name, tensor] : left)
      all = all && (!name.starts_with(net) || tensor.equal(right.at(name)));
    return all;
  };
  const StepResult start = run_steps(tiny, {.steps = 0}), sound = step_at(kFits, kFits);
  EXPECT_FALSE(same(sound, start, "discriminator.")) << "control";
  EXPECT_FALSE(same(sound, start, "generator.")) << "control";

  const StepResult generator = step_at(kFits, kOverflows);
  EXPECT_TRUE(same(generator, sound, "discriminator."));
  EXPECT_TRUE(same(generator, start, "generator."));
  EXPECT_EQ(generator.outputs.phases[0].state, (PhaseState{0, {kFits, 1}}));
  EXPECT_EQ(generator.outputs.phases[1].state, (PhaseState{1, {kOverflows / 2, 0}}));
  EXPECT_TRUE(std::isfinite(generator.outputs.phases[1].loss.mean()));

  const StepResult discriminator = step_at(kOverflows, kFits);
  EXPECT_EQ(discriminator.outputs.phases[0].state, (PhaseState{1, {kOverflows / 2, 0}}));
  EXPECT_EQ(discriminator.outputs.phases[1].state, (PhaseState{0, {kFits, 1}}));
  EXPECT_TRUE(same(discriminator, start, "discriminator."));
  EXPECT_FALSE(same(discriminator, start, "generator."));
  EXPECT_FALSE(same(discriminator, sound, "generator.")) << "it learned from another discriminator";
  std::vector<int64_t> first(7);
  data::SampleOrder(42, tiny.source->size(), true).indices(0, first);
  tiny.source->poison(first[5]);
  EXPECT_TRUE(same(discriminator, step_at(kFits, kFits), "generator."));
}

// Adam's bias corrections, by the step that a phase is at: of zero moments and one gradient they leave the
// rate itself in the first step, and a known part of it in the second.
TEST(Gan, AnOptimizerCountsTheStepsOfItsPhase) {
  TinyTraining tiny = testing::tiny("gan");
  config::Optimizer& adam = tiny.config.optimizer;
  adam.name = "adam";
  adam.weight_decay = 0;
  adam.eps = 1e-20;
  const double second = (1 - adam.beta1) / (1 - adam.beta1 * adam.beta1) /
                        std::sqrt((1 - adam.beta2) / (1 - adam.beta2 * adam.beta2));
  const StepResult start = run_steps(tiny, {.steps = 0});
  const Named before = named(tiny.spec, start.params);
  for (const int skipped : {0, 1}) {
    StepOptions options;
    options.first_step = 1;
    options.phases = at_scales(1, 1);
    options.phases[static_cast<size_t>(skipped)].skipped_steps = 1;
    const StepResult result = run_steps(tiny, options);
    const Named moved = descended(before, named(tiny.spec, result.params));
    for (size_t p = 0; p < 2; ++p) {
      const double most = moved.at(tiny.spec.phases[p] + ".fc2.weight").abs().max().item<double>();
      EXPECT_NEAR(most / adam.lr, static_cast<int>(p) == skipped ? 1 : second, 1e-3) << p << " " << skipped;
    }
  }
}

// Two optimizers: what a group says is what [optimizer] says, of one network alone.
TEST(Gan, GroupsMakeTwoOptimizers) {
  const auto step_with = [](std::vector<std::string> groups, bool by_config) {
    TinyTraining tiny = testing::tiny("gan");
    tiny.config.optimizer.groups = std::move(groups);
    if (by_config) {
      tiny.config.optimizer.beta1 = 0.5;
      tiny.config.optimizer.beta2 = 0.875;
      tiny.config.optimizer.eps = 0.25;
    }
    StepOptions options;
    options.first_step = 1;  // the first of all does not depend on them
    return named(tiny.trained_spec(), run_steps(tiny, options).params);
  };
  const auto same = [](const Named& a, const Named& b, const std::string& net) {
    return std::ranges::all_of(a, [&](const auto& each) {
      return !each.first.starts_with(net) || each.second.equal(b.at(each.first));
    });
  };
  const std::string own = " beta1=0.5 beta2=0.875 eps=0.25";
  const Named plain = step_with({}, false), both = step_with({}, true);
  EXPECT_TRUE(same(step_with({"*" + own}, false), both, ""));
  const Named discriminator = step_with({"discriminator.*" + own}, false);
  EXPECT_TRUE(same(discriminator, both, "discriminator."));
  EXPECT_FALSE(same(discriminator, plain, "discriminator."));
  const Named generator = step_with({"generator.*" + own}, false);
  EXPECT_TRUE(same(generator, plain, "discriminator."));
  EXPECT_FALSE(same(generator, plain, "generator."));
}

// By name: after a step each network is that of a run in which its optimizer steps both.
TEST(Gan, EachNetworkMayHaveAnOptimizerOfItsOwn) {
  TinyTraining tiny = testing::tiny("gan");
  const auto step_with = [&](const std::string& name, const std::vector<std::string>& groups) {
    tiny.config.optimizer.name = name;
    tiny.config.optimizer.momentum = 0.9;
    tiny.config.optimizer.groups = groups;
    StepOptions options;
    options.microbatch_sizes = {3, 2};
    options.max_norm = 0;
    return named(tiny.trained_spec(), run_steps(tiny, options).params);
  };
  const auto same = [](const Named& a, const Named& b, const std::string& net) {
    return std::ranges::all_of(a, [&](const auto& each) {
      return !each.first.starts_with(net) || each.second.equal(b.at(each.first));
    });
  };
  for (const std::string own : {"sgd", "muon", "lamb", "adamw8bit", "adafactor"}) {
    const Named mixed = step_with("adam", {"discriminator.* name=" + own});
    EXPECT_TRUE(same(mixed, step_with(own, {}), "discriminator.")) << own;
    EXPECT_FALSE(same(mixed, step_with("adam", {}), "discriminator.")) << own << ": control";
  }
  const Named mixed = step_with("sgd", {"generator.* name=adam", "discriminator.* lr=0"});
  EXPECT_TRUE(same(mixed, step_with("adam", {"discriminator.* lr=0"}), "generator."));
}

// Steps that overflow in one phase, in the other, in none: the same on any ranks, recomputed or not.
TEST(Gan, OverflowAndGrowthOfBothPhasesAreTheSameInEveryLayout) {
  TinyTraining tiny = testing::tiny("gan@float16");
  tiny.config.grad_scaler.growth_interval = 2;
  StepOptions options;
  options.microbatch_sizes = {2, 2, 2, 1};
  options.steps = 12;
  options.phases = {{0, {0x1p24, 1}}, {0, {0x1p26, 0}}};
  const StepResult whole = run_steps(tiny, options);
  const std::vector<PhaseState> ends = testing::phases_after(whole.outputs);
  for (const PhaseState& phase : ends) {
    EXPECT_GT(phase.skipped_steps, 0);
    EXPECT_LT(phase.skipped_steps, options.steps - 2);
  }
  EXPECT_NE(ends[0], ends[1]);
  for (const testing::WorldOptions& world : testing::some_layouts()) {
    testing::run_world(tiny, options, world, [&](const testing::RankResult& rank) {
      EXPECT_EQ(testing::difference(rank, whole), "") << world.name();
    });
  }
  options.recompute.assign(tiny.spec.units.size(), true);
  EXPECT_TRUE(same_bits(run_steps(tiny, options).params, whole.params));
}

TEST(Gan, APhaseThatIsFrozenIsRefused) {
  TinyTraining tiny = testing::tiny("gan");
  tiny.config.optimizer.groups = {"discriminator.* frozen=true"};
  EXPECT_THROW(run_steps(tiny, {}), Error);
  tiny.config.optimizer.groups = {"discriminator.fc1.* frozen=true"};
  const StepResult start = run_steps(tiny, {.steps = 0}), result = run_steps(tiny, {});
  const Named before = named(tiny.trained_spec(), start.params),
              after = named(tiny.trained_spec(), result.params);
  EXPECT_TRUE(before.at("discriminator.fc1.weight").equal(after.at("discriminator.fc1.weight")));
  EXPECT_FALSE(before.at("discriminator.fc2.weight").equal(after.at("discriminator.fc2.weight")));
  EXPECT_FALSE(before.at("generator.fc1.weight").equal(after.at("generator.fc1.weight")));
}

}  // namespace
}  // namespace furrow::train
