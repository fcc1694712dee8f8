#include "furrow/train/lr_schedule.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <string>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/names.h"

namespace furrow::train {
namespace {

int64_t total_steps_of(const ScheduleInputs& in) {
  return in.schedule.total_steps > 0 ? in.schedule.total_steps : in.total_steps;
}

double base_momentum(const config::Optimizer& optimizer) {
  return optimizer.name == "sgd" ? optimizer.momentum : optimizer.beta1;
}

// torchtitan's linear_warmup_stable_decay with the decay curve as a parameter (progress in (0, 1] -> factor).
Rates warmup_stable_decay(const ScheduleInputs& in, int64_t step, double (*curve)(double)) {
  const int64_t total = total_steps_of(in);
  const int64_t warmup = std::min<int64_t>(in.schedule.warmup_steps, total);
  const int64_t decay = in.schedule.decay_ratio >= 0
                            ? std::min(std::llround(static_cast<double>(total) * in.schedule.decay_ratio),
                                       static_cast<long long>(total - warmup))
                            : total - warmup;
  const int64_t stable = total + 1 - warmup - decay;
  double factor = 1;
  if (step < warmup) {
    factor = static_cast<double>(step + 1) / static_cast<double>(warmup + 1);
  } else if (step >= warmup + stable) {
    const double progress =
        std::min(1.0, static_cast<double>(step + 1 - warmup - stable) / static_cast<double>(decay));
    factor = in.schedule.min_lr_factor + (1 - in.schedule.min_lr_factor) * curve(progress);
  }
  return {in.optimizer.lr * factor, base_momentum(in.optimizer)};
}

Rates constant(const ScheduleInputs& in, int64_t step) {
  return warmup_stable_decay(in, step, [](double) { return 1.0; });
}

Rates linear(const ScheduleInputs& in, int64_t step) {
  return warmup_stable_decay(in, step, [](double progress) { return 1 - progress; });
}

Rates square_root(const ScheduleInputs& in, int64_t step) {
  return warmup_stable_decay(in, step, [](double progress) { return 1 - std::sqrt(progress); });
}

// PyTorch's StepLR, counted from the end of the warm-up.
Rates falling_steps(const ScheduleInputs& in, int64_t step) {
  Rates rates = constant(in, step);
  const int64_t after = step - std::min<int64_t>(in.schedule.warmup_steps, total_steps_of(in));
  if (after > 0) rates.lr *= std::pow(in.schedule.gamma, static_cast<double>(after / in.schedule.step_size));
  return rates;
}

Rates cosine(const ScheduleInputs& in, int64_t step) {
  return warmup_stable_decay(
      in, step, [](double progress) { return 0.5 * (1 + std::cos(std::numbers::pi * progress)); });
}

double anneal(double from, double to, double progress) {
  return to + (from - to) / 2 * (1 + std::cos(std::numbers::pi * progress));
}

Rates one_cycle(const ScheduleInputs& in, int64_t step) {
  const config::LrScheduler& s = in.schedule;
  const double total = static_cast<double>(total_steps_of(in));
  const double peak_step = s.pct_start * total - 1, last_step = total - 1;
  const double initial = in.optimizer.lr / s.div_factor, final = initial / s.final_div_factor;
  const double low = s.cycle_momentum ? s.base_momentum : base_momentum(in.optimizer);
  const double high = s.cycle_momentum ? s.max_momentum : base_momentum(in.optimizer);
  const double at = std::min(static_cast<double>(step), last_step);
  if (at <= peak_step && peak_step > 0) {
    const double progress = at / peak_step;
    return {anneal(initial, in.optimizer.lr, progress), anneal(high, low, progress)};
  }
  const double peak = std::max(peak_step, 0.0);
  const double progress = last_step > peak ? (at - peak) / (last_step - peak) : 1;
  return {anneal(in.optimizer.lr, final, progress), anneal(low, high, progress)};
}

constexpr std::array kSchedules = {
    Schedule{"constant", &constant}, Schedule{"linear", &linear},      Schedule{"sqrt", &square_root},
    Schedule{"cosine", &cosine},     Schedule{"step", &falling_steps}, Schedule{"one_cycle", &one_cycle},
};

}  // namespace

std::span<const Schedule> schedules() { return kSchedules; }

const Schedule& find_schedule(std::string_view name) {
  std::vector<std::string> known;
  for (const Schedule& schedule : kSchedules) {
    if (schedule.name == name) return schedule;
    known.emplace_back(schedule.name);
  }
  throw Error(ErrorCode::kInvalidArgument, unknown_name_message("[lr_scheduler] decay_type", name, known));
}

Rates rates_at(const ScheduleInputs& inputs, int64_t step) {
  return find_schedule(inputs.schedule.decay_type).rates(inputs, step);
}

}  // namespace furrow::train
