// nn_bench: forward, loss, backward and weight gradients of one microbatch, unit by unit as the executor runs
// them.
#include <ATen/ATen.h>
#include <benchmark/benchmark.h>
#include <torch/csrc/autograd/autograd.h>

#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "furrow/models/kinds.h"
#include "furrow/nn/block_torch.h"
#include "furrow/nn/init.h"
#include "furrow/plan/flat_layout.h"
#include "furrow/tensor/allocator_torch.h"
#include "furrow/tensor/flat_buffer_torch.h"
#include "furrow/tensor/loss_torch.h"
#include "furrow/tensor/threads_torch.h"

namespace furrow::nn {
namespace {

struct Unit {
  plan::Unit spec;
  std::unique_ptr<Block> block;
  at::Tensor params, gradient;  // flat
  std::vector<tensor::Param> leaves;
  std::vector<std::span<float>> targets;
};

// A graph between forward and the writing of the gradients.
struct Graph {
  at::Tensor input, output;
  std::unique_ptr<tensor::GradientSink> sink;
  tensor::OpContext context;
};

class Network {
 public:
  Network(plan::TensorSpec input, int64_t classes) : next_(std::move(input)), classes_(classes) {}

  void append(std::string name, std::string_view kind, plan::Attributes attributes) {
    Unit unit;
    unit.spec = models::make_unit(std::move(name), kind, std::move(attributes), next_);
    next_ = unit.spec.output;
    unit.block = make_block(unit.spec);
    const plan::UnitLayout layout = plan::flat_layout({"", {unit.spec}}).units[0];
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
    std::vector<Graph> graphs;
    at::Tensor value = input;
    for (const Unit& unit : units_) {
      graphs.push_back(forward(unit, value.detach().set_requires_grad(!graphs.empty()), threads));
      value = graphs.back().output;
    }
    at::Tensor gradient;
    benchmark::DoNotOptimize(tensor::cross_entropy(value.detach(), targets, &gradient, threads).correct);
    for (size_t u = graphs.size(); u-- > 0;) gradient = backward(units_[u], graphs[u], gradient);
  }

  int64_t classes() const { return classes_; }

 private:
  static Graph forward(const Unit& unit, const at::Tensor& input, int threads) {
    Graph graph;
    graph.sink = std::make_unique<tensor::GradientSink>(static_cast<int>(unit.leaves.size()));
    graph.context.threads = threads;
    graph.context.training = true;
    graph.context.sink = graph.sink.get();
    graph.input = input;
    graph.output = unit.block->forward(graph.input, unit.leaves, graph.context);
    return graph;
  }

  static at::Tensor backward(Unit& unit, Graph& graph, const at::Tensor& gradient) {
    std::vector<at::Tensor> wanted;
    for (const tensor::Param& param : unit.leaves) wanted.push_back(param.leaf);
    if (graph.input.requires_grad()) wanted.push_back(graph.input);
    auto results = torch::autograd::grad({graph.output}, wanted, {gradient}, std::nullopt, false, true);
    graph.sink->write(unit.targets);
    return graph.input.requires_grad() ? results.back() : at::Tensor();
  }

  plan::TensorSpec next_;
  int64_t classes_;
  std::vector<Unit> units_;
};

plan::Attributes linear(int64_t in, int64_t out, const std::string& activation) {
  return {{"in", in}, {"out", out}, {"bias", true}, {"activation", activation}, {"flatten", true}};
}

Network mlp() {
  Network network({DType::kF32, {-1, 1, 28, 28}}, 10);
  network.append("fc1", "linear", linear(784, 1024, "relu"));
  network.append("fc2", "linear", linear(1024, 1024, "relu"));
  network.append("fc3", "linear", linear(1024, 10, "none"));
  return network;
}

Network convnet() {
  const auto conv = [](int64_t in, int64_t out) {
    return plan::Attributes{{"in_channels", in},     {"out_channels", out}, {"kernel", int64_t{5}},
                            {"padding", int64_t{0}}, {"relu", true},        {"pool", true}};
  };
  Network network({DType::kF32, {-1, 1, 28, 28}}, 10);
  network.append("conv1", "conv_relu_pool", conv(1, 6));
  network.append("conv2", "conv_relu_pool", conv(6, 16));
  network.append("fc1", "linear", linear(256, 120, "relu"));
  network.append("fc2", "linear", linear(120, 84, "relu"));
  network.append("fc3", "linear", linear(84, 10, "none"));
  return network;
}

Network gpt() {
  const int64_t vocab = 65, context = 128, width = 128, heads = 4, layers = 4;
  Network network({DType::kI64, {-1, context}}, vocab);
  network.append("embed", "token_embedding",
                 {{"vocab", vocab}, {"context", context}, {"width", width}, {"dropout", 0.0}});
  for (int64_t i = 0; i < layers; ++i) {
    network.append(
        "h." + std::to_string(i), "transformer_block",
        {{"width", width}, {"heads", heads}, {"layers", layers}, {"dropout", 0.0}, {"bias", true}});
  }
  network.append("lm_head", "lm_head",
                 {{"vocab", vocab}, {"width", width}, {"bias", true}, {"tied_to", std::string()}});
  return network;
}

Network llama() {
  const int64_t vocab = 65, context = 128, width = 128, layers = 4;
  Network network({DType::kI64, {-1, context}}, vocab);
  network.append("embed", "embedding", {{"vocab", vocab}, {"width", width}, {"std", 0.02}});
  for (int64_t i = 0; i < layers; ++i) {
    network.append("layers." + std::to_string(i), "llama_block",
                   {{"width", width},
                    {"heads", int64_t{4}},
                    {"kv_heads", int64_t{2}},
                    {"ffn", int64_t{352}},
                    {"layers", layers},
                    {"rope_theta", 10000.0},
                    {"eps", 1e-5}});
  }
  network.append("lm_head", "llama_head",
                 {{"vocab", vocab}, {"width", width}, {"eps", 1e-5}, {"tied_to", std::string()}});
  return network;
}

Network lstm() {
  const int64_t vocab = 65, width = 256;
  Network network({DType::kI64, {-1, 64}}, vocab);
  network.append("embed", "embedding", {{"vocab", vocab}, {"width", width}, {"std", 1.0}});
  network.append("lstm.0", "lstm", {{"in", width}, {"hidden", width}});
  network.append("lstm.1", "lstm", {{"in", width}, {"hidden", width}});
  plan::Attributes head = linear(width, vocab, "none");
  head["flatten"] = false;
  network.append("h2o", "linear", head);
  return network;
}

Network rnn() {
  const int64_t vocab = 27, width = 128;
  Network network({DType::kI64, {-1, 32}}, vocab);
  network.append("embed", "embedding", {{"vocab", vocab}, {"width", width}, {"std", 1.0}});
  network.append("rnn.0", "rnn", {{"in", width}, {"hidden", width}, {"out", vocab}});
  return network;
}

void run(benchmark::State& state, Network network, const at::Tensor& input, at::IntArrayRef target_sizes) {
  const int threads = static_cast<int>(state.range(0));
  tensor::install_counting_allocator();
  tensor::set_thread_count(threads);
  const at::Tensor targets =
      at::randint(0, network.classes(), target_sizes, at::TensorOptions().dtype(at::kLong));
  network.step(input, targets, threads);
  for (auto _ : state) network.step(input, targets, threads);
  state.SetItemsProcessed(state.iterations() * input.size(0));
}

void Mlp(benchmark::State& state) { run(state, mlp(), at::randn({128, 1, 28, 28}), {128}); }
void Convnet(benchmark::State& state) { run(state, convnet(), at::randn({64, 1, 28, 28}), {64}); }
void Gpt(benchmark::State& state) {
  run(state, gpt(), at::randint(0, 65, {12, 128}, at::TensorOptions().dtype(at::kLong)), {12, 128});
}
void tokens(benchmark::State& state, Network network, int64_t batch, int64_t time) {
  const int64_t vocabulary = network.classes();
  run(state, std::move(network),
      at::randint(0, vocabulary, {batch, time}, at::TensorOptions().dtype(at::kLong)), {batch, time});
}
void Llama(benchmark::State& state) { tokens(state, llama(), 12, 128); }
void Lstm(benchmark::State& state) { tokens(state, lstm(), 32, 64); }
void Rnn(benchmark::State& state) { tokens(state, rnn(), 64, 32); }
BENCHMARK(Mlp)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(Convnet)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(Gpt)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(Llama)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(Lstm)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(Rnn)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace furrow::nn
