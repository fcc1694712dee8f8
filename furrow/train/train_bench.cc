// The executor's own time for an instruction: of whole training steps of units that do next to nothing
// (RunOutputs says it), alone and on ranks that are threads; and, all handlers included, of additions of
// 1,024 elements, which take 0.1 us or so.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <mutex>

#include "furrow/models/architectures.h"
#include "furrow/plan/compile.h"
#include "furrow/plan/optimizer_spec.h"
#include "furrow/plan/program.h"
#include "furrow/train/executor_torch.h"
#include "furrow/train/median.h"
#include "furrow/train/rank_share.h"
#include "furrow/train/residence_torch.h"
#include "tests/testing/run_ranks.h"
#include "tests/testing/tiny_training_torch.h"

namespace furrow::train {
namespace {

constexpr int kInstructions = 1000;

plan::ModelSpec one_unit() {
  config::Model model;
  model.name = "mlp";
  model.hidden = {};
  models::DataShape shape;
  shape.input = {DType::kF32, {-1, 1, 4, 8}};
  shape.classes = 4;
  return models::describe(model, shape);
}

// gradient [0,2) = [0,1) + [1,2), in place, over and over: not a program that verify would take.
plan::Program additions() {
  plan::Program program;
  program.name = "bench";
  program.units = {"fc"};
  program.microbatch_sizes = {1, 1};
  program.slots.assign(2, {MemoryKind::kGradients, 1024 * sizeof(float)});
  program.assignments = {{plan::gradient_value(0, 0, 0, 1), 0},
                         {plan::gradient_value(0, 0, 0, 2), 0},
                         {plan::gradient_value(0, 0, 1, 2), 1}};
  plan::Instruction add;
  add.op = plan::Op::kAdd;
  add.unit = 0;
  add.reads = {plan::gradient_value(0, 0, 0, 1), plan::gradient_value(0, 0, 1, 2)};
  add.writes = {plan::gradient_value(0, 0, 0, 2)};
  program.instructions.assign(kInstructions, add);
  return program;
}

void BM_Instruction(benchmark::State& bench) {
  ModelState model(one_unit(), {}, 1);
  const RankContext rank;
  const CancelToken cancel;
  RankContext polled = rank;
  polled.cancel = &cancel;
  Executor executor(additions(), model, find_objective("supervised"), nullptr, polled);
  const RunInputs inputs;
  for (auto _ : bench) executor.run(inputs);
  bench.SetItemsProcessed(bench.iterations() * kInstructions);
  bench.counters["s/instruction"] =
      benchmark::Counter(static_cast<double>(bench.iterations() * kInstructions),
                         benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}
BENCHMARK(BM_Instruction);

// Twelve units that multiply 16 numbers with one and sleep for no time, and a small linear one.
plan::ModelSpec tiny_units() {
  config::Model model;
  model.name = "blocks";
  for (int i = 0; i < 12; ++i)
    model.units.push_back(fmt::format("d{}: delay forward_ms=0 backward_input_ms=0 backward_weight_ms=0", i));
  model.units.push_back("fc: linear out=classes");
  models::DataShape shape;
  shape.input = {DType::kF32, {-1, 16}};
  shape.classes = 4;
  return models::describe(model, shape);
}

struct World {
  const char* name = "";
  int pipeline = 1, shard = 1;
  const char* schedule = "1F1B";
  bool recompute = false;
  int ranks() const { return pipeline * shard; }
};

constexpr World kWorlds[] = {{"alone"},
                             {"alone, recompute", 1, 1, "1F1B", true},
                             {"shard 2", 1, 2},
                             {"pipeline 2", 2, 1, "1F1B"},
                             {"pipeline 4", 4, 1, "ZBH1"},
                             {"pipeline 2 x shard 2", 2, 2, "Interleaved1F1B", true}};

struct OwnTimes {
  std::mutex mutex;
  std::vector<double> own_us, waiting_us, run_us;  // by step and rank, for an instruction
  size_t instructions = 0;                         // of the longest program
};

plan::Program program_of(const plan::ModelSpec& spec, const World& world, int rank,
                         const train::OptimizerRule& rule) {
  plan::TrainOptions options;
  options.microbatch_sizes.assign(8, 1);
  options.recompute.assign(spec.units.size(), world.recompute);
  options.optimizer_states = plan::forms_of(rule.states());
  options.ranks.rank = rank;
  options.ranks.pipeline.schedule = world.schedule;
  return plan::compile_train(spec, plan::Layout({world.pipeline, 1, world.shard, 1, 1, 1}, world.ranks()),
                             options);
}

void run_steps(const plan::ModelSpec& spec, const World& world, const RankContext& rank, OwnTimes* times) {
  constexpr int kWarmUps = 5, kSteps = 30;
  const OptimizerRule rule(config::Optimizer{}, config::LrScheduler{}, config::Ema{});
  const plan::Program program = program_of(spec, world, rank.rank, rule);
  ModelState model(spec, rule.states(), /*seed=*/1, {},
                   residence_of(plan::flat_layout(spec), program.placement, rank));
  Executor executor(program, model, find_objective("supervised"), &rule, rank);
  const testing::MadeUpSource source = testing::MadeUpSource::images(1000, {16}, 4);
  data::LoaderOptions loader_options = train::loader_options(program, 0);
  loader_options.prefetch = 0;
  data::Loader loader(source, data::SampleOrder(1, source.size(), true), loader_options);
  const auto instructions = static_cast<double>(program.instructions.size());
  for (int step = 0; step < kWarmUps + kSteps; ++step) {
    RunInputs inputs;
    inputs.loader = &loader;
    inputs.step = step;
    const int64_t start_ns = rank.clock->monotonic_ns();
    const RunOutputs outputs = executor.run(inputs);
    const auto run_ns = static_cast<double>(rank.clock->monotonic_ns() - start_ns);
    if (step < kWarmUps) continue;
    const std::lock_guard lock(times->mutex);
    times->own_us.push_back(static_cast<double>(outputs.own_ns) * 1e-3 / instructions);
    times->waiting_us.push_back(static_cast<double>(outputs.comm.exposed_ns) * 1e-3 / instructions);
    times->run_us.push_back(run_ns * 1e-3 / instructions);
    times->instructions = std::max(times->instructions, program.instructions.size());
  }
}

// Its time is the executor's own for an instruction, the median over steps and ranks.
void BM_Step(benchmark::State& bench, const World& world) {
  const plan::ModelSpec spec = tiny_units();
  OwnTimes times;
  for (auto _ : bench) {
    const size_t before = times.own_us.size();
    const auto run = [&](comm::Communicator* communicator) {
      RankContext rank;
      if (communicator != nullptr)
        join(communicator, plan::Layout({world.pipeline, 1, world.shard, 1, 1, 1}, world.ranks()), &rank);
      run_steps(spec, world, rank, &times);
    };
    if (world.ranks() == 1) {
      run(nullptr);
    } else {
      testing::run_ranks(world.ranks(), [&](comm::Communicator& communicator) { run(&communicator); });
    }
    const auto begin = times.own_us.begin() + static_cast<long>(before);
    bench.SetIterationTime(median({begin, times.own_us.end()}) * 1e-6);
  }
  bench.counters["own_us"] = median(times.own_us);
  bench.counters["waiting_us"] = median(times.waiting_us);
  bench.counters["whole_us"] = median(times.run_us);  // handlers and waiting included
  bench.counters["instructions"] = static_cast<double>(times.instructions);
}

[[maybe_unused]] const bool kRegistered = [] {
  for (const World& world : kWorlds) {
    benchmark::RegisterBenchmark(fmt::format("Step/{}", world.name).c_str(), BM_Step, world)
        ->UseManualTime()
        ->Iterations(3)
        ->Unit(benchmark::kMicrosecond);
  }
  return true;
}();

}  // namespace
}  // namespace furrow::train
