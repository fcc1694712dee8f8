#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "furrow/base/rng.h"
#include "furrow/models/kinds.h"
#include "furrow/models/lora.h"
#include "furrow/nn/declared_axis_torch.h"
#include "furrow/nn/init.h"
#include "furrow/nn/test_network_torch.h"
#include "furrow/plan/tensor_cut.h"
#include "furrow/tensor/composition_torch.h"
#include "furrow/tensor/dtype_torch.h"
#include "furrow/tensor/loss_torch.h"
#include "furrow/tensor/test_support_torch.h"

namespace furrow::nn::testing {

using tensor::testing::random_tensor;

Tensors initial(const plan::ModelSpec& spec) {
  Tensors params;
  for (const plan::Unit& unit : spec.units) {
    for (const plan::Parameter& parameter : unit.parameters) {
      if (parameter.tied()) continue;
      at::Tensor& param = params[parameter.name] = at::empty(parameter.shape);
      initialise(parameter, 3, {param.data_ptr<float>(), static_cast<size_t>(param.numel())});
      // Norms, biases and adapters away from their neutral start, so that each matters.
      if (parameter.shape.size() == 1 || parameter.adapter)
        param += random_tensor(parameter.shape, stable_hash(parameter.name), 0.1);
    }
  }
  return params;
}

NormedUnit::NormedUnit(const plan::Unit& unit, const std::vector<at::Tensor>& params)
    : layout_(plan::unit_layout(unit)),
      block_(make_block(unit)),
      said_(static_cast<size_t>(layout_.statistic_elements), 0.0F) {
  for (const at::Tensor& param : params) params_.push_back({param, static_cast<int>(params_.size())});
}

at::Tensor NormedUnit::train(const at::Tensor& x) {
  tensor::OpContext context;
  context.training = true;
  context.batch_statistics = said_;
  return block_->forward(x, params_, context);
}

at::Tensor NormedUnit::said(size_t statistic) const {
  const plan::StatisticSpan& span = layout_.statistics.at(statistic);
  return at::from_blob(const_cast<float*>(said_.data()) + span.offset, {span.size}).clone();
}

at::Tensor NormedUnit::evaluate(const at::Tensor& x) {
  tensor::OpContext context;
  context.statistics = said_;
  return block_->forward(x, params_, context);
}

namespace {

// A unit's graph between its forward and its backward.
struct UnitRun {
  at::Tensor input, output;
  std::vector<tensor::Param> params;
  std::unique_ptr<tensor::GradientSink> sink;
  tensor::OpContext context;
  std::unique_ptr<DeclaredAxis> axis;
};

// What a unit is given.
struct UnitCall {
  const plan::Unit& unit;
  const Tensors& params;
  tensor::OpContext context;
  bool recompute = false;
};

void add_adapters(const plan::Unit& unit, std::vector<tensor::Param>* params) {
  for (const plan::Adapter& each : unit.adapters) {
    const auto at = [](int index) { return static_cast<size_t>(index); };
    const plan::Parameter& a = unit.parameters[at(each.a)];
    tensor::Adapter adapter{(*params)[at(each.a)], (*params)[at(each.b)], each.scale, each.dropout, a.name};
    if (unit.tensor_degree > 1 && a.tensor_axis == 1)
      adapter.columns = std::accumulate(a.tensor_segments.begin(), a.tensor_segments.end(), int64_t{0});
    (*params)[at(each.weight)].adapter = std::make_shared<const tensor::Adapter>(std::move(adapter));
  }
}

void forward_unit(const UnitCall& call, const at::Tensor& input, bool graph, UnitRun* filled) {
  UnitRun& run = *filled;
  const at::AutoGradMode grad_mode(graph);
  const at::ScalarType type = tensor::scalar_type(call.unit.compute);
  run.input = input.is_floating_point() ? input.detach().to(type).set_requires_grad(true) : input;
  for (const plan::Parameter& parameter : call.unit.parameters) {
    const at::Tensor& value = call.params.at(parameter.tied() ? parameter.tied_to : parameter.name);
    run.params.push_back(
        {value.detach().to(type).set_requires_grad(true), static_cast<int>(run.params.size())});
  }
  add_adapters(call.unit, &run.params);
  run.sink = std::make_unique<tensor::GradientSink>(static_cast<int>(run.params.size()));
  run.context = call.context;
  run.context.sink = graph ? run.sink.get() : nullptr;
  run.context.axis = run.axis.get();
  run.output = make_block(call.unit)->forward(run.input, run.params, run.context);
}

// Returns the gradient of the unit's input and adds those of its parameters.
at::Tensor backward_unit(const plan::Unit& unit, UnitRun& run, const at::Tensor& gradient,
                         Tensors* gradients) {
  std::vector<at::Tensor> wanted;
  for (const tensor::Param& param : run.params) wanted.push_back(param.leaf);
  if (run.input.requires_grad()) wanted.push_back(run.input);
  using enum plan::UnitCollective::Phase;
  const int64_t samples = run.input.size(0);
  if (run.axis) run.axis->enter(kBackwardInput, samples, run.input.requires_grad());
  const auto results = torch::autograd::grad({run.output}, wanted, {gradient}, std::nullopt, false, true);
  if (run.axis) run.axis->leave();
  std::vector<at::Tensor> written;
  std::vector<std::span<float>> targets;
  for (size_t i = 0; i < run.params.size(); ++i) {
    EXPECT_FALSE(results[i].defined()) << "blocks of this library put their gradients themselves";
    EXPECT_TRUE(run.sink->has(static_cast<int>(i))) << unit.parameters[i].name;
    written.push_back(at::full(run.params[i].leaf.sizes(), std::nanf("")));
    targets.emplace_back(written[i].data_ptr<float>(), static_cast<size_t>(written[i].numel()));
  }
  if (run.axis) run.axis->enter(kBackwardWeight, samples);
  run.sink->write(targets);
  if (run.axis) run.axis->leave();
  for (size_t i = 0; i < run.params.size(); ++i) {
    const plan::Parameter& parameter = unit.parameters[i];
    at::Tensor& sum = (*gradients)[parameter.tied() ? parameter.tied_to : parameter.name];
    sum = sum.defined() ? sum + written[i] : written[i];
  }
  return run.input.requires_grad() ? results.back() : at::Tensor();
}

UnitRun run_unit(const UnitCall& call, const at::Tensor& input, tensor::TensorAxis* axis) {
  UnitRun run;
  using enum plan::UnitCollective::Phase;
  const int64_t samples = input.size(0);
  for (int pass = call.recompute ? 0 : 1; pass < 2; ++pass) {
    run = UnitRun();
    if (axis != nullptr) run.axis = std::make_unique<DeclaredAxis>(*axis, call.unit);
    if (run.axis) run.axis->enter(kForward, samples);
    forward_unit(call, input, pass == 1, &run);
    if (run.axis) run.axis->leave();
  }
  return run;
}

tensor::OpContext context_of(const Network& network, std::span<const int64_t> samples, int threads) {
  tensor::OpContext context;
  context.threads = threads;
  context.training = true;
  context.sample_ids = samples;
  context.positions = network.positions;
  return context;
}

// Sums of the last unit's output, and its gradient.
tensor::CrossEntropySums loss_of(const Network& network, const at::Tensor& output, at::Tensor* gradient,
                                 const OurStep& how) {
  const plan::Unit& last = network.spec.units.back();
  if (how.axis == nullptr || last.output.tensor_axis < 0)
    return tensor::cross_entropy(output, network.targets, gradient, how.threads, {network.smoothing});
  DeclaredAxis axis(*how.axis, last);
  axis.enter(plan::UnitCollective::Phase::kLoss, output.size(0));
  const tensor::CutClasses cut{&axis, network.classes, {network.smoothing}};
  const auto sums = tensor::cross_entropy(output, network.targets, gradient, cut, how.threads);
  axis.leave();
  return sums;
}

}  // namespace

Step our_step(const Network& network, const Tensors& params, const OurStep& how) {
  const tensor::CompositionScope scope(how.composed);
  std::vector<int64_t> samples(static_cast<size_t>(network.input.size(0)));
  std::iota(samples.begin(), samples.end(), int64_t{100});
  const tensor::OpContext context = context_of(network, samples, how.threads);
  std::vector<UnitRun> runs;
  at::Tensor value = network.input;
  for (const plan::Unit& unit : network.spec.units) {
    runs.push_back(run_unit({unit, params, context, how.recompute}, value, how.axis));
    value = runs.back().output.detach();
    Shape expected = unit.output.shape;
    expected[0] = network.input.size(0);
    EXPECT_EQ(value.sizes().vec(), expected) << "the border that the spec declares";
  }
  at::Tensor gradient;
  const tensor::CrossEntropySums sums = loss_of(network, value, &gradient, how);
  Step step{sums.loss.value(), sums.rows, sums.correct, value, {}, {}};
  for (size_t u = runs.size(); u-- > 0;) {
    gradient = backward_unit(network.spec.units[u], runs[u], gradient, &step.gradients);
  }
  step.input_gradient = gradient;
  return step;
}

Step plain_step(const Network& network, const Tensors& params, at::ScalarType dtype) {
  Tensors leaves;
  for (const auto& [name, value] : params) leaves[name] = value.detach().to(dtype).set_requires_grad(true);
  at::Tensor input = network.input;
  if (input.is_floating_point()) input = input.detach().to(dtype).set_requires_grad(true);
  const at::Tensor logits = network.plain(input, leaves);
  const at::Tensor loss =
      at::cross_entropy_loss(logits.reshape({-1, logits.size(-1)}), network.targets.view(-1), {},
                             at::Reduction::Sum, tensor::kIgnoredTarget, network.smoothing);
  loss.backward();
  Step step{loss.item<double>(), 0, 0, logits.detach(), {}, {}};
  if (input.requires_grad()) step.input_gradient = input.grad();
  for (const auto& [name, leaf] : leaves) step.gradients[name] = leaf.grad();
  return step;
}

void append(plan::ModelSpec* spec, std::string name, std::string_view kind, plan::Attributes attributes) {
  const plan::TensorSpec input = spec->units.back().output;
  spec->units.push_back(models::make_unit(std::move(name), kind, std::move(attributes), input));
}

at::Tensor tokens(at::IntArrayRef sizes, int64_t classes, uint64_t seed) {
  return (random_tensor(sizes, seed).abs() * 1000).to(at::kLong).remainder(classes);
}

Network with_adapters(Network network, const AdapterForm& form) {
  models::apply_lora({form.rank, form.alpha, form.dropout, form.target_modules}, &network.spec);
  struct Sum {
    std::string weight, a, b;
    double scale = 1;
    bool table = false;
  };
  std::vector<Sum> sums;
  for (plan::Unit& unit : network.spec.units) {
    for (plan::Parameter& parameter : unit.parameters) parameter.rule.frozen = false;
    plan::declare_gradient_sum(&unit);
    for (const plan::Adapter& each : unit.adapters) {
      const auto name = [&](int index) { return unit.parameters[static_cast<size_t>(index)].name; };
      sums.push_back({name(each.weight), name(each.a), name(each.b), each.scale, each.table});
    }
  }
  network.plain = [plain = network.plain, sums](const at::Tensor& input, const Tensors& params) {
    Tensors merged = params;
    for (const Sum& each : sums) {
      const at::Tensor product = params.at(each.b).mm(params.at(each.a)) * each.scale;
      merged[each.weight] = params.at(each.weight) + (each.table ? product.t() : product);
    }
    return plain(input, merged);
  };
  return network;
}

void share_rows(Network* network) {
  const int64_t batch = network->input.size(0), time = network->input.size(1);
  network->positions.clear();
  for (int64_t n = 0; n < batch; ++n) {
    const int64_t border = 1 + n % (time - 2), end = time - n % 2;  // two documents, then padding
    for (int64_t t = 0; t < time; ++t) {
      network->positions.push_back(t < border ? t : t < end ? t - border : t - end);
      if (t >= end) network->targets[n][t] = tensor::kIgnoredTarget;
    }
  }
}

at::Tensor positions_of(const Network& network) {
  const int64_t batch = network.input.size(0), time = network.input.size(1);
  if (network.positions.empty()) return at::arange(time).expand({batch, time});
  return at::tensor(network.positions, at::kLong).view({batch, time});
}

at::Tensor plain_mask(const at::Tensor& positions) {
  const int64_t time = positions.size(1);
  const at::Tensor document = positions.eq(0).cumsum(1);
  const at::Tensor same = document.unsqueeze(2).eq(document.unsqueeze(1));
  return same.logical_and(at::ones({time, time}, at::kBool).tril()).unsqueeze(1);
}

at::Tensor plain_linear(const at::Tensor& x, const Tensors& params, const std::string& name) {
  const auto bias = params.find(name + ".bias");
  return at::linear(x, params.at(name + ".weight"), bias == params.end() ? at::Tensor() : bias->second);
}

namespace {

// How far the float32 gradients of libtorch lie from float64's, relative to each one's largest value: that of
// the farthest.  One by itself, often of few values, lies near by luck, and on another processor it does not.
double libtorch_error(const Step& plain32, const Step& plain64) {
  double largest = 0;
  for (const auto& [name, exact] : plain64.gradients) {
    const double scale = exact.abs().max().item<double>();
    const double distance = tensor::testing::distance(plain32.gradients.at(name), exact);
    if (scale > 0) largest = std::max(largest, distance / scale);
  }
  return largest;
}

::testing::AssertionResult within(const at::Tensor& gradient, const at::Tensor& exact, double error) {
  return tensor::testing::within_bound(gradient, exact, error * exact.abs().max().item<double>());
}

void expect_equal_gradients(const Step& ours, const Step& plain64, double error, const std::string& what) {
  EXPECT_NEAR(ours.loss, plain64.loss, 1e-5 * plain64.loss) << what;
  ASSERT_EQ(ours.gradients.size(), plain64.gradients.size()) << what;
  for (const auto& [name, gradient] : ours.gradients) {
    const at::Tensor& exact = plain64.gradients.at(name);
    EXPECT_TRUE(within(gradient, exact, error)) << what << name;
    at::Tensor wrong = gradient.clone();
    wrong.view(-1)[wrong.abs().argmax().item<int64_t>()] *= 1 + 0x1p-12;
    EXPECT_FALSE(within(wrong, exact, error)) << "control of " << what << name;
  }
}

// Compositions sum over images whose channels lie side by side, which libtorch does in another order.
Network side_by_side(Network network) {
  if (network.input.dim() == 4) network.input = network.input.contiguous(at::MemoryFormat::ChannelsLast);
  return network;
}

}  // namespace

void expect_equal_steps(const Network& network) {
  const Tensors params = initial(network.spec);
  const Step plain64 = plain_step(network, params, at::kDouble);
  const double error = libtorch_error(plain_step(network, params, at::kFloat), plain64);
  for (const int threads : {1, 2}) {
    expect_equal_gradients(our_step(network, params, {threads}), plain64, error,
                           std::to_string(threads) + " threads: ");
  }
  expect_equal_gradients(our_step(network, params, {.composed = true}), plain64,
                         libtorch_error(plain_step(side_by_side(network), params, at::kFloat), plain64),
                         "composed: ");
  Network swapped = network;  // control: two samples of the microbatch take each other's target
  swapped.targets = network.targets.roll(1, 0);
  const Step other = our_step(swapped, params, {});
  const std::string& last = network.spec.units.back().parameters.front().name;
  EXPECT_FALSE(within(other.gradients.at(last), plain64.gradients.at(last), error));
}

}  // namespace furrow::nn::testing
