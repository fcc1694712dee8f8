// Steps of every optimizer over one matrix of 768 x 3072, as bench/tensor.py runs them beside torch.optim's.
#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "furrow/tensor/optimizer.h"

namespace furrow::tensor {
namespace {

constexpr int64_t kRows = 768, kColumns = 3072, kSize = kRows * kColumns;

// The states of one matrix, as plan/optimizer_spec.cc forms them.
struct Buffers {
  explicit Buffers(std::string_view name) : params(kSize, 0.5F), gradient(kSize, 0.01F) {
    for (size_t i = 0; i < gradient.size(); ++i) gradient[i] *= static_cast<float>(i % 17) - 8;
    std::vector<int64_t> sizes = {kSize, kSize};
    if (name == "adafactor") sizes = {kRows, kColumns, 0};
    if (name == "muon") sizes = {kSize, 0};
    if (name == "sgd" || name == "lion") sizes = {kSize};
    if (name == "adamw8bit") sizes = {0, kSize / 256, 0, kSize / 256};
    for (const int64_t size : sizes) floats.emplace_back(static_cast<size_t>(size), 0.0F);
    codes.assign(2, std::vector<uint8_t>(name == "adamw8bit" ? kSize : 0));
  }

  OptimizerSpan span() {
    OptimizerSpan span{params, gradient};
    for (size_t s = 0; s < floats.size(); ++s) span.states[s] = std::span<float>(floats[s]);
    if (!codes[0].empty()) {
      span.states[0] = std::span<uint8_t>(codes[0]);
      span.states[2] = std::span<uint8_t>(codes[1]);
    }
    span.whole = true;
    span.rows = kRows;
    return span;
  }

  std::vector<float> params, gradient;
  std::vector<std::vector<float>> floats;
  std::vector<std::vector<uint8_t>> codes;
};

void step(benchmark::State& state, const Optimizer& optimizer) {
  Buffers buffers(optimizer.name);
  StepParameters parameters{.lr = 1e-6,
                            .momentum = 0.9,
                            .nesterov = true,
                            .beta1 = 0.9,
                            .beta2 = 0.99,
                            .eps = 1e-8,
                            .beta2_decay = -0.8,
                            .weight_decay = 0.1};
  for (auto _ : state) {
    optimizer.step(buffers.span(), parameters, static_cast<int>(state.range(0)));
    ++parameters.step;
  }
  state.SetItemsProcessed(state.iterations() * kSize);
}

const int kRegistered = [] {
  for (const Optimizer& optimizer : optimizers()) {
    benchmark::RegisterBenchmark(std::string(optimizer.name).c_str(), step, optimizer)
        ->ArgName("threads")
        ->Arg(1)
        ->Arg(2)
        ->UseRealTime();
  }
  return 0;
}();

}  // namespace
}  // namespace furrow::tensor
