#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <mutex>

#include "furrow/plan/optimizer_spec.h"
#include "furrow/plan/share.h"
#include "furrow/plan/slices.h"
#include "furrow/plan/tensor_cut.h"
#include "furrow/train/rank_share.h"
#include "furrow/train/residence_torch.h"
#include "tests/testing/run_ranks.h"
#include "tests/testing/tiny_world_torch.h"

namespace furrow::testing {
namespace {

// Notes what is read.
class Ledger : public data::Source {
 public:
  explicit Ledger(const data::Source& source) : source_(source) {}
  int64_t size() const override { return source_.size(); }
  const std::vector<data::Field>& fields() const override { return source_.fields(); }
  int64_t classes() const override { return source_.classes(); }
  void read(std::span<const int64_t> indices, std::span<const ArrayView> arrays) const override {
    indices_.insert(indices_.end(), indices.begin(), indices.end());
    source_.read(indices, arrays);
  }
  const std::vector<int64_t>& indices() const { return indices_; }

 private:
  const data::Source& source_;
  mutable std::vector<int64_t> indices_;
};

bool same(const at::Tensor& part, const at::Tensor& whole, const plan::Slice& slice) {
  if (slice.size() == 0) return true;
  if (part.numel() != slice.size() || part.scalar_type() != whole.scalar_type()) return false;
  const auto element = static_cast<int64_t>(whole.element_size());
  const char* expected = static_cast<const char*>(whole.const_data_ptr()) + slice.begin * element;
  return std::memcmp(part.const_data_ptr(), expected, static_cast<size_t>(slice.size() * element)) == 0;
}

void run_rank(const TinyTraining& tiny, const StepOptions& options, const WorldOptions& world,
              const train::RankContext& rank, const std::function<void(const RankResult&)>& inspect) {
  const train::OptimizerRule rule = tiny.rule();
  const plan::ModelSpec spec = plan::tensor_cut(tiny.trained_spec(), world.tensor);
  plan::TrainOptions train_options;
  train_options.microbatch_sizes = options.microbatch_sizes;
  train_options.recompute = options.recompute;
  train_options.optimizer_states = plan::forms_of(rule.states());
  train_options.ranks = {rank.rank,           world.zero_stage,     world.reshard,
                         world.deterministic, world.prefetch_units, world.stages,
                         world.bucket_bytes};
  const plan::Program program = plan::compile_train(spec, world.layout(), train_options);
  train::ModelState model(spec, rule.states(), /*seed=*/42, {},
                          train::residence_of(plan::flat_layout(spec), program.placement, rank));
  const train::Objective objective = tiny.objective();
  train::Executor executor(program, model, objective, &rule, rank);
  const Ledger ledger(*tiny.source);
  data::LoaderOptions loader_options = train::loader_options(program, options.position);
  loader_options.prefetch = 0;
  data::Loader loader(ledger, data::SampleOrder(42, ledger.size(), true), loader_options);
  train::RunOutputs outputs;
  std::vector<train::PhaseState> phases = first_phases(options, spec);
  std::vector<observe::TraceEvent> trace;
  std::vector<double> losses;
  for (int s = 0; s < options.steps; ++s) {
    train::RunInputs inputs;
    inputs.loader = &loader;
    inputs.step = options.first_step + s;
    inputs.rates = {tiny.config.optimizer.lr, tiny.config.optimizer.beta1};
    inputs.max_norm = options.max_norm;
    if (options.trace) inputs.trace = &trace;
    inputs.phases = phases;
    inputs.grad_scaler = tiny.config.grad_scaler;
    outputs = executor.run(inputs);
    phases = phases_after(outputs);
    losses.push_back(outputs.loss.mean());
  }
  inspect({rank.rank, program, model, outputs, ledger.indices(), trace, losses});
}

}  // namespace

std::string WorldOptions::name() const {
  const std::string pipe =
      pipeline > 1 ? fmt::format("pp{} {} v{} ", pipeline, stages.schedule, stages.stages_per_rank) : "";
  return pipe +
         fmt::format("{}x{}{}", replicate, shard, shard > 1 ? fmt::format(" zero{}", zero_stage) : "") +
         (tensor > 1 ? fmt::format(" tp{}", tensor) : "") +
         (bucket_bytes > 0 ? fmt::format(" buckets of {} KiB", bucket_bytes >> 10) : "");
}

void run_world(const TinyTraining& tiny, const StepOptions& options, const WorldOptions& world,
               const std::function<void(const RankResult&)>& inspect,
               const std::function<void(train::RankContext&)>& prepare) {
  const auto run_one = [&](comm::Communicator& communicator) {
    train::RankContext rank;
    rank.threads = options.threads;
    rank.seed = 42;
    train::join(&communicator, world.layout(), &rank);
    if (prepare) prepare(rank);
    run_rank(tiny, options, world, rank, inspect);
  };
  run_ranks(world.ranks(), run_one, {.timeout_ms = kPatienceMs});
}

std::vector<WorldOptions> some_layouts() {
  return {{.replicate = 4},
          {.shard = 3, .zero_stage = 1},
          {.shard = 4, .zero_stage = 3},
          {.replicate = 2, .shard = 2, .zero_stage = 2}};
}

std::vector<StepResult> run_parts(const TinyTraining& tiny, const StepOptions& options, int degree) {
  std::vector<StepResult> parts(static_cast<size_t>(degree));
  std::mutex mutex;
  run_world(tiny, options, {.tensor = degree}, [&](const RankResult& rank) {
    const std::lock_guard lock(mutex);
    StepResult& part = parts[static_cast<size_t>(rank.rank)];
    for (const train::UnitState& unit : rank.model.units()) {
      const auto copy = [](const at::Tensor& t) { return t.defined() ? t.clone() : at::Tensor(); };
      part.params.push_back(copy(unit.params));
      part.read.push_back(unit.params.defined() ? unit.read().clone() : at::Tensor());
      part.statistics.push_back(copy(unit.statistics));
      for (const at::Tensor& state : unit.states) part.states.push_back(copy(state));
    }
    part.outputs.loss = rank.outputs.loss;
    part.outputs.scale = rank.outputs.scale;
    part.outputs.phases = rank.outputs.phases;
    part.losses = rank.losses;
  });
  return parts;
}

std::string difference(const RankResult& rank, const StepResult& whole) {
  size_t next_state = 0;
  for (size_t u = 0; u < whole.params.size(); ++u) {
    const train::UnitState& unit = rank.model.unit(static_cast<int>(u));
    const std::string where = fmt::format("rank {}, unit {}: ", rank.rank, u);
    if (!whole.read[u].defined()) {
      next_state += rank.model.states().size();
      continue;
    }
    if (!same(unit.params, whole.params[u], rank.model.params_slices()[u])) return where + "parameters";
    if (!same(unit.read(), whole.read[u], rank.model.read_slices()[u])) return where + "what blocks read";
    const bool runs = rank.program.placement.holds(static_cast<int32_t>(u));
    if (runs && !same_bits({unit.statistics}, {whole.statistics[u]})) return where + "statistics";
    for (size_t s = 0; s < rank.model.states().size(); ++s) {
      const plan::Slice slice = plan::state_slice(rank.model.states()[s].form, rank.model.flat().units[u],
                                                  rank.model.states_slices()[u]);
      if (!same(unit.states[s], whole.states[next_state++], slice))
        return where + "state " + rank.model.states()[s].name;
    }
  }
  for (size_t p = 0; p < whole.outputs.phases.size(); ++p) {
    const train::PhaseOutputs &own = rank.outputs.phases.at(p), &expected = whole.outputs.phases[p];
    if (own.loss.loss.value() != expected.loss.loss.value()) return "the loss";
    const double norm = own.scale.norm;
    if (norm != expected.scale.norm && !(std::isnan(norm) && std::isnan(expected.scale.norm)))
      return "the norm";
    if (own.state != expected.state) return "the loss scale, or the steps that were skipped";
  }
  return "";
}

}  // namespace furrow::testing
