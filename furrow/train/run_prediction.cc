// What a run was predicted to take, beside what it took.
#include <algorithm>
#include <iterator>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/log.h"
#include "furrow/base/text.h"
#include "furrow/observe/abridge.h"
#include "furrow/observe/trace.h"
#include "furrow/plan/workspace.h"
#include "furrow/train/device_torch.h"
#include "furrow/train/layout_choice.h"
#include "furrow/train/predict.h"
#include "furrow/train/rank_texts.h"
#include "furrow/train/recipe.h"
#include "furrow/train/run_torch.h"

namespace furrow::train {
namespace {

constexpr size_t kMostTraced = 10'000;  // events of a step, as many of its prediction: some 2 MB each

// That nothing was measured is no fault.
void say_no_prediction(const Error& why) {
  const std::string text = std::string("no prediction of this run: ") + why.what();
  why.code() == ErrorCode::kFailedPrecondition ? log_info(text) : log_warning(text);
}

// Events of the first step that was traced.
std::vector<observe::TraceEvent> first_step(const std::vector<observe::TraceEvent>& trace) {
  const auto step_of = [](const observe::TraceEvent& event) {
    const auto step = std::ranges::find(event.args, "step", &std::pair<std::string, std::string>::first);
    return step == event.args.end() ? std::string() : step->second;
  };
  std::vector<observe::TraceEvent> events;
  std::ranges::copy_if(trace, std::back_inserter(events), [&](const observe::TraceEvent& event) {
    return step_of(event) == step_of(trace.front());
  });
  return events;
}

}  // namespace

void Run::measure() {
  note_memory();
  if (times_.count() == 0) return;
  measured_.step_time_ms = times_.median_ms();
  if (!audit_) return;
  int64_t wire = 0;
  for (const observe::CollectiveAudit& kind : audit_->bytes) wire += kind.wire_bytes;
  measured_.wire_bytes = wire / std::max<int64_t>(1, audit_->steps);
  measured_.exposed_communication = audit_->exposed_communication;
}

void Run::note_memory() {
  trained_memory_ = memory_peaks(bench_.rank, bench_.config.training.enable_cpu_offload);
  measured_.memory_by_kind = *trained_memory_;
  if (prediction_) prediction_->measured.memory_by_kind = *trained_memory_;
}

// From the second step of the process on; without [profiling] the last of the first few alone.
bool Run::traces_next_step() const {
  constexpr int64_t kEarly = 4;
  const config::Profiling& profiling = bench_.config.profiling;
  const int64_t done = state_.step - first_step_;
  if (profiling.enable_profiling) return done >= 1 && done <= profiling.trace_steps;
  return done >= 1 && done == std::min(kEarly, total_steps_ - first_step_) - 1;
}

// On rank 0.  A prediction that fails is no reason to lose a run.
void Run::predict() {
  if (!first() || times_.count() == 0 || !costs_) return;
  const config::Config& config = bench_.config;
  try {
    plan::TrainOptions options = train_options(config, spec_);
    options.ranks = ranks_;
    const std::vector<plan::Program> programs = programs_of_world(spec_, layout_, options);
    const plan::Simulation simulation =
        plan::simulate(programs, spec_, *costs_, {.timeline = !trace_.empty(), .memory = !trace_.empty()});
    prediction_ = observe::Prediction{costs_->source(), figures_of(simulation), measured_};
    prediction_->predicted.memory_by_kind = planned_.bytes;
    if (bench_.rank.alone()) prediction_->predicted.bubble = 0;  // between ranks, and measured as that
    if (!trace_.empty()) add_prediction(simulation, programs, costs_->source());
  } catch (const Error& error) {
    say_no_prediction(error);
  }
}

// To the trace of the steps, from the beginning of the first; both in timeline.svg.
void Run::add_prediction(const plan::Simulation& simulation, const std::vector<plan::Program>& programs,
                         const std::string& source) {
  const config::Config& config = bench_.config;
  const auto begin = std::ranges::min_element(trace_, {}, &observe::TraceEvent::start_ns)->start_ns;
  std::vector<observe::TraceEvent> step = first_step(trace_),
                                   predicted = trace_of(simulation, programs, 0, begin);
  step.insert(step.end(), predicted.begin(), predicted.end());
  if (!config.profiling.enable_profiling) {
    trace_ = observe::abridged(std::move(trace_), kMostTraced);
    predicted = observe::abridged(std::move(predicted), kMostTraced);
  }
  std::ranges::move(predicted, std::back_inserter(trace_));
  if (!config.metrics.enable_plots && !config.profiling.enable_profiling) return;
  const std::string title = "A step of rank 0, measured and predicted (" + source + ")";
  write_file_atomic(folder_->file("timeline.svg"),
                    observe::to_svg({title, step, memory_of(simulation, 0, begin)}));
}

namespace {

int64_t largest_part(const plan::UnitLayout& layout, const plan::Slice& elements) {
  int64_t most = 0;
  for (const plan::FlatSpan& span : layout.spans)
    most = std::max(most, plan::overlap(elements, {span.offset, span.offset + span.size}).size());
  return most;
}

// One parameter at a time in float32: what is a device's passes through the host, and what blocks read of 16
// bits and has no master here is made of it.  One unit's gradient at a time in float64, where compositions
// sum its squares.  With the statistics, which are there already.
int64_t passing_bytes(const ModelState& model, bool composed) {
  int64_t most = 0, statistics = 0;
  for (size_t u = 0; u < model.units().size(); ++u) {
    const UnitState& unit = model.units()[u];
    const plan::UnitLayout& layout = model.flat().units[u];
    if (unit.statistics.defined()) statistics += static_cast<int64_t>(unit.statistics.nbytes());
    const plan::Slice read = model.read_slices()[u], own = model.params_slices()[u];
    if (unit.params.defined() && !unit.params.is_cpu()) most = std::max(most, largest_part(layout, own));
    if (composed) most = std::max(most, 2 * plan::overlap(own, {0, layout.trained_elements}).size());
    if (!unit.compute.defined()) continue;
    const plan::Slice trained{read.begin, std::min(read.end, layout.trained_elements)};
    const int64_t begin = trained == own ? std::max(read.begin, layout.trained_elements) : read.begin;
    most = std::max(most, largest_part(layout, {std::min(begin, read.end), read.end}));
  }
  return most > 0 ? most * static_cast<int64_t>(sizeof(float)) + statistics : 0;
}

}  // namespace

Machine Run::machine() const {
  Machine machine = machine_of(bench_.rank, bench_.config);
  machine.device = device_;
  return machine;
}

// Of a device that was not measured they are unknown.
void Run::open_costs() {
  try {
    costs_ = machine_costs(machine(), profile_file());
  } catch (const Error& error) {
    say_no_prediction(error);
  }
}

// Where none can be predicted of a CPU, those of its description; null: of a device that was not measured.
const plan::Costs* Run::known_costs() {
  if (costs_ || device_.type != "cpu") return costs_.get();
  if (!analytic_) analytic_ = machine_costs(machine(), "");
  return analytic_.get();
}

void Run::choose_buckets() {
  if (!chooses_buckets(bench_.config, layout_)) return;
  const auto choose = [this] {
    const Buckets buckets = chosen_buckets(bench_.config, bench_.spec, layout_, known_costs());
    buckets_ = buckets.why;
    return std::to_string(buckets.bytes);
  };
  const bool read = parse_int(text_of_first(bench_.rank.world(), "buckets", choose), ranks_.bucket_bytes);
  FURROW_CHECK(read, "rank 0 says a number of bytes");
}

// Before the first step: what the summary puts beside what was held.
void Run::plan_memory() {
  Resident beside = resident();
  const bool cpu = device_.type == "cpu";
  if (const plan::Costs* const costs = known_costs())
    beside.workspace_bytes =
        costs->workspace_bytes(multiplies(trainer_->program(), spec_), bench_.rank.threads);
  const int64_t axis = cpu ? plan::axis_workspace_bytes(spec_, bench_.config.training.local_batch_size) : 0;
  beside.workspace_bytes += axis;
  if (adds_on_device(bench_.rank)) beside.sums_bytes = plan::device_sums_bytes(trainer_->program(), spec_);
  // That is over before ranks of an axis have sent anything.
  beside.passing_bytes = std::max<int64_t>(0, passing_bytes(*model_, !cpu) - axis);
  planned_ = planned_memory(trainer_->program(), spec_, beside);
}

// A copy of the best parameters, and another where one comes while a save behind training reads the last;
// what a save copies.
Resident Run::resident() const {
  const config::Config& config = bench_.config;
  Resident resident{data_bytes_, data_peak_bytes_, static_cast<int>(config.data.prefetch_batches)};
  int64_t copy = 0;  // of the model
  for (const UnitState& unit : model_->units()) {
    for (const at::Tensor& part : {unit.params, unit.statistics, unit.compute})
      if (part.defined()) copy += static_cast<int64_t>(part.nbytes());
  }
  if (config.validation.enable && bench_.dataset->validation != nullptr) {
    const int64_t freq = config.validation.freq > 0 ? config.validation.freq : total_steps_;
    const int64_t validations = (total_steps_ + freq - 1) / std::max<int64_t>(1, freq);
    const int64_t copies = validations + (best_restored_ ? 1 : 0);
    resident.validation_batches = 1 + resident.prefetch;
    resident.best_bytes = std::min<int64_t>(checkpointer_->async() ? 2 : 1, copies) * copy;
  }
  if (config.checkpoint.enable) {
    for (const int64_t bytes : checkpointer_->copy_bytes(*model_)) resident.snapshot_bytes += bytes;
  }
  return resident;
}

}  // namespace furrow::train
