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
#include "furrow/tensor/ops_torch.h"
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

// Single layers between a large and a small convolution; plain libtorch runs the same, eagerly, as PyTorch
// does.
struct LayersForm {
  int64_t batch = 32, in = 3, side = 32, width = 32, classes = 10;
};

Network layers(const LayersForm& form) {
  const auto conv = [](int64_t in, int64_t out, int64_t stride, const std::string& activation) {
    return plan::Attributes{{"in_channels", in},       {"out_channels", out},   {"kernel", int64_t{3}},
                            {"stride", stride},        {"padding", int64_t{1}}, {"bias", true},
                            {"activation", activation}};
  };
  const auto pool = [](int64_t kernel) {
    return plan::Attributes{{"kernel", kernel}, {"stride", int64_t{2}}, {"padding", int64_t{0}}};
  };
  Network network({DType::kF32, {-1, form.in, form.side, form.side}}, form.classes);
  network.append("c1", "conv", conv(form.in, form.width, 1, "silu"));
  network.append("p1", "max_pool", pool(2));
  network.append("c2", "conv", conv(form.width, 2 * form.width, 2, "relu"));
  network.append("n1", "group_norm", {{"groups", int64_t{8}}, {"eps", 1e-5}});
  network.append("p2", "avg_pool", pool(2));
  network.append("g", "global_avg_pool", {});
  network.append("n2", "layer_norm", {{"eps", 1e-5}, {"bias", true}});
  network.append("fc", "linear", linear(2 * form.width, form.classes, "none"));
  return network;
}

void eager_layers(const LayersForm& form, const std::vector<at::Tensor>& p, const at::Tensor& input,
                  const at::Tensor& targets) {
  at::Tensor x = at::max_pool2d(at::silu(at::conv2d(input, p[0], p[1], 1, 1)), 2, 2);
  x = at::relu(at::conv2d(x, p[2], p[3], 2, 1));
  x = at::avg_pool2d(at::group_norm(x, 8, p[4], p[5]), 2, 2).mean({2, 3});
  x = at::linear(at::layer_norm(x, {2 * form.width}, p[6], p[7]), p[8], p[9]);
  benchmark::DoNotOptimize(torch::autograd::grad({at::cross_entropy_loss(x, targets)}, p));
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

void Layers(benchmark::State& state) {
  const LayersForm form;
  run(state, layers(form), at::randn({form.batch, form.in, form.side, form.side}), {form.batch});
}
void LayersEager(benchmark::State& state) {
  const LayersForm form;
  const int threads = static_cast<int>(state.range(0));
  tensor::set_thread_count(threads);
  const int64_t w = form.width;
  std::vector<at::Tensor> p;
  for (const std::vector<int64_t>& sizes : std::vector<std::vector<int64_t>>{{w, form.in, 3, 3},
                                                                             {w},
                                                                             {2 * w, w, 3, 3},
                                                                             {2 * w},
                                                                             {2 * w},
                                                                             {2 * w},
                                                                             {2 * w},
                                                                             {2 * w},
                                                                             {form.classes, 2 * w},
                                                                             {form.classes}})
    p.push_back((at::randn(sizes) * 0.1).set_requires_grad(true));
  const at::Tensor input = at::randn({form.batch, form.in, form.side, form.side});
  const at::Tensor targets = at::randint(0, form.classes, {form.batch}, at::TensorOptions().dtype(at::kLong));
  eager_layers(form, p, input, targets);
  for (auto _ : state) eager_layers(form, p, input, targets);
  state.SetItemsProcessed(state.iterations() * form.batch);
}

// A layer of ours beside libtorch's own, forward and backward, over images that lie as their convolution
// leaves them: channels side by side for ours, apart for libtorch's.
using Ours = at::Tensor (*)(const at::Tensor&, tensor::OpContext&);
using Theirs = at::Tensor (*)(const at::Tensor&);
template <class Layer>
void one_op(benchmark::State& state, const at::Tensor& image, const Layer& layer) {
  tensor::set_thread_count(1);
  const at::Tensor x = image.detach().set_requires_grad(true);
  const at::Tensor dy = at::ones_like(layer(x).detach());
  for (auto _ : state) benchmark::DoNotOptimize(torch::autograd::grad({layer(x)}, {x}, {dy}));
}
void ours(benchmark::State& state, Ours layer) {
  tensor::install_counting_allocator();
  tensor::OpContext context;
  context.threads = 1;
  context.training = true;
  one_op(state, at::randn({16, 32, 32, 32}).contiguous(at::MemoryFormat::ChannelsLast),
         [&](const at::Tensor& x) { return layer(x, context); });
}
void theirs(benchmark::State& state, Theirs layer) { one_op(state, at::randn({16, 32, 32, 32}), layer); }

template <tensor::Activation kActivation>
at::Tensor our_activation(const at::Tensor& x, tensor::OpContext& context) {
  return tensor::biased_activation(x, {}, kActivation, context);
}
struct LayerPair {
  const char* name;
  Ours ours;
  Theirs theirs;
};
const LayerPair kPairs[] = {
    {"max_pool_2",
     [](const at::Tensor& x, tensor::OpContext& c) { return tensor::max_pool(x, {2, 2, 0}, c); },
     [](const at::Tensor& x) { return at::max_pool2d(x, 2); }},
    {"max_pool_3_2",
     [](const at::Tensor& x, tensor::OpContext& c) { return tensor::max_pool(x, {3, 2, 1}, c); },
     [](const at::Tensor& x) { return at::max_pool2d(x, 3, 2, 1); }},
    {"avg_pool_2",
     [](const at::Tensor& x, tensor::OpContext& c) { return tensor::average_pool(x, {2, 2, 0}, c); },
     [](const at::Tensor& x) { return at::avg_pool2d(x, 2); }},
    {"silu", &our_activation<tensor::Activation::kSilu>, [](const at::Tensor& x) { return at::silu(x); }},
    {"tanh", &our_activation<tensor::Activation::kTanh>, [](const at::Tensor& x) { return at::tanh(x); }},
    {"sigmoid", &our_activation<tensor::Activation::kSigmoid>,
     [](const at::Tensor& x) { return at::sigmoid(x); }},
    {"softplus", &our_activation<tensor::Activation::kSoftplus>,
     [](const at::Tensor& x) { return at::softplus(x); }},
    {"gelu", &our_activation<tensor::Activation::kGelu>, [](const at::Tensor& x) { return at::gelu(x); }},
};
const bool kRegistered = [] {
  for (const LayerPair& pair : kPairs) {
    const std::string name = std::string("Layer/") + pair.name;
    benchmark::RegisterBenchmark((name + "/furrow").c_str(),
                                 [&pair](benchmark::State& s) { ours(s, pair.ours); })
        ->UseRealTime()
        ->Unit(benchmark::kMicrosecond);
    benchmark::RegisterBenchmark((name + "/libtorch").c_str(),
                                 [&pair](benchmark::State& s) { theirs(s, pair.theirs); })
        ->UseRealTime()
        ->Unit(benchmark::kMicrosecond);
  }
  return true;
}();

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
BENCHMARK(Layers)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(LayersEager)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(Gpt)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(Llama)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(Lstm)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(Rnn)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace furrow::nn
