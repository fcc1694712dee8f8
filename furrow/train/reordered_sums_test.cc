// What the order of sums is worth: twenty steps, with dropout, over ranks that share every layer lie no
// farther from one process's than its own lie from each other with their sums in other orders.
//
// Other orders of what a tensor axis reorders: of the features between two products and of the heads (what
// row-parallel layers sum forward and column-parallel ones backward), of the vocabulary (the loss), and of
// the samples (gradients of weights, norms and biases).  Each is a run of one process of the same function:
// its features are renamed, and its microbatches of another size.  Samples alone would not do: they leave
// every sum of forward as it is, and with it the error of the few gradients that are as small as their own
// rounding (ten thousand times below their neighbours), each of which AdamW makes a step as long as any.  SGD
// makes a step as short as the gradient, so that its runs lie closer to each other, and so must ranks.
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "tests/testing/tiny_world_torch.h"

namespace furrow::train {
namespace {

using testing::StepOptions;
using testing::TinyTraining;

constexpr int64_t kSamples = 24;                   // of a step
constexpr int64_t kMicrobatches[] = {4, 2, 3, 6};  // sizes
// Enough for a steady maximum: 24 spread up to a sixth less far than 96 over microbatches of 1 to 8.
constexpr int kOrders = 48;

struct Case {
  const char* network;
  const char* optimizer;
};

TinyTraining training(const Case& of) {
  TinyTraining tiny = testing::tiny(of.network);
  if (of.optimizer == std::string("sgd")) {
    tiny.config.optimizer.name = of.optimizer;
    tiny.config.optimizer.lr = 0.2;
    tiny.config.optimizer.momentum = 0.9;
  }
  tiny.config.model.heads = 8;
  tiny.config.model.kv_heads = 4;
  testing::describe_again(&tiny);
  return tiny;
}

StepOptions twenty_steps(int64_t microbatch) {
  StepOptions options;
  options.steps = 20;
  options.microbatch_sizes.assign(static_cast<size_t>(kSamples / microbatch), microbatch);
  return options;
}

at::Tensor shuffled(int64_t n, uint64_t seed) {
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  std::mt19937_64 random(seed);
  std::ranges::shuffle(order, random);
  return at::tensor(order);
}

// Runs of as many elements as `within` has, in the order `runs`, each in the order `within`.
at::Tensor in_runs(const at::Tensor& runs, const at::Tensor& within) {
  return runs.mul(within.numel()).view({-1, 1}).add(within.view({1, -1})).reshape({-1});
}

// A unit's own parameters, by the ends of their names.
class Weights {
 public:
  Weights(ModelState& model, int unit) : tensors_(model.tensors_of(unit, std::span(&model.unit(unit), 1))) {}

  // Its elements along `dim`, where there is such a parameter.
  void reorder(std::string_view end, int64_t dim, const at::Tensor& order) {
    if (at::Tensor* tensor = find(end)) tensor->copy_(tensor->index_select(dim, order));
  }
  void round(std::string_view end) {  // to bfloat16
    if (at::Tensor* tensor = find(end)) tensor->copy_(tensor->to(at::kBFloat16));
  }
  int64_t rows(std::string_view end) { return find(end)->size(0); }
  bool has(std::string_view end) { return find(end) != nullptr; }

 private:
  at::Tensor* find(std::string_view end) {
    const auto found =
        std::ranges::find_if(tensors_, [&](const NamedTensor& each) { return each.name.ends_with(end); });
    return found == tensors_.end() ? nullptr : &found->view;
  }
  std::vector<NamedTensor> tensors_;
};

// Features of queries and keys, and of values, in every head alike: dropout tells the heads apart.
void reorder_gpt(const config::Model& config, Weights weights, uint64_t seed) {
  const int64_t width = config.width, size = width / config.heads;
  const at::Tensor heads = at::arange(config.heads), wide = shuffled(weights.rows("mlp.c_fc.weight"), seed);
  const at::Tensor keys = in_runs(heads, shuffled(size, seed + 1)),
                   values = in_runs(heads, shuffled(size, seed + 2)),
                   fused = at::cat({keys, keys + width, values + 2 * width});
  for (const char* part : {"weight", "bias"}) {
    weights.reorder(std::string("attn.c_attn.") + part, 0, fused);
    weights.reorder(std::string("mlp.c_fc.") + part, 0, wide);
  }
  weights.reorder("attn.c_proj.weight", 1, values);
  weights.reorder("mlp.c_proj.weight", 1, wide);
}

// Heads, and the features of values in each: a rotation tells those of queries and keys apart.
void reorder_llama(const config::Model& config, Weights weights, uint64_t seed) {
  const int64_t size = config.width / config.heads;
  const at::Tensor wide = shuffled(weights.rows("mlp.up_proj.weight"), seed), all = at::arange(size),
                   groups = shuffled(config.kv_heads, seed + 1),
                   heads = in_runs(groups, shuffled(config.heads / config.kv_heads, seed + 2)),
                   values = shuffled(size, seed + 3);
  weights.reorder("self_attn.q_proj.weight", 0, in_runs(heads, all));
  weights.reorder("self_attn.k_proj.weight", 0, in_runs(groups, all));
  weights.reorder("self_attn.v_proj.weight", 0, in_runs(groups, values));
  weights.reorder("self_attn.o_proj.weight", 1, in_runs(heads, values));
  weights.reorder("mlp.gate_proj.weight", 0, wide);
  weights.reorder("mlp.up_proj.weight", 0, wide);
  weights.reorder("mlp.down_proj.weight", 1, wide);
}

// The features between layers, and the classes behind the last.
void reorder_mlp(ModelState& model, const at::Tensor& classes, uint64_t seed) {
  const auto units = static_cast<int>(model.units().size());
  at::Tensor order;
  for (int u = 0; u < units; ++u) {
    Weights weights(model, u);
    if (order.defined()) weights.reorder(".weight", 1, order);
    order = u + 1 == units ? classes : shuffled(weights.rows(".weight"), seed + static_cast<uint64_t>(u));
    weights.reorder(".weight", 0, order);
    weights.reorder(".bias", 0, order);
  }
}

void reorder(const config::Model& config, ModelState& model, const at::Tensor& classes, uint64_t seed) {
  if (config.name == "mlp") return reorder_mlp(model, classes, seed);
  for (int u = 0; u < static_cast<int>(model.units().size()); ++u) {
    Weights weights(model, u);
    const uint64_t own = seed + 10 * static_cast<uint64_t>(u);
    if (weights.has("mlp.c_fc.weight")) reorder_gpt(config, weights, own);
    if (weights.has("mlp.up_proj.weight")) reorder_llama(config, weights, own);
    for (const char* table : {"wte.weight", "embed_tokens.weight", "lm_head.weight"})
      weights.reorder(table, 0, classes);
  }
}

using Losses = std::vector<double>;  // by step

// Of one process with its features in another order, and microbatches of so many samples.
Losses reordered(TinyTraining tiny, int64_t microbatch, uint64_t seed) {
  const at::Tensor classes = shuffled(tiny.source->classes(), seed);
  std::vector<int64_t> labels(static_cast<size_t>(classes.numel()));
  for (size_t c = 0; c < labels.size(); ++c)
    labels[static_cast<size_t>(classes.const_data_ptr<int64_t>()[c])] = static_cast<int64_t>(c);
  tiny.source = std::make_shared<testing::MadeUpSource>(*tiny.source);
  tiny.source->relabel(std::move(labels));
  StepOptions options = twenty_steps(microbatch);
  options.start = [&](ModelState& model) { reorder(tiny.config.model, model, classes, seed + 1); };
  return run_steps(tiny, options).losses;
}

// The largest difference of two runs in any step.
double distance(const Losses& a, const Losses& b) {
  double most = 0;
  for (size_t step = 0; step < a.size(); ++step) most = std::max(most, std::abs(a[step] - b[step]));
  return most;
}

class ReorderedSums : public ::testing::TestWithParam<Case> {};

TEST_P(ReorderedSums, SpreadAsFarAsRanksOfATensorAxisAreApart) {
  const TinyTraining tiny = training(GetParam());
  const StepOptions options = twenty_steps(kMicrobatches[0]);
  const Losses whole = run_steps(tiny, options).losses;
  std::vector<Losses> runs = {whole};
  for (uint64_t order = 0; order < kOrders; ++order)
    runs.push_back(reordered(tiny, kMicrobatches[order % std::size(kMicrobatches)], 1000 * (order + 1)));
  double spread = 0;
  for (const Losses& run : runs) {
    for (const Losses& other : runs) spread = std::max(spread, distance(run, other));
  }
  EXPECT_LT(spread, 1e-5);  // of one function
  double apart = 0;
  for (const int degree : {2, 4})
    apart = std::max(apart, distance(run_parts(tiny, options, degree)[0].losses, whole));
  EXPECT_LE(apart, spread);
  StepOptions narrow = options;  // control: a row-parallel layer of 16 bits
  narrow.start = [](ModelState& model) {
    for (const char* end : {"mlp.c_proj.weight", "mlp.down_proj.weight", "fc2.weight"})
      Weights(model, 1).round(end);
  };
  const double control = distance(run_steps(tiny, narrow).losses, whole);
  EXPECT_GT(control, 5 * spread);
  fmt::print("spread {:.2g}, parts {:.2g}, of 16 bits {:.2g}\n", spread, apart, control);
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const char* optimizer : {"adamw", "sgd"}) {
    for (const char* network : {"gpt-tied", "gpt-untied", "llama-tied", "llama-untied", "mlp"})
      all.push_back({network, optimizer});
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Networks, ReorderedSums, ::testing::ValuesIn(cases()), [](const auto& info) {
  return testing::test_name(fmt::format("{}-{}", info.param.network, info.param.optimizer));
});

}  // namespace
}  // namespace furrow::train
