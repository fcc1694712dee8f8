// Everything of a transformer layer and of a step that is not a matrix product, and the recurrent part of an
// LSTM; bytes, elements or FLOP per second.
// Sizes: 12 samples, 128 positions, 128 channels, 4 heads; flat buffers of two million parameters.
#include <benchmark/benchmark.h>

#include <vector>

#include "furrow/tensor/kernels/attention.h"
#include "furrow/tensor/kernels/cross_entropy.h"
#include "furrow/tensor/kernels/elementwise.h"
#include "furrow/tensor/kernels/layer_norm.h"
#include "furrow/tensor/kernels/optimizer.h"
#include "furrow/tensor/kernels/recurrent.h"

namespace furrow::tensor::kernels {
namespace {

constexpr int64_t kRows = 12 * 128, kChannels = 128;
using Floats = std::vector<float>;
Floats floats(int64_t n, float value = 0.5f) {
  Floats out(static_cast<size_t>(n));
  for (size_t i = 0; i < out.size(); ++i) out[i] = value * static_cast<float>(i % 17) / 16.0f;
  return out;
}
int threads(const benchmark::State& state) { return static_cast<int>(state.range(0)); }
void elements(benchmark::State& state, int64_t n) { state.SetItemsProcessed(state.iterations() * n); }
// Products of the causal half, forward 2 and backward 5 per pair of positions and column.
void attention_flops(benchmark::State& state, double products) {
  state.counters["FLOP/s"] = benchmark::Counter(products * 2 * 12 * 4 * 128 * 129 / 2 * 32,
                                                benchmark::Counter::kIsIterationInvariantRate);
}

void bench_attention_forward(benchmark::State& state) {
  const AttentionShape s{12, 128, 4, 32};
  const Floats qkv = floats(kRows * 3 * kChannels);
  Floats out = floats(kRows * kChannels), lse = floats(12 * 4 * 128);
  for (auto _ : state) attention_forward({s, qkv.data(), out.data(), lse.data()}, threads(state));
  attention_flops(state, 2);
}
void bench_attention_backward(benchmark::State& state) {
  const AttentionShape s{12, 128, 4, 32};
  const Floats qkv = floats(kRows * 3 * kChannels), dout = floats(kRows * kChannels);
  Floats out = floats(kRows * kChannels), lse = floats(12 * 4 * 128), dqkv = floats(kRows * 3 * kChannels);
  attention_forward({s, qkv.data(), out.data(), lse.data()}, threads(state));
  for (auto _ : state) {
    attention_backward({s, qkv.data(), out.data(), lse.data(), dout.data(), dqkv.data()}, threads(state));
  }
  attention_flops(state, 5);
}
// 32 samples, 64 steps, 256 hidden units: the recurrent part of a layer; forward leaves what backward reads.
constexpr RecurrentShape kLstm{Cell::kLstm, 32, 64, 256, 512};
void lstm_flops(benchmark::State& state) {
  state.counters["FLOP/s"] =
      benchmark::Counter(2.0 * 32 * 63 * 4 * 256 * 256, benchmark::Counter::kIsIterationInvariantRate);
}
template <class T>
std::vector<T> numbers(int64_t n, float value = 0.5f) {
  std::vector<T> out(static_cast<size_t>(n));
  const Floats values = floats(n, value);
  for (size_t i = 0; i < out.size(); ++i) set_to(out[i], values[i]);
  return out;
}
template <class T>
void lstm_forward(benchmark::State& state) {
  const auto weight = numbers<T>(4 * 256 * 512, 0.05f);
  auto gates = numbers<T>(32 * 64 * 1024), cell = numbers<T>(32 * 64 * 256), out = cell;
  for (auto _ : state) {
    recurrent_forward(
        RecurrentForward<T>{kLstm, weight.data(), gates.data(), cell.data(), out.data(), nullptr, 256, 0},
        threads(state));
  }
  lstm_flops(state);
}
template <class T>
void lstm_backward(benchmark::State& state) {
  const auto weight = numbers<T>(4 * 256 * 512, 0.05f), dout = numbers<T>(32 * 64 * 256);
  auto gates = numbers<T>(32 * 64 * 1024), cell = numbers<T>(32 * 64 * 256);
  for (auto _ : state) {
    recurrent_backward(
        RecurrentBackward<T>{kLstm, weight.data(), gates.data(), cell.data(), dout.data(), nullptr, 256, 0},
        threads(state));
  }
  lstm_flops(state);
}
void layer_norm(benchmark::State& state) {
  const Floats x = floats(kRows * kChannels), gamma = floats(kChannels), dy = x;
  Floats y = x, mean = floats(kRows), rstd = mean, dx = x, dgamma = gamma, dbeta = gamma;
  for (auto _ : state) {
    layer_norm_forward({.rows = kRows,
                        .columns = kChannels,
                        .x = x.data(),
                        .gamma = gamma.data(),
                        .beta = gamma.data(),
                        .y = y.data(),
                        .mean = mean.data(),
                        .rstd = rstd.data()},
                       threads(state));
    layer_norm_backward({.rows = kRows,
                         .columns = kChannels,
                         .x = x.data(),
                         .gamma = gamma.data(),
                         .mean = mean.data(),
                         .rstd = rstd.data(),
                         .dy = dy.data(),
                         .dx = dx.data(),
                         .dgamma = dgamma.data(),
                         .dbeta = dbeta.data()},
                        threads(state));
  }
  elements(state, kRows * kChannels);
}
void gelu_backward(benchmark::State& state) {
  const Floats dy = floats(kRows * 512), slope = dy;
  Floats dz = dy, db = floats(512);
  for (auto _ : state) {
    activation_backward({.rows = kRows,
                         .columns = 512,
                         .activation = Activation::kGelu,
                         .dy = dy.data(),
                         .slope = slope.data(),
                         .dz = dz.data(),
                         .db = db.data()},
                        threads(state));
  }
  elements(state, kRows * 512);
}
void gelu_forward(benchmark::State& state) {
  const Floats x = floats(kRows * 512);
  Floats y = x, slope = x;
  for (auto _ : state)
    activation_forward(Activation::kGelu, kRows * 512, x.data(), y.data(), slope.data(), threads(state));
  elements(state, kRows * 512);
}
void cross_entropy_65(benchmark::State& state) {
  const Floats logits = floats(kRows * 65);
  const std::vector<int64_t> targets(kRows, 3);
  Floats losses = floats(kRows), gradient = logits;
  for (auto _ : state) {
    cross_entropy({kRows, 65, logits.data(), targets.data(), losses.data(), gradient.data()}, threads(state));
  }
  elements(state, kRows * 65);
}
constexpr int64_t kParameters = 2 << 20;
void sgd(benchmark::State& state) {
  Floats param = floats(kParameters), grad = param, momentum = param;
  for (auto _ : state) {
    sgd_step({.n = kParameters,
              .param = param.data(),
              .grad = grad.data(),
              .momentum_buffer = momentum.data(),
              .lr = 1e-9f,
              .momentum = 0.9f},
             threads(state));
  }
  elements(state, kParameters);
}
void adamw(benchmark::State& state) {
  Floats param = floats(kParameters), grad = param, first = param, second = param;
  for (auto _ : state) {
    adam_step({.n = kParameters,
               .param = param.data(),
               .grad = grad.data(),
               .exp_avg = first.data(),
               .exp_avg_sq = second.data(),
               .lr = 1e-9},
              threads(state));
  }
  elements(state, kParameters);
}
void squares(benchmark::State& state) {
  const Floats x = floats(kParameters);
  std::vector<double> sums(static_cast<size_t>(grid_blocks(kParameters)));
  for (auto _ : state) sum_of_squares(kParameters, x.data(), sums.data(), threads(state));
  elements(state, kParameters);
}
void dropout_mask(benchmark::State& state) {
  const Floats x = floats(kRows * kChannels);
  Floats out = x;
  const std::vector<uint64_t> samples(12, 5);
  for (auto _ : state) {
    dropout({12,
             128 * kChannels,
             x.data(),
             out.data(),
             {.p = 0.1f, .key = {1, 2}, .step = 3, .samples = samples.data()}},
            threads(state));
  }
  elements(state, kRows * kChannels);
}

BENCHMARK(bench_attention_forward)
    ->Name("attention_forward")
    ->ArgName("threads")
    ->Arg(1)
    ->Arg(2)
    ->UseRealTime();
BENCHMARK(bench_attention_backward)
    ->Name("attention_backward")
    ->ArgName("threads")
    ->Arg(1)
    ->Arg(2)
    ->UseRealTime();
BENCHMARK(lstm_forward<float>)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK(lstm_backward<float>)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK(lstm_forward<bf16>)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK(lstm_backward<bf16>)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK(lstm_forward<f16>)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK(lstm_backward<f16>)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK(layer_norm)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK(gelu_forward)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK(gelu_backward)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK(cross_entropy_65)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK(sgd)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK(adamw)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK(squares)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK(dropout_mask)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime();

}  // namespace
}  // namespace furrow::tensor::kernels
