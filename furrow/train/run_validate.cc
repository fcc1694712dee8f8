// Validation, early stopping, the best model, the test: the same on every rank, as the sums are those of all.
#include <cmath>

#include "furrow/base/error.h"
#include "furrow/base/failpoint.h"
#include "furrow/train/recipe.h"
#include "furrow/train/run_torch.h"

namespace furrow::train {
bool Run::validation_falls_due() const {
  const config::Validation& config = bench_.config.validation;
  if (!config.enable || !bench_.dataset->validation) return false;
  return state_.step == total_steps_ || (config.freq > 0 && state_.step % config.freq == 0);
}

void Run::validate() {
  ledger_.end_steps(bench_.rank);
  const LossSums sums = validation_sums();
  state_.last_validation_loss = sums.mean();
  state_.last_validation_accuracy = sums.accuracy();
  state_.validation_due = false;
  saved_step_ = -1;  // a checkpoint of this step, made before the validation, is out of date
  observe::StepRecord record;
  record.step = state_.step;
  record.samples = state_.position;
  record.values = {{"validation_loss", sums.mean()}};
  if (has_accuracy(bench_.config.training))
    record.values.emplace_back("validation_accuracy", sums.accuracy());
  emit(record);
}

// With the average of the weights, where there is one; so is the best model.
LossSums Run::validation_sums() {
  FURROW_FAILPOINT("train.validate");
  swap_average();
  try {
    const LossSums sums = evaluator_->run(*bench_.dataset->validation);
    keep_best(sums.mean(), sums.accuracy());
    swap_average();
    ledger_.begin_steps(bench_.rank);
    return sums;
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kCancelled) swap_average();  // the run still saves its weights
    throw;
  }
}

void Run::swap_average() {
  if (swapper_ == nullptr) return;
  const RunInputs inputs;
  swapper_->run(inputs);
}

bool Run::out_of_patience() const {
  const int64_t patience = bench_.config.validation.patience;
  return patience > 0 && state_.bad_validations >= patience;
}

void Run::keep_best(double loss, double accuracy) {
  const config::Validation& config = bench_.config.validation;
  const bool by_accuracy = config.metric == "accuracy";
  const double metric = by_accuracy ? accuracy : loss;
  const double gain = by_accuracy ? metric - state_.best_metric : state_.best_metric - metric;
  const bool better = std::isfinite(metric) && (!state_.has_best || gain > config.min_delta);
  if (!better) {
    ++state_.bad_validations;
    state_.stopped_early = out_of_patience();
    return;
  }
  state_.has_best = true;
  state_.bad_validations = 0;
  state_.best_metric = metric;
  state_.best_step = state_.step;
  state_.best_validation_loss = loss;
  state_.best_validation_accuracy = accuracy;
  if (best_.empty() || best_lent_)
    best_ = model_->snapshot_parameters();
  else
    model_->snapshot_parameters(best_);
  best_lent_ = false;
}

void Run::test() {
  if (!bench_.dataset->test) return;
  const LossSums sums = evaluator_->run(*bench_.dataset->test);
  test_loss_ = sums.mean();
  test_accuracy_ = sums.accuracy();
  tested_ = true;
}

}  // namespace furrow::train
