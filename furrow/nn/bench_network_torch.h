// A network that is run unit by unit as the executor does.  For benches only.
#pragma once

#include <ATen/ATen.h>
#include <benchmark/benchmark.h>
#include <torch/csrc/autograd/autograd.h>

#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "furrow/models/kinds.h"
#include "furrow/nn/block_torch.h"
#include "furrow/nn/init.h"
#include "furrow/plan/flat_layout.h"
#include "furrow/tensor/allocator_torch.h"
#include "furrow/tensor/flat_buffer_torch.h"
#include "furrow/tensor/loss_torch.h"
#include "furrow/tensor/threads_torch.h"

namespace furrow::nn::testing {

struct BenchUnit {
  plan::Unit spec;
  std::unique_ptr<Block> block;
  at::Tensor params, gradient;  // flat
  std::vector<tensor::Param> leaves;
  std::vector<std::span<float>> targets;
};

// A graph between forward and the writing of the gradients.
struct BenchGraph {
  at::Tensor input, output;
  std::unique_ptr<tensor::GradientSink> sink;
  tensor::OpContext context;
};

class BenchNetwork {
 public:
  BenchNetwork(plan::TensorSpec input, int64_t classes) : next_(std::move(input)), classes_(classes) {}

  void append(std::string name, std::string_view kind, plan::Attributes attributes) {
    BenchUnit unit;
    unit.spec = models::make_unit(std::move(name), kind, std::move(attributes), next_);
    next_ = unit.spec.output;
    unit.block = make_block(unit.spec);
    const plan::UnitLayout layout = plan::unit_layout(unit.spec);
    unit.params = tensor::flat_buffer(layout.elements, MemoryKind::kParameters);
    unit.gradient = tensor::flat_buffer(layout.elements, MemoryKind::kGradients);
    unit.leaves.resize(unit.spec.parameters.size());
    unit.targets.resize(unit.spec.parameters.size());
    for (const plan::FlatSpan& span : layout.spans) {
      const plan::Parameter& parameter = unit.spec.parameters[static_cast<size_t>(span.parameter)];
      const at::Tensor view = tensor::view(unit.params, span.offset, parameter.shape);
      initialise(parameter, 1, {view.data_ptr<float>(), static_cast<size_t>(span.size)});
      unit.leaves[static_cast<size_t>(span.parameter)] = {view.detach().set_requires_grad(true),
                                                          span.parameter};
      unit.targets[static_cast<size_t>(span.parameter)] = {unit.gradient.data_ptr<float>() + span.offset,
                                                           static_cast<size_t>(span.size)};
    }
    units_.push_back(std::move(unit));
  }

  void step(const at::Tensor& input, const at::Tensor& targets, int threads) {
    const MemoryScope scope(MemoryKind::kActivations);
    sample_ids_.resize(static_cast<size_t>(input.size(0)));
    std::iota(sample_ids_.begin(), sample_ids_.end(), 0);
    std::vector<BenchGraph> graphs;
    at::Tensor value = input;
    for (const BenchUnit& unit : units_) {
      graphs.push_back(forward(unit, value.detach().set_requires_grad(!graphs.empty()), threads));
      value = graphs.back().output;
    }
    at::Tensor gradient;
    benchmark::DoNotOptimize(tensor::cross_entropy(value.detach(), targets, &gradient, threads).correct);
    for (size_t u = graphs.size(); u-- > 0;) gradient = backward(units_[u], graphs[u], gradient);
  }

  int64_t classes() const { return classes_; }

 private:
  BenchGraph forward(const BenchUnit& unit, const at::Tensor& input, int threads) const {
    BenchGraph graph;
    graph.sink = std::make_unique<tensor::GradientSink>(static_cast<int>(unit.leaves.size()));
    graph.context.threads = threads;
    graph.context.training = true;
    graph.context.sink = graph.sink.get();
    graph.context.sample_ids = sample_ids_;
    graph.input = input;
    graph.output = unit.block->forward(graph.input, unit.leaves, graph.context);
    return graph;
  }

  static at::Tensor backward(BenchUnit& unit, BenchGraph& graph, const at::Tensor& gradient) {
    std::vector<at::Tensor> wanted;
    for (const tensor::Param& param : unit.leaves) wanted.push_back(param.leaf);
    if (graph.input.requires_grad()) wanted.push_back(graph.input);
    auto results = torch::autograd::grad({graph.output}, wanted, {gradient}, std::nullopt, false, true);
    graph.sink->write(unit.targets);
    return graph.input.requires_grad() ? results.back() : at::Tensor();
  }

  plan::TensorSpec next_;
  int64_t classes_;
  std::vector<BenchUnit> units_;
  std::vector<int64_t> sample_ids_;  // which masks are a function of
};

inline plan::Attributes linear(int64_t in, int64_t out, const std::string& activation) {
  return {{"in", in}, {"out", out}, {"bias", true}, {"activation", activation}, {"flatten", true}};
}

// Steps of one microbatch; the benchmark's argument is the number of threads.
inline void run(benchmark::State& state, BenchNetwork network, const at::Tensor& input,
                at::IntArrayRef target_sizes) {
  const int threads = static_cast<int>(state.range(0));
  tensor::install_counting_allocator();
  tensor::set_thread_count(threads);
  const at::Tensor targets =
      at::randint(0, network.classes(), target_sizes, at::TensorOptions().dtype(at::kLong));
  network.step(input, targets, threads);
  for (auto _ : state) network.step(input, targets, threads);
  state.SetItemsProcessed(state.iterations() * input.size(0));
}

}  // namespace furrow::nn::testing
