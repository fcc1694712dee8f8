// base_bench: randomness, sample order, exact sums, checksums.
#include <benchmark/benchmark.h>

#include <vector>

#include "furrow/base/crc32c.h"
#include "furrow/base/exact_sum.h"
#include "furrow/base/hash.h"
#include "furrow/base/rng.h"

namespace furrow {
namespace {

std::vector<float> normals(size_t count) {
  std::vector<float> values(count);
  fill_normal(Philox(1, RandomPurpose::kNoise, "bench"), 0, 1, 0, values);
  return values;
}

void KeyedPermutationIndex(benchmark::State& state) {
  const KeyedPermutation order(1, 2, static_cast<uint64_t>(state.range(0)));
  uint64_t index = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(order(index));
    if (++index == static_cast<uint64_t>(state.range(0))) index = 0;
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(KeyedPermutationIndex)->Arg(60'000)->Arg(1'000'000)->Arg((1 << 20) + 1);

void FillNormal(benchmark::State& state) {
  std::vector<float> out(1 << 16);
  const Philox stream(1, RandomPurpose::kInit, "w");
  for (auto _ : state) fill_normal(stream, 0, 1, 0, out);
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(out.size()));
}
BENCHMARK(FillNormal);

void FillUniform(benchmark::State& state) {
  std::vector<float> out(1 << 16);
  const Philox stream(1, RandomPurpose::kInit, "w");
  for (auto _ : state) fill_uniform(stream, 0, 1, 0, out);
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(out.size()));
}
BENCHMARK(FillUniform);

void ExactSumFloats(benchmark::State& state) {
  const std::vector<float> values = normals(1 << 20);
  for (auto _ : state) {
    ExactSum sum;
    sum.add_all(std::span<const float>(values));
    benchmark::DoNotOptimize(sum.value());
  }
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(values.size()));
}
BENCHMARK(ExactSumFloats);

void ExactSumSquares(benchmark::State& state) {
  const std::vector<float> values = normals(1 << 20);
  for (auto _ : state) {
    ExactSum sum;
    sum.add_squares(values);
    benchmark::DoNotOptimize(sum.value());
  }
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(values.size()));
}
BENCHMARK(ExactSumSquares);

void Xxh3(benchmark::State& state) {
  const std::vector<float> values = normals(1 << 20);
  for (auto _ : state) benchmark::DoNotOptimize(xxh3_64(std::as_bytes(std::span(values))));
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(values.size() * 4));
}
BENCHMARK(Xxh3);

void Crc32c(benchmark::State& state) {
  const std::vector<float> values = normals(1 << 16);
  for (auto _ : state) benchmark::DoNotOptimize(crc32c(std::as_bytes(std::span(values))));
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(values.size() * 4));
}
BENCHMARK(Crc32c);

}  // namespace
}  // namespace furrow
