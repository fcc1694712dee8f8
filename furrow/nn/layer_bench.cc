// nn_bench: networks of single layers, and layers alone, beside plain libtorch, which runs them eagerly as
// PyTorch does.
#include <array>

#include "furrow/nn/bench_network_torch.h"
#include "furrow/tensor/ops_torch.h"

namespace furrow::nn {
namespace {

using testing::linear;
using testing::run;
using Network = testing::BenchNetwork;
using Tensors = std::vector<at::Tensor>;

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

void eager_layers(const LayersForm& form, const Tensors& p, const at::Tensor& input,
                  const at::Tensor& targets) {
  at::Tensor x = at::max_pool2d(at::silu(at::conv2d(input, p[0], p[1], 1, 1)), 2, 2);
  x = at::relu(at::conv2d(x, p[2], p[3], 2, 1));
  x = at::avg_pool2d(at::group_norm(x, 8, p[4], p[5]), 2, 2).mean({2, 3});
  x = at::linear(at::layer_norm(x, {2 * form.width}, p[6], p[7]), p[8], p[9]);
  benchmark::DoNotOptimize(torch::autograd::grad({at::cross_entropy_loss(x, targets)}, p));
}

// Batch norm as a layer and in a bottleneck with a stride, dropout, and a pool between.
Network normed(const LayersForm& form) {
  Network network({DType::kF32, {-1, form.in, form.side, form.side}}, form.classes);
  network.append("c1", "conv",
                 {{"in_channels", form.in},
                  {"out_channels", form.width},
                  {"kernel", int64_t{3}},
                  {"stride", int64_t{1}},
                  {"padding", int64_t{1}},
                  {"bias", false},
                  {"activation", std::string("none")}});
  network.append("n1", "batch_norm", {{"momentum", 0.1}, {"eps", 1e-5}, {"activation", std::string("relu")}});
  network.append("p1", "max_pool", {{"kernel", int64_t{2}}, {"stride", int64_t{2}}, {"padding", int64_t{0}}});
  network.append("b1", "bottleneck_block",
                 {{"in_channels", form.width},
                  {"width", form.width / 2},
                  {"out_channels", 2 * form.width},
                  {"stride", int64_t{2}},
                  {"shortcut", std::string("projection")},
                  {"momentum", 0.1},
                  {"eps", 1e-5}});
  network.append("d1", "dropout", {{"p", 0.1}});
  network.append("g", "global_avg_pool", {});
  network.append("fc", "linear", linear(2 * form.width, form.classes, "none"));
  return network;
}

at::Tensor eager_norm(const at::Tensor& x, const Tensors& p, size_t first) {
  return at::batch_norm(x, p[first], p[first + 1], {}, {}, /*training=*/true, 0.1, 1e-5, /*cudnn=*/false);
}

void eager_normed(const LayersForm&, const Tensors& p, const at::Tensor& input, const at::Tensor& targets) {
  const at::Tensor first =
      at::max_pool2d(at::relu(eager_norm(at::conv2d(input, p[0], {}, 1, 1), p, 1)), 2, 2);
  at::Tensor x = at::relu(eager_norm(at::conv2d(first, p[3]), p, 4));
  x = at::relu(eager_norm(at::conv2d(x, p[6], {}, 2, 1), p, 7));
  x = at::relu(eager_norm(at::conv2d(x, p[9]), p, 10) + eager_norm(at::conv2d(first, p[12], {}, 2), p, 13));
  x = at::linear(at::dropout(x, 0.1, /*train=*/true).mean({2, 3}), p[15], p[16]);
  benchmark::DoNotOptimize(torch::autograd::grad({at::cross_entropy_loss(x, targets)}, p));
}

void Layers(benchmark::State& state) {
  const LayersForm form;
  run(state, layers(form), at::randn({form.batch, form.in, form.side, form.side}), {form.batch});
}
using EagerStep = void (*)(const LayersForm& form, const Tensors& p, const at::Tensor& input,
                           const at::Tensor& targets);
void run_eager(benchmark::State& state, const LayersForm& form,
               const std::vector<std::vector<int64_t>>& sizes, EagerStep step) {
  tensor::set_thread_count(static_cast<int>(state.range(0)));
  Tensors p;
  for (const std::vector<int64_t>& size : sizes) p.push_back((at::randn(size) * 0.1).set_requires_grad(true));
  const at::Tensor input = at::randn({form.batch, form.in, form.side, form.side});
  const at::Tensor targets = at::randint(0, form.classes, {form.batch}, at::TensorOptions().dtype(at::kLong));
  step(form, p, input, targets);
  for (auto _ : state) step(form, p, input, targets);
  state.SetItemsProcessed(state.iterations() * form.batch);
}
void LayersEager(benchmark::State& state) {
  const LayersForm form;
  const int64_t w = form.width, v = 2 * w;
  run_eager(
      state, form,
      {{w, form.in, 3, 3}, {w}, {v, w, 3, 3}, {v}, {v}, {v}, {v}, {v}, {form.classes, v}, {form.classes}},
      &eager_layers);
}
void Normed(benchmark::State& state) {
  const LayersForm form;
  run(state, normed(form), at::randn({form.batch, form.in, form.side, form.side}), {form.batch});
}
void NormedEager(benchmark::State& state) {
  const LayersForm form;
  const int64_t w = form.width, inner = w / 2, v = 2 * w;
  run_eager(state, form,
            {{w, form.in, 3, 3},
             {w},
             {w},
             {inner, w, 1, 1},
             {inner},
             {inner},
             {inner, inner, 3, 3},
             {inner},
             {inner},
             {v, inner, 1, 1},
             {v},
             {v},
             {v, w, 1, 1},
             {v},
             {v},
             {form.classes, v},
             {form.classes}},
            &eager_normed);
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
  std::array<int64_t, 16> ids{};
  std::iota(ids.begin(), ids.end(), 0);
  context.sample_ids = ids;
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
    {"batch_norm",
     [](const at::Tensor& x, tensor::OpContext& c) {
       tensor::BatchNorm norm;
       norm.relu = true;
       return tensor::batch_norm(x, {at::ones({32}), 0}, {at::zeros({32}), 1}, norm, c);
     },
     [](const at::Tensor& x) {
       return at::relu(
           at::batch_norm(x, at::ones({32}), at::zeros({32}), {}, {}, true, 0.1, 1e-5, /*cudnn=*/false));
     }},
    {"dropout", [](const at::Tensor& x, tensor::OpContext& c) { return tensor::dropout(x, 0.5, "d", c); },
     [](const at::Tensor& x) { return at::dropout(x, 0.5, /*train=*/true); }},
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

BENCHMARK(Layers)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(LayersEager)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(Normed)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(NormedEager)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace furrow::nn
