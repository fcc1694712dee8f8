#include "furrow/plan/optimizer_spec.h"

#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/base/names.h"

namespace furrow::plan {
namespace {

constexpr StateRow kFirst{"exp_avg"}, kSecond{"exp_avg_sq"};

constexpr StateRow kFirstCodes{"exp_avg", StateForm::kCodes},
    kFirstScales{"exp_avg_scale", StateForm::kScales};
constexpr StateRow kRootCodes{"exp_avg_root", StateForm::kCodes},
    kRootScales{"exp_avg_root_scale", StateForm::kScales};

constexpr std::string_view kAdamKeys = "beta1 beta2 eps";

constexpr OptimizerSpec kSpecs[] = {
    {"adafactor",
     {StateRow{"row_var", StateForm::kRows}, StateRow{"col_var", StateForm::kColumns},
      StateRow{"variance", StateForm::kVectors}},
     StepNeeds::kParameters},
    {"adam", {kFirst, kSecond}, StepNeeds::kElements, kAdamKeys},
    {"adamw", {kFirst, kSecond}, StepNeeds::kElements, kAdamKeys},
    {"adamw8bit", {kFirstCodes, kFirstScales, kRootCodes, kRootScales}, StepNeeds::kBlocks, kAdamKeys},
    {"lamb", {kFirst, kSecond}, StepNeeds::kParameters, kAdamKeys},
    {"lion", {kFirst}, StepNeeds::kElements, "beta1 beta2"},
    {"muon", {kFirst, StateRow{"exp_avg_sq", StateForm::kUncut}}, StepNeeds::kMatrices, kAdamKeys},
    {"sgd", {StateRow{"momentum_buffer"}}, StepNeeds::kElements, "", /*stateless_without_momentum=*/true},
};

}  // namespace

size_t OptimizerSpec::state_count() const {
  return static_cast<size_t>(
      std::ranges::count_if(states, [](const StateRow& state) { return !state.name.empty(); }));
}

std::span<const OptimizerSpec> optimizer_specs() { return kSpecs; }

const OptimizerSpec& find_optimizer_spec(std::string_view name) {
  std::vector<std::string> known;
  for (const OptimizerSpec& spec : kSpecs) {
    if (spec.name == name) return spec;
    known.emplace_back(spec.name);
  }
  throw Error(ErrorCode::kInvalidArgument, unknown_name_message("optimizer", name, known));
}

std::vector<StateSpec> optimizer_states(const config::Optimizer& optimizer,
                                        const config::LrScheduler& schedule, const config::Ema& ema) {
  const OptimizerSpec& spec = find_optimizer_spec(optimizer.name);
  std::vector<StateSpec> states;
  const bool moves = optimizer.momentum != 0 || schedule.decay_type == "one_cycle";
  const size_t count = spec.stateless_without_momentum && !moves ? 0 : spec.state_count();
  for (size_t s = 0; s < count; ++s)
    states.push_back({std::string(spec.states[s].name), spec.states[s].form});
  if (ema.decay > 0) states.push_back({std::string(kAverageState), StateForm::kElements});
  return states;
}

StateForms forms_of(const std::vector<StateSpec>& states) {
  StateForms forms;
  for (const StateSpec& state : states) forms.push_back(state.form);
  return forms;
}

}  // namespace furrow::plan
