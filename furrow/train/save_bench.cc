// How long a save behind training holds the training thread: the snapshots and all that comes before the
// thread may go on, beside copies of as many bytes in the same process, in turn.  The copy goes to memory
// that is new, as the snapshots' is, and to memory that was written before.
#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <stdlib.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <vector>

#include "furrow/base/memory.h"
#include "furrow/models/architectures.h"
#include "furrow/plan/compile.h"
#include "furrow/plan/optimizer_spec.h"
#include "furrow/train/checkpointer_torch.h"
#include "furrow/train/executor_torch.h"
#include "furrow/train/median.h"
#include "furrow/train/residence_torch.h"

namespace furrow::train {
namespace {

// So many units of 1,025 x 1,024 parameters, and as many of each of Adam's two states.
plan::ModelSpec wide_units(int64_t units) {
  config::Model model;
  model.name = "mlp";
  model.hidden.assign(static_cast<size_t>(units - 1), 1024);
  models::DataShape shape;
  shape.input = {DType::kF32, {-1, 1024}};
  shape.classes = 1024;
  return models::describe(model, shape);
}

// One process's saves as Run makes them.
struct Saving {
  explicit Saving(int64_t units) : spec(wide_units(units)) {
    config.checkpoint.async_mode = "async";
    config.checkpoint.keep_latest_k = 1;
    plan::TrainOptions options;
    options.microbatch_sizes = {1};
    options.recompute.assign(spec.units.size(), false);
    options.optimizer_states = plan::forms_of(rule.states());
    const plan::Layout layout({1, 1, 1, 1, 1, 1}, 1);
    const plan::Program program = plan::compile_save(spec, layout, options);
    model = std::make_unique<ModelState>(spec, rule.states(), /*seed=*/1);
    executor = std::make_unique<Executor>(program, *model, find_objective("supervised"), &rule, rank);
    char name[] = "/tmp/furrow_save_XXXXXX";
    folder = mkdtemp(name);
    CheckpointPlace place;
    place.folder = folder;
    checkpointer = std::make_unique<Checkpointer>(config, place, rank);
    for (const UnitState& unit : model->units()) {
      bytes += unit.params.nbytes();
      for (const at::Tensor& state : unit.states) bytes += state.nbytes();
    }
  }
  ~Saving() {
    checkpointer.reset();
    std::filesystem::remove_all(folder);
  }

  void save(int64_t step) {
    RunInputs inputs;
    inputs.step = step;
    RunOutputs outputs = executor->run(inputs);
    RunState state;
    state.step = step;
    checkpointer->save(*model, state, std::move(outputs.snapshots), {});
  }

  config::Config config;
  plan::ModelSpec spec;
  OptimizerRule rule{config::Optimizer{}, config::LrScheduler{}, config::Ema{}};
  RankContext rank;
  std::unique_ptr<ModelState> model;
  std::unique_ptr<Executor> executor;
  std::string folder;
  std::unique_ptr<Checkpointer> checkpointer;
  size_t bytes = 0;
};

double seconds_of(const std::function<void()>& work) {
  const int64_t start_ns = system_clock().monotonic_ns();
  work();
  return static_cast<double>(system_clock().monotonic_ns() - start_ns) * 1e-9;
}

// Its time is what the training thread is held.
void BM_SaveBehindTraining(benchmark::State& bench) {
  Saving saving(bench.range(0));
  const CountedBuffer from(saving.bytes, MemoryKind::kOther), written(saving.bytes, MemoryKind::kOther);
  std::memset(from.data(), 1, from.size());
  std::memset(written.data(), 2, written.size());
  std::vector<double> held, anew, again;
  int64_t step = 0;
  for (auto _ : bench) {
    held.push_back(seconds_of([&] { saving.save(++step); }));
    saving.checkpointer->finish();
    anew.push_back(seconds_of([&] {
      const CountedBuffer to(saving.bytes, MemoryKind::kOther);
      std::memcpy(to.data(), from.data(), to.size());
      benchmark::DoNotOptimize(to.data());
    }));
    again.push_back(seconds_of([&] {
      std::memcpy(written.data(), from.data(), written.size());
      benchmark::DoNotOptimize(written.data());
    }));
    bench.SetIterationTime(held.back());
  }
  bench.counters["MiB"] = static_cast<double>(saving.bytes) / (1 << 20);
  bench.counters["held_ms"] = median(held) * 1e3;
  bench.counters["memcpy_ms"] = median(anew) * 1e3;
  bench.counters["ratio"] = median(held) / median(anew);
  bench.counters["memcpy_again_ms"] = median(again) * 1e3;
}
BENCHMARK(BM_SaveBehindTraining)
    ->Arg(2)
    ->Arg(16)
    ->UseManualTime()
    ->Iterations(9)
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace furrow::train
