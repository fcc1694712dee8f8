#include "furrow/plan/optimizer_spec.h"

#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/base/text.h"

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
    {"muon",
     {kFirst, StateRow{"exp_avg_sq", StateForm::kUncut}},
     StepNeeds::kMatrices,
     "beta1 beta2 eps momentum"},
    {"sgd",
     {StateRow{"momentum_buffer"}},
     StepNeeds::kElements,
     "momentum",
     /*stateless_without_momentum=*/true},
};

// What entries of [optimizer] groups say behind `key`: "name=".
std::vector<std::string> words_of_groups(const config::Optimizer& optimizer, std::string_view key) {
  std::vector<std::string> values;
  for (const std::string& entry : optimizer.groups) {
    for (const std::string& word : split(entry, ' ')) {
      if (word.starts_with(key)) values.push_back(word.substr(key.size()));
    }
  }
  return values;
}

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

std::vector<std::string> optimizers_of(const config::Optimizer& optimizer) {
  std::vector<std::string> names = {optimizer.name};
  for (const std::string& name : words_of_groups(optimizer, "name=")) {
    if (std::ranges::find(names, name) == names.end()) names.emplace_back(find_optimizer_spec(name).name);
  }
  return names;
}

std::vector<StateSpec> optimizer_states(const config::Optimizer& optimizer,
                                        const config::LrScheduler& schedule, const config::Ema& ema) {
  std::vector<StateSpec> states;
  const bool moves = optimizer.momentum != 0 || schedule.decay_type == "one_cycle" ||
                     !words_of_groups(optimizer, "momentum=").empty();
  const std::vector<std::string> names = optimizers_of(optimizer);
  for (const std::string& name : names) {
    const OptimizerSpec& spec = find_optimizer_spec(name);
    const size_t count = spec.stateless_without_momentum && !moves ? 0 : spec.state_count();
    for (size_t s = 0; s < count; ++s)
      states.push_back(
          {std::string(spec.states[s].name), {spec.states[s].form, names.size() > 1 ? name : std::string()}});
  }
  if (ema.decay > 0) states.push_back({std::string(kAverageState), StateForm::kElements});
  return states;
}

StateForms forms_of(const std::vector<StateSpec>& states) {
  StateForms forms;
  for (const StateSpec& state : states) forms.push_back(state.form);
  return forms;
}

}  // namespace furrow::plan
