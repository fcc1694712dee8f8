// furrow profile: what instructions take on this machine, by running them.
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>

#include <algorithm>
#include <array>
#include <functional>
#include <memory>
#include <numeric>
#include <string_view>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/memory.h"
#include "furrow/base/process.h"
#include "furrow/plan/profile.h"
#include "furrow/plan/tensor_cut.h"
#include "furrow/plan/verify.h"
#include "furrow/tensor/flat_buffer_torch.h"
#include "furrow/train/device_timer_torch.h"
#include "furrow/train/device_torch.h"
#include "furrow/train/extensions_torch.h"
#include "furrow/train/library_build.h"
#include "furrow/train/measurements.h"
#include "furrow/train/predict.h"
#include "furrow/train/rank_share.h"
#include "furrow/train/recipe.h"
#include "furrow/train/residence_torch.h"
#include "furrow/train/run_torch.h"
#include "furrow/train/shared_data.h"

namespace furrow::train {
namespace {

constexpr int kWarmUps = 2, kRepetitions = 9;
constexpr int kTurns = 2;  // of a rank in a step: there is something to add
// A model is measured twice as wide too where that takes little: four times such a step, four times its
// memory.
constexpr int64_t kMostStepNs = 1'000'000'000;
constexpr int64_t kFillerWidth = 2048;       // of the product that occupies a device: some tenths of a ms
constexpr int64_t kCopyAheadNs = 1'000'000;  // longer than a copy takes to tell

// Twice as wide; false: the architecture has no width.
bool widen(config::Model* model) {
  if (model->name == "mlp") {
    for (int64_t& width : model->hidden) width *= 2;
    return !model->hidden.empty();
  }
  constexpr std::array<std::string_view, 4> kOfOneWidth = {"gpt", "llama", "rnn", "lstm"};
  if (std::ranges::find(kOfOneWidth, model->name) == kOfOneWidth.end()) return false;
  model->width *= 2;
  model->ffn_width *= 2;
  return true;
}

RankContext joined(const TrainRequest& request, const plan::Layout& layout) {
  RankContext rank;
  rank.device = open_device(request.config, request.local_rank);
  join(request.communicator, layout, &rank);
  return rank;
}

class Profiler {
 public:
  explicit Profiler(const TrainRequest& request)
      : request_(request),
        world_(request.communicator == nullptr ? 1 : request.communicator->size()),
        replicas_({1, world_, 1, 1, 1, 1}, world_),
        shards_({1, 1, world_, 1, 1, 1}, world_),
        dataset_(request.dataset ? request.dataset
                                 : std::make_shared<data::Dataset>(open_shared(
                                       request.communicator, data::dataset_options(request.config), {}))),
        rank_(joined(request, replicas_)),
        measured_(!device_of(rank_).is_cpu()) {
    if (const at::Device device = device_of(rank_); !device.is_cpu()) {
      const at::Tensor ones = at::ones({kFillerWidth, kFillerWidth}, device);
      filler_ = {ones, at::empty_like(ones)};
      timer_ =
          std::make_unique<DeviceTimer>(device, [this] { at::mm_out(filler_[1], filler_[0], filler_[0]); });
    }
  }

  std::string run() {
    config::Config config = request_.config;
    const int64_t batch = config.training.local_batch_size;
    // The run's own batch first: the workspace that its collectives leave behind is then a run's.
    for (const int64_t size : {batch, batch / 4, batch / 2, 2 * batch}) {
      measure_steps(config, size, replicas_);
      measure_parts(config, size);
    }
    measure_shards(config);
    if (affords_wider() && widen(&config.model)) {
      measure_steps(config, batch, replicas_);
      measure_parts(config, batch);
      measure_shards(config);
    }
    if (world_ > 1) measure_movements();
    if (timer_) measure_copies();
    if (rank_.rank != 0) return "";
    plan::Profile profile;
    profile.machine = cpu_model();
    profile.build = library_build();
    profile.sections.push_back(section());
    return plan::to_text(profile);
  }

 private:
  // The collectives of ZeRO, as they occur between the rest.
  void measure_shards(config::Config config) {
    if (world_ == 1) return;
    for (const int64_t stage : {1, 3}) {
      config.parallelism.zero_stage = stage;
      measure_steps(config, config.training.local_batch_size, shards_);
    }
  }

  // At every tensor degree that the ranks can have and the model can be cut by.
  void measure_parts(config::Config config, int64_t batch) {
    for (int degree = 2; degree <= world_; ++degree) {
      if (world_ % degree == 0) measure_steps(config, batch, {{1, world_ / degree, 1, 1, degree, 1}, world_});
    }
  }

  bool affords_wider() const {
    const int64_t own = device_facts(rank_).memory_bytes;
    const int64_t memory = (own > 0 ? own * world_ : static_cast<int64_t>(total_memory_bytes())) / 2;
    int64_t refuses = step_ns_ > kMostStepNs || 4 * step_bytes_ * world_ > memory ? 1 : 0;
    if (world_ > 1) rank_.world().all_reduce(std::span(&refuses, 1), comm::Reduction::kMax, "profile");
    return refuses == 0;
  }

  void measure_steps(config::Config config, int64_t batch, const plan::Layout& layout) {
    if (batch == 0 || batch * kTurns * world_ > dataset_->train->size()) return;
    const int degree = layout.degree(plan::Axis::kTensor);
    config.training.local_batch_size = batch;
    config.training.global_batch_size = batch * kTurns * world_ / degree;
    config.activation_checkpoint.mode = "none";
    config.parallelism.bucket_cap_mb = 0;  // an instruction is a collective, of more sizes
    const Workbench bench =
        open_workbench(config, dataset_, request_.extensions, nullptr, request_.local_rank);
    check_device(config, bench.spec, layout);
    if (!plan::refuses_tensor_cut(bench.spec, degree).empty()) return;
    const plan::ModelSpec spec = plan::tensor_cut(bench.spec, degree);
    RankContext rank = bench.rank;
    join(request_.communicator, layout, &rank);
    rank_.threads = rank.threads;
    plan::TrainOptions options = train_options(config, spec, layout, rank.rank);
    options.ranks.pipeline = {};
    const plan::Program program = plan::compile_train(spec, layout, options);
    const OptimizerRule rule(config.optimizer, config.lr_scheduler, config.ema);
    const plan::FlatLayout flat = plan::flat_layout(spec);
    const auto blocks = request_.extensions ? request_.extensions->blocks : std::vector<nn::BlockKind>();
    ModelState model(spec, rule.states(), rank.seed, blocks, residence_of(flat, program.placement, rank));
    Executor executor(program, model, *bench.objective, &rule, rank);
    data::Loader loader(*dataset_->train, data::SampleOrder(rank.seed, dataset_->train->size(), true),
                        loader_options(program, 0));
    for (const plan::Unit& unit : spec.units)
      largest_ = std::max(largest_, unit.parameter_count() * static_cast<int64_t>(sizeof(float)));
    const std::array<int64_t, kMemoryKinds> bytes = plan::verify(program, spec).peak_bytes;
    step_bytes_ = std::accumulate(bytes.begin(), bytes.end(), int64_t{0});
    reset_memory_peaks();
    record(program, spec,
           [&](std::vector<InstructionTime>* times, std::vector<int64_t>* axis_ns,
               const std::function<void(int)>& after) {
             RunInputs inputs;
             inputs.loader = &loader;
             inputs.step = steps_++;
             inputs.rates = rates_at({config.lr_scheduler, config.optimizer, 1}, 0);
             inputs.max_norm = config.training.max_norm;
             inputs.times = times;
             inputs.axis_ns = axis_ns;
             inputs.after = after;
             executor.run(inputs);
           });
    if (batch == request_.config.training.local_batch_size && workspace_ == 0)
      workspace_ = workspace_now(config, bytes[static_cast<size_t>(MemoryKind::kOther)]);
  }

  // Beside what the program takes; of a device what its libraries keep.
  int64_t workspace_now(const config::Config& config, int64_t planned) const {
    if (!timer_) return std::max<int64_t>(0, memory_usage(MemoryKind::kOther).peak_bytes - planned);
    const auto filler = static_cast<int64_t>(filler_[0].nbytes() + filler_[1].nbytes());
    return std::max<int64_t>(0, library_bytes(rank_, config.training.enable_cpu_offload) - filler);
  }

  // Where a device computes behind the thread, each instruction alone, from a device that has done all before
  // it, and then the whole step far ahead of the device (DeviceTimer).
  template <class RunStep>
  void record(const plan::Program& program, const plan::ModelSpec& spec, const RunStep& run_step) {
    const auto costs = plan::analytic_costs(plan::local_cluster({1, 1 << 30, false}, world_));
    const plan::ProgramCosts rows(*costs, spec, program, 1);
    std::function<void(int)> alone;
    if (timer_) alone = [this](int) { timer_->wait(); };
    for (int step = 0; step < kWarmUps + kRepetitions; ++step) {
      std::vector<InstructionTime> times;
      std::vector<int64_t> axis_ns;
      const int64_t start_ns = rank_.clock->monotonic_ns();
      run_step(&times, &axis_ns, alone);
      step_ns_ = rank_.clock->monotonic_ns() - start_ns;
      const std::vector<int64_t> moving = moving_ns(program, times);
      shortest_of_all(axis_ns);
      if (step < kWarmUps) continue;
      add_inside(program, rows, axis_ns);
      for (const InstructionTime& time : times) {
        const plan::Instruction& instruction = program.instructions[static_cast<size_t>(time.instruction)];
        if (instruction.axis != plan::GroupAxis::kNone) {
          const auto ns = static_cast<double>(moving[static_cast<size_t>(time.instruction)]);
          measured_.add_movement(rows.moved(instruction), ns * 1e-9);
        } else {
          measured_.add(rows, instruction, static_cast<double>(time.duration_ns - time.waited_ns) * 1e-9);
        }
      }
      if (timer_) record_device(program, rows, run_step);
    }
  }

  template <class RunStep>
  void record_device(const plan::Program& program, const plan::ProgramCosts& rows, const RunStep& run_step) {
    timer_->begin(step_ns_);
    std::vector<int64_t> axis_ns;
    run_step(nullptr, &axis_ns, [&](int index) {
      const plan::Op op = program.instructions[static_cast<size_t>(index)].op;
      timer_->mark(index, plan::place_of(op) == plan::Place::kAwaited);
    });
    for (const DeviceTimer::Time& time : timer_->end())
      measured_.add_of_device(rows, program.instructions[static_cast<size_t>(time.instruction)],
                              time.seconds);
  }

  // How long communication was under way on the rank that came last to it, and so waited for nobody: the
  // shortest of all ranks.
  std::vector<int64_t> moving_ns(const plan::Program& program,
                                 const std::vector<InstructionTime>& times) const {
    std::vector<int64_t> ns(program.instructions.size(), 0);
    for (const InstructionTime& time : times) ns[static_cast<size_t>(time.instruction)] = time.duration_ns;
    shortest_of_all(ns);
    return ns;
  }
  void shortest_of_all(std::vector<int64_t>& ns) const {
    if (world_ > 1 && !ns.empty())
      rank_.world().all_reduce(std::span<int64_t>(ns), comm::Reduction::kMin, "profile");
  }

  // `axis_ns`: of the collectives inside the program's instructions, in order.
  void add_inside(const plan::Program& program, const plan::ProgramCosts& rows,
                  const std::vector<int64_t>& axis_ns) {
    size_t next = 0;
    for (const plan::Instruction& instruction : program.instructions) {
      for (const plan::Moved& moved : rows.inside(instruction)) {
        FURROW_CHECK(next < axis_ns.size(), "units do not communicate as they declare");
        measured_.add_movement(moved, static_cast<double>(axis_ns[next++]) * 1e-9);
      }
    }
    FURROW_CHECK(next == axis_ns.size(), "units do not communicate as they declare");
  }

  // Over the bus, one at a time and both ways, between memory as the lane of copies has it.
  void measure_copies() {
    const int64_t most = std::max<int64_t>(largest_, 1 << 24);
    const at::Tensor host = tensor::pinned_buffer(most / 4, MemoryKind::kOther, device_of(rank_));
    const at::Tensor there = at::empty({most / 4}, filler_[0].options());
    for (int64_t bytes = 1 << 16; bytes < 2 * most; bytes *= 4) {
      const int64_t used = std::min(bytes, most) / 4;
      const at::Tensor down = host.narrow(0, 0, used), up = there.narrow(0, 0, used);
      measure_copy(plan::Op::kCopyDown, down, up);
      measure_copy(plan::Op::kCopyUp, up, down);
    }
  }

  void measure_copy(plan::Op op, const at::Tensor& to, const at::Tensor& from) {
    const auto bytes = static_cast<int64_t>(to.nbytes());
    for (int i = 0; i < kWarmUps + kRepetitions; ++i) {
      timer_->begin(kCopyAheadNs);
      to.copy_(from, /*non_blocking=*/true);
      timer_->mark(0, false);
      const double seconds = timer_->end().front().seconds;
      if (i >= kWarmUps) measured_.add_movement(plan::op_info(op).name, 1, bytes, seconds);
    }
  }

  // As the executor's collectives: memory that peers read in place, all ranks at once.
  void measure_movements() {
    const int64_t most = std::max<int64_t>(largest_, 1 << 20);
    const at::Tensor whole = rank_buffer(rank_, most / 4 + 1024, MemoryKind::kOther);
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
    for (int i = 0; i < kWarmUps + kRepetitions; ++i) {
      world.barrier();
      const int64_t start_ns = rank_.clock->monotonic_ns();
      act();
      const int64_t took_ns = rank_.clock->monotonic_ns() - start_ns;
      if (i >= kWarmUps)
        measured_.add_movement(plan::movement_name(movement), ranks, bytes,
                               static_cast<double>(took_ns) * 1e-9);
    }
  }

  plan::ProfileSection section() const {
    plan::ProfileSection section;
    section.ranks = world_;
    section.threads = rank_.threads;
    section.workspace_bytes = workspace_;
    section.device = device_facts(rank_);
    measured_.give(&section);
    return section;
  }

  const TrainRequest& request_;
  const int world_;
  const plan::Layout replicas_, shards_;
  const std::shared_ptr<data::Dataset> dataset_;
  RankContext rank_;
  Measurements measured_;
  std::array<at::Tensor, 2> filler_;      // what a device is occupied with
  std::unique_ptr<DeviceTimer> timer_;    // null: the thread does the work
  int64_t steps_ = 0;                     // that were run
  int64_t largest_ = 0;                   // bytes of a unit's parameters
  int64_t step_ns_ = 0, step_bytes_ = 0;  // of the last step that was measured
  int64_t workspace_ = 0;
};

}  // namespace

std::string profile(const TrainRequest& request) { return Profiler(request).run(); }

}  // namespace furrow::train
