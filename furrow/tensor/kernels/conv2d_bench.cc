// The two convolutions of the quickstart's network, batch 64: GFLOP/s of each pass, by threads.
#include <benchmark/benchmark.h>

#include <vector>

#include "furrow/tensor/kernels/conv2d.h"

namespace furrow::tensor::kernels {
namespace {

Conv2dShape layer(int64_t which) {
  if (which == 1) {
    return {.batch = 64,
            .in_channels = 1,
            .height = 28,
            .width = 28,
            .out_channels = 6,
            .kernel = 5,
            .relu = true,
            .pool = true};
  }
  return {.batch = 64,
          .in_channels = 6,
          .height = 12,
          .width = 12,
          .out_channels = 16,
          .kernel = 5,
          .relu = true,
          .pool = true};
}

struct Data {
  explicit Data(const Conv2dShape& s)
      : x(static_cast<size_t>(s.batch * s.in_channels * s.height * s.width), 0.5f),
        weight(static_cast<size_t>(s.weight_size()), 0.1f),
        bias(static_cast<size_t>(s.out_channels)),
        y(static_cast<size_t>(s.batch * s.out_channels * s.out_height() * s.out_width())),
        dy(y.size(), 0.25f),
        dx(x.size()),
        dweight(weight.size()),
        dbias(bias.size()),
        codes(static_cast<size_t>(s.code_bytes())) {
    conv2d_forward({s, x.data(), weight.data(), bias.data(), y.data(), codes.data()}, 1);
  }
  std::vector<float> x, weight, bias, y, dy, dx, dweight, dbias;
  std::vector<uint8_t> codes;
};

void report(benchmark::State& state, const Conv2dShape& s) {
  const double flops =
      2.0 * static_cast<double>(s.batch * s.weight_size() * s.conv_height() * s.conv_width());
  state.counters["FLOP/s"] = benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
}

void forward(benchmark::State& state) {
  const Conv2dShape s = layer(state.range(0));
  Data d(s);
  for (auto _ : state) {
    conv2d_forward({s, d.x.data(), d.weight.data(), d.bias.data(), d.y.data(), d.codes.data()},
                   static_cast<int>(state.range(1)));
  }
  report(state, s);
}
void backward_input(benchmark::State& state) {
  const Conv2dShape s = layer(state.range(0));
  Data d(s);
  for (auto _ : state) {
    conv2d_backward_input({s, d.dy.data(), d.codes.data(), d.weight.data(), d.dx.data()},
                          static_cast<int>(state.range(1)));
  }
  report(state, s);
}
void backward_weight(benchmark::State& state) {
  const Conv2dShape s = layer(state.range(0));
  Data d(s);
  for (auto _ : state) {
    conv2d_backward_weight({s, d.x.data(), d.dy.data(), d.codes.data(), d.dweight.data(), d.dbias.data()},
                           static_cast<int>(state.range(1)));
  }
  report(state, s);
}

BENCHMARK(forward)
    ->Name("conv2d/forward")
    ->ArgNames({"conv", "threads"})
    ->ArgsProduct({{1, 2}, {1, 2}})
    ->UseRealTime();
BENCHMARK(backward_input)
    ->Name("conv2d/backward_input")
    ->ArgNames({"conv", "threads"})
    ->ArgsProduct({{2}, {1, 2}})
    ->UseRealTime();
BENCHMARK(backward_weight)
    ->Name("conv2d/backward_weight")
    ->ArgNames({"conv", "threads"})
    ->ArgsProduct({{1, 2}, {1, 2}})
    ->UseRealTime();

}  // namespace
}  // namespace furrow::tensor::kernels
