// The executor's own time for an instruction: a program of additions of 1,024 elements, which take 0.1 us or
// so.
#include <benchmark/benchmark.h>

#include "furrow/models/architectures.h"
#include "furrow/plan/program.h"
#include "furrow/train/executor_torch.h"

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

}  // namespace
}  // namespace furrow::train
