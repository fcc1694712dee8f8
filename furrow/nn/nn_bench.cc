// nn_bench: forward, loss, backward and weight gradients of one microbatch, unit by unit as the executor runs
// them.  (layer_bench.cc: of single layers.)
#include <utility>

#include "furrow/nn/bench_network_torch.h"

namespace furrow::nn {
namespace {

using testing::linear;
using testing::run;
using Network = testing::BenchNetwork;

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
