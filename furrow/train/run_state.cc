#include "furrow/train/run_state.h"

#include <fmt/format.h>

#include <charconv>
#include <optional>
#include <type_traits>

#include "furrow/base/error.h"
#include "furrow/preprocess/class_names.h"

namespace furrow::train {
namespace {

// Key of a field of a phase after the first, whose fields have the keys of a step without phases.
std::string phase_key(size_t phase, std::string_view name) { return fmt::format("phase.{}.{}", phase, name); }

// The one list of fields, for writing and reading.
template <class State, class Visitor>
void visit(State& state, Visitor&& field) {
  field("step", state.step);
  field("position", state.position);
  field("last_loss", state.last_loss);
  field("last_validation_loss", state.last_validation_loss);
  field("last_validation_accuracy", state.last_validation_accuracy);
  field("has_best", state.has_best);
  field("best_step", state.best_step);
  field("best_metric", state.best_metric);
  field("best_validation_loss", state.best_validation_loss);
  field("best_validation_accuracy", state.best_validation_accuracy);
  field("bad_validations", state.bad_validations);
  field("skipped_steps", state.phases.front().skipped_steps);
  field("stopped_early", state.stopped_early);
  field("validation_due", state.validation_due);
  field("loss_scale", state.phases.front().loss_scale.factor);
  field("loss_scale_growth", state.phases.front().loss_scale.growth);
  field("class_names", state.class_names);
  for (size_t p = 1; p < state.phases.size(); ++p) {
    auto& phase = state.phases[p];
    field(phase_key(p, "skipped_steps"), phase.skipped_steps);
    field(phase_key(p, "loss_scale"), phase.loss_scale.factor);
    field(phase_key(p, "loss_scale_growth"), phase.loss_scale.growth);
  }
}

template <class T>
T parse_number(std::string_view key, std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    throw Error(ErrorCode::kDataLoss, fmt::format("run state: {} is '{}', not a number", key, text));
  }
  return value;
}

// Nothing when there is no such line.
std::optional<std::string_view> find_value(std::string_view text, std::string_view key) {
  while (!text.empty()) {
    const size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (line.size() > key.size() && line.substr(0, key.size()) == key && line[key.size()] == ' ') {
      return line.substr(key.size() + 1);
    }
  }
  return std::nullopt;
}

// Checkpoints of earlier versions have no loss scale and no names.
bool may_lack(std::string_view key) { return key.starts_with("loss_scale") || key == "class_names"; }

}  // namespace

void RunState::expect_phases(int64_t count) {
  phases.resize(static_cast<size_t>(count), PhaseState(phases.front()));
}

std::string to_text(const RunState& state) {
  std::string text;
  visit(state, [&](std::string_view key, const auto& value) {
    if constexpr (std::is_same_v<std::decay_t<decltype(value)>, bool>) {
      text += fmt::format("{} {}\n", key, value ? 1 : 0);
    } else if constexpr (std::is_same_v<std::decay_t<decltype(value)>, std::vector<std::string>>) {
      text += fmt::format("{} {}\n", key, preprocess::to_line(preprocess::names_text(value)));
    } else {
      text += fmt::format("{} {}\n", key, value);
    }
  });
  return text;
}

RunState parse_run_state(std::string_view text) {
  RunState state;
  while (find_value(text, phase_key(state.phases.size(), "skipped_steps"))) state.phases.emplace_back();
  visit(state, [&](std::string_view key, auto& value) {
    using T = std::decay_t<decltype(value)>;
    const auto found = find_value(text, key);
    if (!found && may_lack(key)) return;
    if (!found) throw Error(ErrorCode::kDataLoss, fmt::format("run state: {} is missing", key));
    if constexpr (std::is_same_v<T, bool>) {
      value = parse_number<int>(key, *found) != 0;
    } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
      value = preprocess::parse_names(preprocess::from_line(*found, "class_names"));
    } else {
      value = parse_number<T>(key, *found);
    }
  });
  return state;
}

}  // namespace furrow::train
