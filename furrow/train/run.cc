#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/failpoint.h"
#include "furrow/base/file.h"
#include "furrow/base/log.h"
#include "furrow/base/memory.h"
#include "furrow/base/process.h"
#include "furrow/base/text.h"
#include "furrow/data/fitted_values.h"
#include "furrow/models/network.h"
#include "furrow/plan/compatibility.h"
#include "furrow/plan/quote.h"
#include "furrow/plan/topology.h"
#include "furrow/preprocess/class_names.h"
#include "furrow/tensor/kernels/scratch_blocks.h"
#include "furrow/train/class_weights.h"
#include "furrow/train/device_torch.h"
#include "furrow/train/extensions_torch.h"
#include "furrow/train/initial_weights_torch.h"
#include "furrow/train/rank_share.h"
#include "furrow/train/rank_texts.h"
#include "furrow/train/recipe.h"
#include "furrow/train/residence_torch.h"
#include "furrow/train/run_torch.h"
#include "furrow/train/shared_data.h"

namespace furrow::train {
namespace {

// Token ids come as integers, everything else as numbers.
bool language(const data::Source& source) { return source.fields()[0].dtype == DType::kI64; }

// A resumed run reads data as it has from its beginning.
std::shared_ptr<data::Dataset> dataset_of(const TrainRequest& request) {
  if (request.dataset) return request.dataset;
  const bool first = request.communicator == nullptr || request.communicator->rank() == 0;
  const auto kept = first && request.resume ? data::read_fitted(request.run_folder) : std::nullopt;
  data::DatasetOptions options = data::dataset_options(request.config);
  options.opening.cancel = request.cancel;
  auto dataset = std::make_shared<data::Dataset>(open_shared(request.communicator, options, kept));
  if (request.communicator != nullptr) require_same_data(*request.communicator, *dataset);
  return dataset;
}

// Rank 0 for all: their data are one another's.  Other samples than the run began with are another run.
void check_data_of_before(const TrainRequest& request, const data::Dataset& dataset) {
  const bool first = request.communicator == nullptr || request.communicator->rank() == 0;
  if (!request.resume || !first) return;
  const auto change = data::changed_since(request.run_folder, dataset);
  if (!change) return;
  const std::string message = fmt::format("the data are not those that the run had before: {}", *change);
  if (request.config.debug.deterministic != "strict")
    return log_warning(message + ": it goes on with other samples, and will not be what it would have been");
  throw Error(
      ErrorCode::kFailedPrecondition,
      message + ": [debug] deterministic = \"strict\" refuses that; put them back, or train another run");
}

// With the global batch that -1 stands for, where it depends on the number of ranks.
config::Config with_global_batch(config::Config config, const plan::Layout& layout) {
  config::Training& training = config.training;
  if (layout.world() > 1)
    training.global_batch_size = config::global_batch_size(training, layout.data_ranks());
  return config;
}

int world_of(const TrainRequest& request) {
  return request.communicator == nullptr ? 1 : request.communicator->size();
}

}  // namespace

models::DataShape shape_of(const data::Source& source) {
  models::DataShape shape;
  shape.input.dtype = source.fields()[0].dtype;
  shape.input.shape = source.fields()[0].shape;
  shape.input.shape.insert(shape.input.shape.begin(), -1);
  shape.classes = source.classes();
  return shape;
}

namespace {

// What lies before a document in its row must not reach it.
void check_documents(const plan::ModelSpec& spec, const data::Source& source) {
  if (source.fields().size() <= 2) return;
  for (const plan::Unit& unit : spec.units) {
    if (unit.kind != "rnn" && unit.kind != "lstm") continue;
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("unit {} carries its state from one document of a row to the next: train it on text "
                    "without [data] document_separator, or use gpt or llama",
                    unit.name));
  }
}

// A pack, or a folder of its own, may have a validation split whatever [data] says.
void check_held_back(const config::Config& config, const data::Dataset& dataset) {
  if (config.training.objective != "gan" || !config.validation.enable || !dataset.validation) return;
  throw Error(ErrorCode::kInvalidArgument,
              config::where(config, "validation.enable") +
                  "no loss on held-back data says which generator is best, and these data have a validation "
                  "split: set validation.enable = false");
}

}  // namespace

Workbench open_workbench(const config::Config& config, std::shared_ptr<data::Dataset> dataset,
                         const Extensions* extensions, const CancelToken* cancel, int local_rank) {
  Workbench bench;
  bench.config = config;
  bench.dataset = std::move(dataset);
  const data::Source& source = *bench.dataset->train;
  const models::DataShape shape = shape_of(source);
  const std::span<const models::Architecture> extra =
      extensions ? std::span<const models::Architecture>(extensions->architectures)
                 : std::span<const models::Architecture>();
  bench.spec = models::trained_network(config, shape, extra);
  check_documents(bench.spec, source);
  const int64_t outputs = bench.spec.units[plan::heads_of(bench.spec).front().unit].output.shape.back();
  bench.objective = std::make_shared<const Objective>(make_objective(
      config, language(source), class_weights_of(config, outputs, bench.dataset.get(), cancel)));
  bench.rank.threads = threads_of(config.training);
  bench.rank.seed = static_cast<uint64_t>(config.debug.seed);
  bench.rank.cancel = cancel;
  bench.rank.device = open_device(config, local_rank);
  return bench;
}

// The layout is refused before ranks form groups, which it might leave empty.
Run::Run(const TrainRequest& request)
    : layout_(plan::compilable_layout(request.config.parallelism, world_of(request))),
      request_(request),
      bench_(with_teacher(request_,
                          open_workbench(with_global_batch(request.config, layout_), dataset_of(request),
                                         request.extensions, request.cancel, request.local_rank))),
      spec_(plan::compilable_spec(layout_, bench_.spec)),
      ranks_(rank_options(request.config, spec_,
                          request.communicator == nullptr ? 0 : request.communicator->rank())),
      rule_(request.config.optimizer, request.config.lr_scheduler, request.config.ema) {
  check_device(bench_.config, spec_, layout_);
  check_held_back(bench_.config, *bench_.dataset);
  check_data_of_before(request_, *bench_.dataset);
  join(request.communicator, layout_, &bench_.rank);
  check_same_everywhere();
  check_same_arithmetic();
  open_folder();
}

observe::Summary Run::run() {
  compile();
  restore();
  if (const std::optional<observe::Summary> before = summary_of_before()) return *before;
  begin_record();
  try {
    loop();
    finish();
  } catch (const std::exception&) {
    record_failure();
    throw;
  }
  const observe::Summary result = summary();
  if (first()) {
    folder_->write_summary(result);
    sinks_->end(status_);
  }
  return result;
}

bool Run::over() const { return state_.step >= total_steps_ || state_.stopped_early; }

// A run that is over stays as it is: figures of no step would take the place of its own.
std::optional<observe::Summary> Run::summary_of_before() const {
  if (!request_.resume || !over()) return std::nullopt;
  const auto read = [this] {
    const std::string path = folder_->file("summary.json");
    if (!path_exists(path) || !path_exists(folder_->model())) return std::string();
    const std::string text = read_file(path);
    const observe::Summary before = observe::parse_summary(text);
    const bool ended = before.status == "finished" || before.status == "stopped early";
    return ended && before.steps == state_.step ? text : std::string();
  };
  const std::string text = bench_.rank.alone() ? read() : text_of_first(bench_.rank.world(), "before", read);
  if (text.empty()) return std::nullopt;
  if (first()) say_over();
  return observe::parse_summary(text);
}

void Run::say_over() const {
  const bool by_steps = bench_.config.training.steps > 0;
  log_info(
      fmt::format("the run is over, {} at step {} of {}: nothing is trained and nothing replaced; to go "
                  "on, `furrow train {} --resume {}`",
                  state_.stopped_early ? "stopped early" : "finished", state_.step, total_steps_, run_folder_,
                  state_.stopped_early ? "--validation.patience MORE"
                  : by_steps           ? "--training.steps MORE"
                                       : "--training.epochs MORE"));
}

void Run::record_failure() {
  status_ = "failed";
  try {
    if (!first()) return;
    sinks_->end(status_);
    folder_->write_summary(summary());
  } catch (const std::exception& error) {  // the error that ended the run says more
    log_warning(fmt::format("the failed run has no summary: {}", error.what()));
  }
}

void Run::compile() {
  FURROW_FAILPOINT("train.compile");
  const config::Config& config = bench_.config;
  const MemoryUsage data = memory_usage(MemoryKind::kData);
  data_bytes_ = data.current_bytes;
  data_peak_bytes_ = data.peak_bytes;
  device_ = device_facts(bench_.rank);
  if (first()) open_costs();
  choose_buckets();
  plan::TrainOptions options = train_options(config, spec_);
  options.ranks = ranks_;
  const plan::Program program = plan::compile_train(spec_, layout_, options);
  deterministic_ =
      plan::deterministic_line(program.placement, static_cast<int32_t>(program.microbatch_sizes.size()),
                               first() ? plan::tree_cost(spec_, layout_, options) : std::nullopt);
  if (!unlike_.empty()) deterministic_ = fmt::format("off: {}, so this run has bits of its own", unlike_);
  global_batch_ = program.samples();
  own_samples_ = samples_of(program);
  total_steps_ = total_steps(config.training, bench_.dataset->train->size());
  check_fits(bytes_on(device_, planned_memory(program, spec_, {}).bytes, config.training.enable_cpu_offload),
             device_);
  const std::vector<nn::BlockKind> blocks =
      request_.extensions ? request_.extensions->blocks : std::vector<nn::BlockKind>();
  const plan::FlatLayout flat = plan::flat_layout(spec_);
  // Before the model, which rounds parameters in memory of the same kind: the two add up, whatever comes
  // later.
  if (bench_.rank.device.type == "cpu" && multiplies(program, spec_))
    tensor::kernels::reserve_scratch(bench_.rank.threads);
  model_ = std::make_unique<ModelState>(spec_, rule_.states(), bench_.rank.seed, blocks,
                                        residence_of(flat, program.placement, bench_.rank));
  trainer_ = std::make_unique<Executor>(program, *model_, *bench_.objective, &rule_, bench_.rank);
  RankContext uninterrupted = bench_.rank;  // a run that is asked to stop still saves
  uninterrupted.cancel = nullptr;
  saver_ = std::make_unique<Executor>(plan::compile_save(spec_, layout_, options), *model_, *bench_.objective,
                                      &rule_, uninterrupted);
  if (model_->average() >= 0) {
    swapper_ = std::make_unique<Executor>(plan::compile_average(spec_, layout_, options), *model_,
                                          *bench_.objective, &rule_, uninterrupted);
  }
  evaluator_ = std::make_unique<Evaluator>(
      *model_, *bench_.objective, bench_.rank,
      EvaluatorOptions{config.training.local_batch_size, static_cast<int>(config.data.prefetch_batches),
                       layout_, ranks_});
  checkpointer_ = std::make_unique<Checkpointer>(
      config,
      CheckpointPlace{std::filesystem::path(run_folder_) / config.checkpoint.folder,
                      own_slices(flat, program.placement), program.placement.writes_statistics(),
                      program.placement.counts_replicated()},
      bench_.rank);
}

void Run::check_classes() const {
  const std::vector<std::string> own = preprocess::class_names(bench_.dataset->preprocessing);
  auto difference = preprocess::class_difference(state_.class_names, own);
  if (!difference && !own.empty() && own.size() < state_.class_names.size())
    difference = fmt::format("class {}, '{}', is there alone", own.size(), state_.class_names[own.size()]);
  if (!difference) return;
  throw Error(
      ErrorCode::kInvalidArgument,
      fmt::format("the checkpoint was trained on other classes than the data now has: {}: resume with "
                  "the data that the run began with",
                  *difference));
}

void Run::restore() {
  const config::Config& config = bench_.config;
  if (request_.resume) {
    if (auto restored = checkpointer_->restore(*model_)) {
      state_ = restored->state;
      best_ = std::move(restored->best);
      best_restored_ = !best_.empty();
      saved_step_ = state_.step;
      state_.stopped_early = state_.stopped_early && out_of_patience();  // it may have been given more
      check_classes();
      if (first()) log_info(fmt::format("resuming at step {} of {}", state_.step, total_steps_));
    } else if (first()) {
      log_info("no checkpoint yet: starting at step 0");
    }
  }
  state_.class_names = preprocess::class_names(bench_.dataset->preprocessing);
  state_.expect_phases(plan::phases_of(spec_));
  if (state_.step == 0) {
    for (PhaseState& phase : state_.phases) phase.loss_scale.factor = config.grad_scaler.init_scale;
    if (config.training.objective == "distillation") load_teacher(config.distillation.teacher, *model_);
    load_initial(config, *model_);
    model_->start_average();
  }
  data::LoaderOptions options = loader_options(trainer_->program(), state_.position);
  options.prefetch = static_cast<int>(config.data.prefetch_batches);
  options.memory_budget = config::memory_budget(config.data);
  const data::Source& source = *bench_.dataset->train;
  loader_ = std::make_unique<data::Loader>(
      source, data::SampleOrder(bench_.rank.seed, source.size(), config.data.shuffle), options);
}

bool Run::stopped() const {
  if (!bench_.rank.alone()) return stop_ != 0;
  return request_.cancel != nullptr && request_.cancel->cancelled();
}

bool Run::wants_more() const { return !over() && !stopped(); }

void Run::loop() {
  const config::Config& config = bench_.config;
  try {
    ledger_.begin_steps(bench_.rank);
    first_step_ = state_.step;
    if (config.checkpoint.enable) checkpointer_->prepare(*model_);
    if (state_.validation_due) validate();
    while (wants_more()) {
      one_step();
      state_.validation_due = validation_falls_due();
      if (state_.validation_due) validate();
      if (config.checkpoint.enable && config.checkpoint.interval > 0 &&
          state_.step % config.checkpoint.interval == 0) {
        const int64_t start_ns = bench_.rank.clock->monotonic_ns();
        save();
        save_wait_ns_ += bench_.rank.clock->monotonic_ns() - start_ns;
      }
    }
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kCancelled)
      throw;  // else nothing of the step or the validation was applied
    stop_ = 1;
  }
  ledger_.end_steps(bench_.rank);
}

void Run::one_step() {
  FURROW_FAILPOINT("train.step");
  const config::Config& config = bench_.config;
  const int64_t start_ns = bench_.rank.clock->monotonic_ns();
  RunInputs inputs;
  inputs.loader = loader_.get();
  inputs.step = state_.step;
  inputs.rates = rates_at({config.lr_scheduler, config.optimizer, total_steps_}, state_.step);
  inputs.phases = state_.phases;
  inputs.max_norm = config.training.max_norm;
  inputs.grad_scaler = config.grad_scaler;
  inputs.ready = checkpointer_->written();
  const bool first_of_process = state_.step == first_step_;
  if (first() && traces_next_step()) inputs.trace = &trace_;
  const RunOutputs outputs = trainer_->run(inputs);
  stop_ = outputs.stop;
  for (size_t p = 0; p < state_.phases.size(); ++p) {
    judge(p, outputs.phases[p]);
    state_.phases[p] = outputs.phases[p].state;
  }
  state_.step += 1;
  state_.position += global_batch_;
  state_.last_loss = outputs.loss.mean();
  const int64_t duration_ns = bench_.rank.clock->monotonic_ns() - start_ns;
  if (first_of_process) {
    // Whoever is through its first step has heard of all others that they are in theirs.
    if (!bench_.rank.alone()) bench_.rank.communicator->end_start();
    time_to_first_step_s_ = static_cast<double>(ns_since_exec()) * 1e-9;
    ledger_.begin_steps(bench_.rank);  // neither its time nor its bytes count
  } else {
    times_.add(duration_ns);
    ledger_.add_step(outputs.comm, outputs.compute, duration_ns, own_samples_);
  }
  if (!bench_.rank.alone() && outputs.ready == layout_.world()) checkpointer_->advance();
  const int64_t log_freq = std::max<int64_t>(1, config.metrics.log_freq);
  if (state_.step % log_freq == 0 || state_.step == 1 || state_.step == total_steps_)
    log_step(outputs, duration_ns);
  if (first()) sinks_->progress(state_.step, total_steps_);
}

bool Run::scales_loss() const {
  const std::vector<plan::Value>& inputs = trainer_->program().inputs;
  return std::ranges::find(inputs, plan::loss_scale_value(0)) != inputs.end();
}

// Gradients that overflow are what a loss scale is there to find out, unless it has nothing left to give.
void Run::judge(size_t phase, const PhaseOutputs& outputs) const {
  if (outputs.scale.finite) return;
  const double factor = state_.phases[phase].loss_scale.factor;
  if (scales_loss() && std::isfinite(outputs.loss.mean()) && factor >= 1) return;
  const int unit = outputs.scale.non_finite_unit;
  const std::string message =
      fmt::format("step {}{}: loss is {}, gradient norm is {}{}", state_.step + 1,
                  spec_.phases.empty() ? "" : fmt::format(", phase {}", spec_.phases[phase]),
                  outputs.loss.mean(), outputs.scale.norm,
                  unit >= 0 ? fmt::format(", first in the gradient of unit {}", spec_.units[unit].name) : "");
  if (bench_.config.training.nan_policy == "stop") {
    throw Error(
        ErrorCode::kFailedPrecondition,
        message +
            "; lower [optimizer] lr, clip with [training] max_norm, or set [training] nan_policy = \"skip\"");
  }
  if (first()) log_warning(message + "; the step is skipped");
}

void Run::save() {
  if (saved_step_ == state_.step) return;
  ++saves_;
  ledger_.end_steps(bench_.rank);
  RunInputs inputs;
  inputs.step = state_.step;
  inputs.alias_snapshots = !checkpointer_->async();
  checkpointer_->finish();  // its buffers are free again before new ones are made
  RunOutputs outputs = saver_->run(inputs);
  checkpointer_->save(*model_, state_, std::move(outputs.snapshots), best_);
  best_lent_ = checkpointer_->async();
  saved_step_ = state_.step;
  ledger_.begin_steps(bench_.rank);
}

void Run::finish() {
  audit();
  measure();
  predict();
  const bool interrupted = stopped() && (state_.step < total_steps_ || state_.validation_due);
  status_ = interrupted ? "interrupted" : state_.stopped_early ? "stopped early" : "finished";
  if (bench_.config.checkpoint.enable) save();
  checkpointer_->finish();
  note_memory();
  if (!trace_.empty() && first()) observe::write_trace(folder_->file("trace.json"), trace_, "furrow");
  if (interrupted) return;
  if (best_.empty()) swap_average();
  model_->load_snapshot(best_);
  try {
    test();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kCancelled) throw;
    status_ = "interrupted";
    return;
  }
  export_model();
}

}  // namespace furrow::train
