// What a run says of itself: the header, the figures of its steps, the summary.
#include <fmt/format.h>

#include <filesystem>

#include "furrow/base/log.h"
#include "furrow/base/memory.h"
#include "furrow/base/process.h"
#include "furrow/base/text.h"
#include "furrow/base/version.h"
#include "furrow/config/batch_note.h"
#include "furrow/data/fitted_values.h"
#include "furrow/models/lora.h"
#include "furrow/models/precision.h"
#include "furrow/plan/quote.h"
#include "furrow/tensor/arithmetic.h"
#include "furrow/train/device_torch.h"
#include "furrow/train/library_build.h"
#include "furrow/train/recipe.h"
#include "furrow/train/run_torch.h"

namespace furrow::train {

std::string Run::run_name() const {
  return std::filesystem::path(run_folder_ + "/.").lexically_normal().parent_path().filename();
}

void Run::begin_record() {
  if (!first()) return;
  const plan::Program& program = trainer_->program();
  if (!bench_.rank.alone()) {
    log_info(fmt::format("{} ranks, {}: {}", layout_.world(), layout_text(layout_), deterministic_));
    if (!buckets_.empty()) log_info(buckets_);
    const std::string batch = config::batch_by_ranks(request_.config.training, layout_.data_ranks());
    if (!batch.empty()) log_info(batch);
  }
  const std::string left_out = models::left_out_by_star(bench_.config.lora, bench_.spec);
  if (!left_out.empty()) log_info(left_out);
  const std::string precision = models::mixed_precision_text(spec_);
  if (!precision.empty()) log_info(precision);
  plan_memory();
  log_memory();
  data::write_fitted(run_folder_, *bench_.dataset, data::dataset_options(bench_.config));
  sinks_->begin(run_name(), config::to_toml(bench_.config), state_.step);
  folder_->write_plan(plan::to_text(program));
}

// Kind by kind, as the summary will have them beside what was held; by the textbook too where that has a
// word.
void Run::log_memory() const {
  const auto text = [](double bytes) { return format_bytes(static_cast<uint64_t>(bytes)); };
  log_info(fmt::format("memory of a rank as planned, by formula {}:", planned_.formula.text));
  for (const MemoryLine& line : memory_lines(planned_)) {
    log_info(fmt::format("  {:<12} {:>10}{}{}{}", to_string(line.kind), text(static_cast<double>(line.bytes)),
                         line.formula ? fmt::format(", formula {}", text(*line.formula)) : "",
                         line.items.empty() ? "" : ": ", line.items));
  }
  if (device_.memory_bytes == 0) return;
  log_info(fmt::format("  on {}: {} of {}", device_.name, text(static_cast<double>(planned_on_device())),
                       text(static_cast<double>(device_.memory_bytes))));
}

int64_t Run::planned_on_device() const {
  return bytes_on(device_, planned_.bytes, bench_.config.training.enable_cpu_offload);
}

void Run::log_step(const RunOutputs& outputs, int64_t duration_ns) {
  observe::StepRecord record;
  record.step = state_.step;
  record.samples = state_.position;
  const Rates rates =
      rates_at({bench_.config.lr_scheduler, bench_.config.optimizer, total_steps_}, state_.step - 1);
  const double seconds = static_cast<double>(duration_ns) * 1e-9;
  record.values = {{"loss", outputs.loss.mean()}, {"grad_norm", outputs.scale.norm}, {"lr", rates.lr}};
  if (has_accuracy(bench_.config.training)) record.values.emplace_back("accuracy", outputs.loss.accuracy());
  record.values.emplace_back("samples_per_second", static_cast<double>(global_batch_) / seconds);
  record.values.emplace_back("step_time_ms", static_cast<double>(duration_ns) * 1e-6);
  record.values.emplace_back("data_wait_s", static_cast<double>(loader_->wait_ns()) * 1e-9);
  record.values.emplace_back("memory_bytes", static_cast<double>(peak_rss_bytes()));
  const std::vector<std::string>& phases = bench_.spec.phases;
  for (size_t p = 0; scales_loss() && p < state_.phases.size(); ++p) {
    const std::string of_phase = phases.empty() ? "" : "_" + phases[p];
    const PhaseState& phase = state_.phases[p];
    record.values.emplace_back("loss_scale" + of_phase, phase.loss_scale.factor);
    record.values.emplace_back("skipped_steps" + of_phase, static_cast<double>(phase.skipped_steps));
  }
  if (bench_.config.training.enable_cpu_offload) {
    record.values.emplace_back("copies_ms", static_cast<double>(outputs.copies.busy_ns) * 1e-6);
    record.values.emplace_back("exposed_copies_ms", static_cast<double>(outputs.copies.exposed_ns) * 1e-6);
  }
  for (size_t p = 0; p < phases.size(); ++p)
    record.values.emplace_back("loss_" + phases[p], outputs.phases[p].loss.mean());
  if (!bench_.rank.alone()) {
    const StepLedger::Bytes bytes = ledger_.bytes(bench_.rank);
    record.values.insert(record.values.end(),
                         {{"exposed_communication_ms", static_cast<double>(outputs.comm.exposed_ns) * 1e-6},
                          {"communication_ms", static_cast<double>(outputs.comm.busy_ns) * 1e-6},
                          {"communication_wire_bytes", static_cast<double>(bytes.wire)},
                          {"communication_bound_bytes", static_cast<double>(bytes.bound)}});
  }
  emit(record);
}

void Run::emit(const observe::StepRecord& record) {
  if (first()) sinks_->log(record);
}

observe::Summary Run::summary() const {
  observe::Summary s;
  s.name = run_name();
  s.status = status_;
  s.steps = state_.step;
  s.samples = state_.position;
  if (state_.step > 0) s.loss = state_.last_loss;
  if (state_.has_best) {
    s.validation_loss = state_.best_validation_loss;
    if (has_accuracy(bench_.config.training)) s.validation_accuracy = state_.best_validation_accuracy;
    s.best_step = state_.best_step;
  }
  if (tested_) {
    s.test_loss = test_loss_;
    if (has_accuracy(bench_.config.training)) s.test_accuracy = test_accuracy_;
  }
  if (times_.total_ns() > 0) {
    s.samples_per_second =
        static_cast<double>(times_.count() * global_batch_) / (static_cast<double>(times_.total_ns()) * 1e-9);
  }
  s.audit = audit_;
  if (s.audit && s.audit->ranks > 1) {
    const auto share_of = [&](double one) { return s.samples_per_second / (layout_.world() * one); };
    const OneRankRates& one = request_.one_rank;
    if (one.same_batch) s.audit->scaling_efficiency = share_of(*one.same_batch);
    if (one.same_batch_a_rank) s.audit->weak_scaling_efficiency = share_of(*one.same_batch_a_rank);
  }
  s.step_time_median_ms = times_.median_ms();
  s.step_time_p99_ms = times_.p99_ms();
  s.time_to_first_step_s = time_to_first_step_s_;
  s.data_wait_s = static_cast<double>(loader_->wait_ns()) * 1e-9;
  s.saves = saves_;
  s.save_wait_s = static_cast<double>(save_wait_ns_) * 1e-9;
  s.peak_rss_bytes = peak_rss_bytes();
  const auto peaks = memory_peaks(bench_.rank, bench_.config.training.enable_cpu_offload);
  s.memory_bytes = trained_memory_.value_or(peaks);
  for (size_t k = 0; k < kMemoryKinds; ++k)
    s.closing_memory_bytes[k] = peaks[k] > s.memory_bytes[k] ? peaks[k] : 0;
  const DType precision = models::lowest_precision(spec_);
  const models::OperationShares shares = models::operation_shares(spec_);
  s.arithmetic = bench_.rank.device.type == "cpu"
                     ? tensor::arithmetic_of(precision, shares.float32, shares.convolutions)
                     : fmt::format("{} on {}", to_string(precision), bench_.rank.device.type);
  s.prediction = prediction_;
  s.planned_memory_bytes = planned_.bytes;
  if (const std::optional<AllocatorBytes> bytes = allocator_bytes(bench_.rank)) {
    s.device = {device_.name, device_.memory_bytes, planned_on_device(), bytes->peak, bytes->reserved_peak};
  }
  s.seed = bench_.rank.seed;
  s.threads = bench_.rank.threads;
  s.processor = cpu_model();
  s.furrow_version = furrow_version();
  s.git_commit = furrow_git_commit();
  s.instruction_set = tensor::instruction_set_of(precision);
  s.library_build = library_build();
  return s;
}

}  // namespace furrow::train
