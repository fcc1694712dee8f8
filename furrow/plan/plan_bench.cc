// Compile (buffers and verify included), verify alone, the text form, one rank of eight and the world of all
// eight, of a hundred units and 32 microbatches.
#include <benchmark/benchmark.h>

#include <array>
#include <ctime>
#include <memory>
#include <vector>

#include "furrow/plan/compile.h"
#include "furrow/plan/search.h"
#include "furrow/plan/simulate.h"
#include "furrow/plan/tensor_cut.h"
#include "furrow/plan/testing/specs.h"
#include "furrow/plan/verify.h"
#include "furrow/plan/verify_world.h"

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

TrainOptions rank_options(int zero_stage) {
  TrainOptions rank = options();
  rank.ranks = {3, zero_stage, Reshard::kDefault, Deterministic::kStrict, 1};
  return rank;
}

// One rank of eight; verify included.
void compile_rank(benchmark::State& state, std::array<int, 2> mesh, int zero_stage) {
  const ModelSpec spec = model();
  const Layout layout({1, mesh[0], mesh[1], 1, 1, 1}, 8);
  for (auto _ : state) benchmark::DoNotOptimize(compile_train(spec, layout, rank_options(zero_stage)));
}
BENCHMARK_CAPTURE(compile_rank, ddp8, {8, 1}, 3)
    ->Name("plan/compile_train/units:100/microbatches:32/ddp8")
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(compile_rank, zero1_8, {1, 8}, 1)
    ->Name("plan/compile_train/units:100/microbatches:32/zero1_8")
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(compile_rank, zero3_8, {1, 8}, 3)
    ->Name("plan/compile_train/units:100/microbatches:32/zero3_8")
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(compile_rank, hsdp_2x4, {2, 4}, 3)
    ->Name("plan/compile_train/units:100/microbatches:32/hsdp_2x4")
    ->Unit(benchmark::kMillisecond);

void check_world(benchmark::State& state) {
  const ModelSpec spec = model();
  std::vector<Program> programs;
  for (int rank = 0; rank < 8; ++rank) {
    TrainOptions each = rank_options(3);
    each.ranks.rank = rank;
    programs.push_back(compile_train(spec, Layout({1, 1, 8, 1, 1, 1}, 8), each));
  }
  for (auto _ : state) benchmark::DoNotOptimize(verify_world(programs, spec));
}
BENCHMARK(check_world)
    ->Name("plan/verify_world/units:100/microbatches:32/ranks:8")
    ->Unit(benchmark::kMillisecond);

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

// 1,024 devices in 128 hosts, 100 layers that a tensor axis can cut, 2,048 microbatches of a step.
Cluster many_devices() {
  Cluster cluster;
  cluster.hosts = 128;
  cluster.devices = 8;
  cluster.device = find_device("h100-sxm");
  cluster.inside = find_link("nvlink4");
  cluster.network = find_link("infiniband-ndr");
  cluster.network.ports = 8;
  return cluster;
}

struct LargeSearch {
  LargeSearch() {
    for (Unit& unit : half.units) unit.compute = DType::kBF16;
    request.spec = &spec;
    request.costs = costs.get();
    request.batch = {16, 16 * 2048};
    request.optimizer_states = 2;
    request.precisions = {{DType::kBF16, &half}};
  }
  LargeSearch(const LargeSearch&) = delete;

  ModelSpec spec = testing::cut_chain(100, 16384), half = spec;
  std::unique_ptr<Costs> costs = analytic_costs(many_devices());
  SearchRequest request;
};

constexpr double kMostSeconds = 1;  // of a search, and of the simulation of its choice

// Of this process alone: others may be at work here.
void require_time(benchmark::State& state, double seconds) {
  if (seconds / static_cast<double>(state.iterations()) > kMostSeconds)
    state.SkipWithError("above the second that it may take");
}

double processor_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

void search_layouts(benchmark::State& state, bool allow_recipe_change) {
  LargeSearch large;
  large.request.allow_recipe_change = allow_recipe_change;
  const double start = processor_seconds();
  for (auto _ : state) benchmark::DoNotOptimize(search(large.request));
  require_time(state, processor_seconds() - start);
}
BENCHMARK_CAPTURE(search_layouts, as_configured, false)
    ->Name("plan/search/layers:100/devices:1024")
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(search_layouts, recipe_change, true)
    ->Name("plan/search/layers:100/devices:1024/recipe_change")
    ->Unit(benchmark::kMillisecond);

// All turns of a step of the choice, one program a pp coordinate.
void simulate_choice(benchmark::State& state) {
  LargeSearch large;
  const Choice choice = search(large.request).candidates.at(0).choice;
  const ModelSpec spec = tensor_cut(large.spec, choice.layout.degree(Axis::kTensor));
  std::vector<Program> programs;
  for (int pp = 0; pp < choice.layout.degree(Axis::kPipeline); ++pp) {
    const int rank = choice.layout.rank_of({pp, 0, 0, 0, 0, 0});
    programs.push_back(compile_train(spec, choice.layout, train_options_of(large.request, choice, rank)));
  }
  const double start = processor_seconds();
  for (auto _ : state) benchmark::DoNotOptimize(simulate(programs, spec, *large.costs));
  require_time(state, processor_seconds() - start);
  state.SetLabel(to_text(choice));
}
BENCHMARK(simulate_choice)->Name("plan/simulate/layers:100/devices:1024")->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace furrow::plan
