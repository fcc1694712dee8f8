// The products of the benchmarked networks: rows x in x out, GFLOP/s of forward, dx and dW.
#include <benchmark/benchmark.h>

#include <vector>

#include "furrow/tensor/kernels/gemm.h"
#include "furrow/tensor/kernels/gemm_half.h"
#include "furrow/tensor/kernels/pairs.h"
#include "furrow/tensor/kernels/tiles.h"

namespace furrow::tensor::kernels {
namespace {

struct Data {
  explicit Data(const LinearShape& s)
      : x(static_cast<size_t>(s.rows * s.in), 0.5f),
        weight(static_cast<size_t>(s.in * s.out), 0.25f),
        y(static_cast<size_t>(s.rows * s.out), 0.125f),
        bias(static_cast<size_t>(s.out)) {}
  std::vector<float> x, weight, y, bias;
};

LinearShape shape(const benchmark::State& state) { return {state.range(0), state.range(1), state.range(2)}; }

void report(benchmark::State& state) {
  const LinearShape s = shape(state);
  state.counters["FLOP/s"] = benchmark::Counter(2.0 * static_cast<double>(s.rows * s.in * s.out),
                                                benchmark::Counter::kIsIterationInvariantRate);
}

void forward(benchmark::State& state) {
  Data d(shape(state));
  for (auto _ : state) {
    linear_forward({.shape = shape(state),
                    .x = d.x.data(),
                    .weight = d.weight.data(),
                    .bias = d.bias.data(),
                    .y = d.y.data()},
                   static_cast<int>(state.range(3)));
  }
  report(state);
}
void forward_gelu(benchmark::State& state) {
  Data d(shape(state));
  std::vector<float> slope(d.y.size());
  for (auto _ : state) {
    linear_forward({.shape = shape(state),
                    .x = d.x.data(),
                    .weight = d.weight.data(),
                    .bias = d.bias.data(),
                    .activation = Activation::kGelu,
                    .y = d.y.data(),
                    .slope = slope.data()},
                   static_cast<int>(state.range(3)));
  }
  report(state);
}
void backward_input(benchmark::State& state) {
  Data d(shape(state));
  for (auto _ : state) {
    linear_backward_input(
        {.shape = shape(state), .dz = d.y.data(), .weight = d.weight.data(), .dx = d.x.data()},
        static_cast<int>(state.range(3)));
  }
  report(state);
}
void backward_weight(benchmark::State& state) {
  Data d(shape(state));
  for (auto _ : state) {
    linear_backward_weight(
        {.shape = shape(state), .dz = d.y.data(), .x = d.x.data(), .dweight = d.weight.data()},
        static_cast<int>(state.range(3)));
  }
  report(state);
}

// The three products of bfloat16.
struct Bf16Data {
  explicit Bf16Data(const LinearShape& s)
      : x(static_cast<size_t>(s.rows * s.in), bf16{0x3f00}),
        weight(static_cast<size_t>(s.in * s.out), bf16{0x3e80}),
        y(static_cast<size_t>(s.rows * s.out), bf16{0x3e00}),
        dweight(weight.size()) {}
  std::vector<bf16> x, weight, y;
  std::vector<float> dweight;
};
void run(benchmark::State& state, const HalfGemm<bf16>& g) {
  for (auto _ : state) gemm(g, static_cast<int>(state.range(3)));
  report(state);
}
void bf16_forward(benchmark::State& state) {
  const LinearShape s = shape(state);
  Bf16Data d(s);
  HalfGemm<bf16> g{s.rows, s.out, s.in, {d.x.data(), s.in, 1}, {d.weight.data(), 1, s.in}};
  g.c = d.y.data();
  g.ldc = s.out;
  run(state, g);
}
void bf16_backward_input(benchmark::State& state) {
  const LinearShape s = shape(state);
  Bf16Data d(s);
  HalfGemm<bf16> g{s.rows, s.in, s.out, {d.y.data(), s.out, 1}, {d.weight.data(), s.in, 1}};
  g.c = d.x.data();
  g.ldc = s.in;
  run(state, g);
}
void bf16_backward_weight(benchmark::State& state) {
  const LinearShape s = shape(state);
  Bf16Data d(s);
  HalfGemm<bf16> g{s.out, s.in, s.rows, {d.y.data(), 1, s.out}, {d.x.data(), s.in, 1}};
  g.wide_c = d.dweight.data();
  g.ldc = s.in;
  run(state, g);
}

// The same on pairs, where the processor has them and its own way is another.
template <void (*product)(benchmark::State&)>
void on_pairs(benchmark::State& state) {
  if (!has_pairs()) return state.SkipWithError("no AVX-512 BF16 here");
  if (bf16_products() == Bf16Products::kPairs) return state.SkipWithError("as linear/bf16");
  const TilesScope none(Tiles::kNone);
  const PairsScope pairs(true);
  product(state);
}

void shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"rows", "in", "out", "threads"})->UseRealTime();
  for (const int threads : {1, 2}) {
    for (const auto& [rows, in, out] : {std::tuple{128, 784, 1024},
                                        {128, 1024, 1024},
                                        {128, 1024, 10},
                                        {64, 256, 120},
                                        {64, 120, 84},
                                        {64, 84, 10},
                                        {1536, 128, 384},
                                        {1536, 128, 512},
                                        {1536, 512, 128},
                                        {1536, 128, 128},
                                        {1536, 128, 65}}) {
      b->Args({rows, in, out, threads});
    }
  }
}

BENCHMARK(forward)->Name("linear/forward")->Apply(shapes);
BENCHMARK(forward_gelu)
    ->Name("linear/forward_gelu")
    ->ArgNames({"rows", "in", "out", "threads"})
    ->Args({1536, 128, 512, 1})
    ->UseRealTime();
BENCHMARK(backward_input)->Name("linear/backward_input")->Apply(shapes);
BENCHMARK(backward_weight)->Name("linear/backward_weight")->Apply(shapes);
BENCHMARK(bf16_forward)->Name("linear/bf16/forward")->Apply(shapes);
BENCHMARK(bf16_backward_input)->Name("linear/bf16/backward_input")->Apply(shapes);
BENCHMARK(bf16_backward_weight)->Name("linear/bf16/backward_weight")->Apply(shapes);
BENCHMARK(on_pairs<bf16_forward>)->Name("linear/bf16_on_pairs/forward")->Apply(shapes);
BENCHMARK(on_pairs<bf16_backward_input>)->Name("linear/bf16_on_pairs/backward_input")->Apply(shapes);
BENCHMARK(on_pairs<bf16_backward_weight>)->Name("linear/bf16_on_pairs/backward_weight")->Apply(shapes);

}  // namespace
}  // namespace furrow::tensor::kernels
