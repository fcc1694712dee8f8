// furrow profile: what instructions take on this machine, by running them.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "furrow/base/process.h"
#include "furrow/plan/profile.h"
#include "furrow/plan/roofline.h"
#include "furrow/train/extensions_torch.h"
#include "furrow/train/library_build.h"
#include "furrow/train/predict.h"
#include "furrow/train/rank_share.h"
#include "furrow/train/recipe.h"
#include "furrow/train/residence_torch.h"
#include "furrow/train/run_torch.h"

namespace furrow::train {
namespace {

constexpr int kWarmUps = 2, kRepetitions = 9;
constexpr int kTurns = 2;  // of a rank in a step: there is something to add

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<long>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

class Profiler {
 public:
  explicit Profiler(const TrainRequest& request)
      : request_(request),
        world_(request.communicator == nullptr ? 1 : request.communicator->size()),
        layout_({1, world_, 1, 1, 1, 1}, world_),
        dataset_(request.dataset ? request.dataset
                                 : std::make_shared<data::Dataset>(data::open_dataset(request.config))) {
    join(request.communicator, layout_, &rank_);
  }

  std::string run() {
    const int64_t batch = request_.config.training.local_batch_size;
    std::set<int64_t> sizes;
    for (const int64_t size : {batch / 4, batch / 2, batch, 2 * batch}) {
      if (size > 0 && size * kTurns * world_ <= dataset_->train->size()) sizes.insert(size);
    }
    for (const int64_t size : sizes) measure_units(size);
    if (world_ > 1) measure_movements();
    if (rank_.rank != 0) return "";
    plan::Profile profile;
    profile.machine = cpu_model();
    profile.build = library_build();
    profile.sections.push_back(section());
    return plan::to_text(profile);
  }

 private:
  void measure_units(int64_t batch) {
    config::Config config = request_.config;
    config.training.local_batch_size = batch;
    config.training.global_batch_size = batch * kTurns * world_;
    config.activation_checkpoint.mode = "none";
    const Workbench bench = open_workbench(config, dataset_, request_.extensions, nullptr);
    rank_.threads = bench.rank.threads;
    rank_.seed = bench.rank.seed;
    plan::TrainOptions options = train_options(config, bench.spec, layout_, rank_.rank);
    options.ranks.pipeline = {};
    const plan::Program program = plan::compile_train(bench.spec, layout_, options);
    const OptimizerRule rule(config.optimizer, config.lr_scheduler, config.ema);
    const plan::FlatLayout flat = plan::flat_layout(bench.spec);
    const auto blocks = request_.extensions ? request_.extensions->blocks : std::vector<nn::BlockKind>();
    ModelState model(bench.spec, rule.states(), rank_.seed, blocks,
                     residence_of(flat, program.placement, rank_));
    Executor executor(program, model, *bench.objective, &rule, rank_);
    data::Loader loader(*dataset_->train, data::SampleOrder(rank_.seed, dataset_->train->size(), true),
                        loader_options(program, 0));
    for (const plan::Unit& unit : bench.spec.units)
      largest_ = std::max(largest_, unit.parameter_count() * static_cast<int64_t>(sizeof(float)));
    record(program, bench.spec, [&](std::vector<InstructionTime>* times, int64_t step) {
      RunInputs inputs;
      inputs.loader = &loader;
      inputs.step = step;
      inputs.rates = rates_at({config.lr_scheduler, config.optimizer, 1}, 0);
      inputs.max_norm = config.training.max_norm;
      inputs.times = times;
      executor.run(inputs);
    });
  }

  template <class RunStep>
  void record(const plan::Program& program, const plan::ModelSpec& spec, const RunStep& run_step) {
    const auto costs = plan::analytic_costs(plan::local_cluster({1, 1 << 30, false}, world_));
    const plan::ProgramCosts rows(*costs, spec, program, 1);
    for (int step = 0; step < kWarmUps + kRepetitions; ++step) {
      std::vector<InstructionTime> times;
      run_step(&times, step);
      if (step < kWarmUps) continue;
      for (const InstructionTime& time : times) {
        const plan::Instruction& instruction = program.instructions[static_cast<size_t>(time.instruction)];
        if (instruction.axis == plan::GroupAxis::kNone)
          add(rows, instruction, static_cast<double>(time.duration_ns - time.waited_ns) * 1e-9);
      }
    }
  }

  void add(const plan::ProgramCosts& rows, const plan::Instruction& instruction, double seconds) {
    const plan::Work work = plan::work_of(instruction.op);
    const std::string name(plan::op_info(instruction.op).name);
    switch (work) {
      case plan::Work::kForward:
      case plan::Work::kBackwardInput:
      case plan::Work::kBackwardWeight: {
        const plan::UnitWork done = rows.unit_work(instruction);
        const plan::Roofline roofline = plan::roofline_of(done);
        Unit& unit = units_[{done.unit->kind, plan::work_key(done), work, done.samples}];
        unit.flops = roofline.flops;
        unit.bytes = roofline.bytes;
        unit.seconds.push_back(seconds);
        return;
      }
      case plan::Work::kNothing:
        overheads_.push_back(seconds);
        return;
      default:
        flats_[{name, rows.work_bytes(instruction)}].push_back(seconds);
    }
  }

  // As the executor's collectives: memory that peers read in place, all ranks at once.
  void measure_movements() {
    const int64_t most = std::max<int64_t>(largest_, 1 << 20);
    const at::Tensor whole = rank_buffer(rank_.communicator, most / 4 + 1024, MemoryKind::kOther);
    for (int64_t bytes = 4096; bytes < 2 * most; bytes *= 4) {
      const int64_t used = std::min(bytes, most) / 4 / world_ * world_;
      const std::span<float> all(whole.data_ptr<float>(), static_cast<size_t>(used));
      const std::span<float> own =
          all.subspan(static_cast<size_t>(used / world_ * rank_.rank), static_cast<size_t>(used / world_));
      comm::Group world = rank_.world();
      measure_movement(plan::Movement::kAllGather, world_, used * 4,
                       [&] { world.all_gather<float>(own, all); });
      measure_movement(plan::Movement::kReduceScatter, world_, used * 4,
                       [&] { world.reduce_scatter<float>(all, own); });
      measure_movement(plan::Movement::kTransfer, 2, used * 4, [&] {
        if (rank_.rank == 0) world.send<float>(all, 1);
        if (rank_.rank == 1) world.recv<float>(all, 0);
      });
    }
  }

  template <class Act>
  void measure_movement(plan::Movement movement, int ranks, int64_t bytes, const Act& act) {
    comm::Group world = rank_.world();
    std::vector<double> seconds;
    for (int i = 0; i < kWarmUps + kRepetitions; ++i) {
      world.barrier();
      const int64_t start_ns = rank_.clock->monotonic_ns();
      act();
      if (i >= kWarmUps)
        seconds.push_back(static_cast<double>(rank_.clock->monotonic_ns() - start_ns) * 1e-9);
    }
    movements_.push_back({movement, ranks, bytes, median(seconds)});
  }

  plan::ProfileSection section() const {
    plan::ProfileSection section;
    section.ranks = world_;
    section.threads = rank_.threads;
    if (!overheads_.empty()) section.overhead_s = median(overheads_);
    for (const auto& [key, unit] : units_) {
      const auto& [kind, name, work, samples] = key;
      section.units.push_back({kind, name, work, samples, unit.flops, unit.bytes, median(unit.seconds)});
    }
    for (const auto& [key, seconds] : flats_)
      section.flats.push_back({key.first, key.second, median(seconds)});
    section.movements = movements_;
    return section;
  }

  struct Unit {
    double flops = 0, bytes = 0;
    std::vector<double> seconds;
  };

  const TrainRequest& request_;
  const int world_;
  const plan::Layout layout_;
  const std::shared_ptr<data::Dataset> dataset_;
  RankContext rank_;
  int64_t largest_ = 0;  // bytes of a unit's parameters
  std::map<std::tuple<std::string, std::string, plan::Work, int64_t>, Unit> units_;
  std::map<std::pair<std::string, int64_t>, std::vector<double>> flats_;
  std::vector<double> overheads_;
  std::vector<plan::MovementSample> movements_;
};

}  // namespace

std::string profile(const TrainRequest& request) { return Profiler(request).run(); }

}  // namespace furrow::train
