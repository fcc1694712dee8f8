// Convolutions of resnet20 on CIFAR-10, 32 images, in float32 and bfloat16; FLOP per second.
#include <benchmark/benchmark.h>

#include <type_traits>
#include <vector>

#include "furrow/tensor/kernels/pixel_conv.h"

namespace furrow::tensor::kernels {
namespace {

template <class T>
std::vector<T> numbers(int64_t count, uint32_t seed) {
  std::vector<float> wide(static_cast<size_t>(count));
  for (float& x : wide) x = static_cast<float>((seed = seed * 1664525 + 1013904223) >> 8) * 0x1p-23F - 1;
  if constexpr (std::is_same_v<T, float>) {
    return wide;
  } else {
    std::vector<T> narrow(wide.size());
    convert(count, wide.data(), narrow.data(), 1);
    return narrow;
  }
}

// Channels of range(0), of images that have 32 x 16 values of each.
PixelConvShape shape_of(const benchmark::State& state) {
  const int64_t channels = state.range(0), side = 512 / channels;
  return {32, channels, side, side, channels, 3, 1, 1};
}
int threads(const benchmark::State& state) { return static_cast<int>(state.range(1)); }
int64_t weights(const PixelConvShape& s) { return s.out_channels * s.in_channels * s.kernel * s.kernel; }
void flops(benchmark::State& state, const PixelConvShape& s) {
  const double each = 2.0 * static_cast<double>(s.out_height() * s.out_width() * weights(s));
  state.counters["FLOP/s"] =
      benchmark::Counter(each * static_cast<double>(s.batch), benchmark::Counter::kIsIterationInvariantRate);
}

template <class T>
void forward(benchmark::State& state) {
  const PixelConvShape s = shape_of(state);
  const std::vector<T> x = numbers<T>(s.batch * s.in_numbers(), 1), weight = numbers<T>(weights(s), 2);
  std::vector<T> y(static_cast<size_t>(s.batch * s.out_numbers()));
  for (auto _ : state) pixel_conv_forward({s, x.data(), weight.data(), y.data()}, threads(state));
  flops(state, s);
}
template <class T>
void backward_input(benchmark::State& state) {
  const PixelConvShape s = shape_of(state);
  const auto dy = numbers<T>(s.batch * s.out_numbers(), 1), weight = numbers<T>(weights(s), 2);
  std::vector<T> dx(static_cast<size_t>(s.batch * s.in_numbers()));
  for (auto _ : state) pixel_conv_backward_input({s, dy.data(), weight.data(), dx.data()}, threads(state));
  flops(state, s);
}
template <class T>
void backward_weight(benchmark::State& state) {
  const PixelConvShape s = shape_of(state);
  const auto x = numbers<T>(s.batch * s.in_numbers(), 1), dy = numbers<T>(s.batch * s.out_numbers(), 2);
  std::vector<float> dweight(static_cast<size_t>(weights(s)));
  for (auto _ : state) pixel_conv_backward_weight({s, x.data(), dy.data(), dweight.data()}, threads(state));
  flops(state, s);
}

void sizes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"channels", "threads"})->ArgsProduct({{16, 32, 64}, {1}})->UseRealTime();
}
BENCHMARK(forward<float>)->Name("pixel_conv_forward_float32")->Apply(sizes);
BENCHMARK(forward<bf16>)->Name("pixel_conv_forward_bfloat16")->Apply(sizes);
BENCHMARK(backward_input<float>)->Name("pixel_conv_backward_input_float32")->Apply(sizes);
BENCHMARK(backward_input<bf16>)->Name("pixel_conv_backward_input_bfloat16")->Apply(sizes);
BENCHMARK(backward_weight<float>)->Name("pixel_conv_backward_weight_float32")->Apply(sizes);
BENCHMARK(backward_weight<bf16>)->Name("pixel_conv_backward_weight_bfloat16")->Apply(sizes);

}  // namespace
}  // namespace furrow::tensor::kernels
