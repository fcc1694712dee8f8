// Compile (buffers and verify included), verify alone, and the text form, of a hundred units and 32
// microbatches.
#include <benchmark/benchmark.h>

#include <vector>

#include "furrow/plan/compile.h"
#include "furrow/plan/testing/specs.h"
#include "furrow/plan/verify.h"

namespace furrow::plan {
namespace {

ModelSpec model() {
  ModelSpec spec = testing::chain(100, 64);
  spec.units[99].parameters[0].tied_to = "u0.weight";
  return spec;
}

TrainOptions options() { return {std::vector<int64_t>(32, 12), {}, 2}; }

void compile(benchmark::State& state) {
  const ModelSpec spec = model();
  for (auto _ : state) benchmark::DoNotOptimize(compile_train(spec, Layout(), options()));
}
BENCHMARK(compile)->Name("plan/compile_train/units:100/microbatches:32")->Unit(benchmark::kMillisecond);

void check(benchmark::State& state) {
  const ModelSpec spec = model();
  const Program program = compile_train(spec, Layout(), options());
  for (auto _ : state) benchmark::DoNotOptimize(verify(program, spec));
  state.counters["instructions"] = static_cast<double>(program.instructions.size());
}
BENCHMARK(check)->Name("plan/verify/units:100/microbatches:32")->Unit(benchmark::kMillisecond);

void text(benchmark::State& state) {
  const Program program = compile_train(model(), Layout(), options());
  for (auto _ : state) benchmark::DoNotOptimize(parse_program(to_text(program)));
}
BENCHMARK(text)->Name("plan/text_round_trip/units:100/microbatches:32")->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace furrow::plan
