#include "furrow/models/precision.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/base/text.h"
#include "furrow/models/kinds.h"
#include "furrow/models/lora_ties.h"
#include "furrow/models/teacher.h"
#include "furrow/models/unit_builder.h"
#include "furrow/plan/call_bytes.h"
#include "furrow/plan/topology.h"

namespace furrow::models {
namespace {

constexpr std::array<DType, 3> kTypes = {DType::kF32, DType::kBF16, DType::kF16};

const Kind* find(std::string_view name) {
  for (const Kind& kind : kinds()) {
    if (kind.name == name) return &kind;
  }
  return nullptr;
}

// The description again, for its bytes and collectives: shapes and parameters are those of float32.
void lower(const Kind& kind, DType type, plan::Unit* unit) {
  plan::Unit again = *unit;
  again.parameters.clear();
  again.collectives.clear();
  again.forward_scratch = again.backward_scratch = again.weight_scratch = {};
  again.compute = type;
  kind.describe(again);
  unit->compute = type;
  unit->output.dtype = type;
  plan::set_call_bytes(plan::call_bytes(again), unit);
  // Scores and their gradient in float32, which is rounded once the scores have gone.
  unit->loss_scratch.sample_bytes +=
      numbers_of(unit->output) * (2 * 4 - static_cast<int64_t>(dtype_size(type)));
  unit->tensor = again.tensor;
  unit->collectives = again.collectives;
}

// A unit that reads another type than it computes in keeps its input converted.
void convert_input(plan::Unit* unit) {
  const DType read = unit->input.dtype;
  if (read == unit->compute || !plan::is_number(read)) return;
  const int64_t bytes = border_bytes(*unit, unit->input);
  unit->saved_bytes += bytes;
  const bool whole = unit->input.tensor_axis < 0;
  if (whole) unit->tensor.whole_saved_bytes += bytes;
  if (unit->parameters.empty()) return;
  unit->deferred_bytes += bytes;
  unit->kept_saved_bytes += bytes;
  if (whole) unit->tensor.whole_deferred_bytes += bytes;
}

[[noreturn]] void refuse(const std::string& entry, const std::string& message) {
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("[training] mixed_precision_units: '{}': {}", entry, message));
}

PrecisionPolicy::Entry parse_entry(const std::string& text) {
  std::vector<std::string> words;
  for (const std::string& word : split(text, ' ')) {
    if (!word.empty()) words.push_back(word);
  }
  if (words.size() != 2) refuse(text, "write \"PATTERN param=TYPE\"");
  const size_t equals = words[1].find('=');
  const std::string key = words[1].substr(0, equals);
  if (key != "param") refuse(text, unknown_name_message("key", key, std::vector<std::string>{"param"}));
  try {
    const std::string type = equals == std::string::npos ? "" : words[1].substr(equals + 1);
    return {text, words[0], precision_of(type)};
  } catch (const Error& error) {
    refuse(text, error.message());
  }
}

bool can_compute_in(const plan::Unit& unit, DType type) {
  const Kind* kind = find(unit.kind);
  return type == DType::kF32 || (kind != nullptr && kind->low_precision);
}

// What each unit computes in, by index.
class Types {
 public:
  Types(const PrecisionPolicy& policy, const plan::ModelSpec& spec) : spec_(spec) {
    for (const plan::Unit& unit : spec.units)
      types_.push_back(can_compute_in(unit, policy.param) ? policy.param : DType::kF32);
    for (const PrecisionPolicy::Entry& entry : policy.entries) apply(entry);
    follow_originals();
    for (const plan::Unit& unit : spec.units) check_ties(unit);
  }
  const std::vector<DType>& values() const { return types_; }

 private:
  size_t index_of(const plan::Unit& unit) const { return static_cast<size_t>(&unit - spec_.units.data()); }

  static bool matches(const PrecisionPolicy::Entry& entry, const plan::Unit& unit) {
    return glob_match(entry.pattern, unit.name) || glob_match(entry.pattern, unit.kind);
  }

  void apply(const PrecisionPolicy::Entry& entry) {
    std::vector<std::string> names;
    const plan::Unit* unable = nullptr;
    bool found = false;
    for (const plan::Unit& unit : spec_.units) {
      names.push_back(unit.name);
      if (!matches(entry, unit)) continue;
      const plan::Unit* original = original_of(spec_, unit);
      if (original != nullptr && !matches(entry, *original))
        refuse(entry.text,
               fmt::format("{} runs the layers of {} once more, in what that one computes in: name "
                           "{}",
                           unit.name, original->name, original->name));
      if (!can_compute_in(unit, entry.param)) {
        unable = &unit;
        continue;
      }
      found = true;
      types_[index_of(unit)] = entry.param;
    }
    if (found) return;
    if (unable != nullptr)
      refuse(entry.text, fmt::format("{} is of kind {}, which computes in float32 alone: leave it out",
                                     unable->name, unable->kind));
    refuse(entry.text,
           "it matches the name or kind of no unit; " + unknown_name_message("unit", entry.pattern, names));
  }

  void follow_originals() {
    for (size_t u = 0; u < types_.size(); ++u) {
      const plan::Unit* original = original_of(spec_, spec_.units[u]);
      if (original != nullptr) types_[u] = types_[index_of(*original)];
    }
  }

  // A tied weight is read where its owner has it.
  void check_ties(const plan::Unit& unit) const {
    for (const plan::Parameter& parameter : unit.parameters) {
      if (!parameter.tied()) continue;
      const plan::Unit& owner = *std::ranges::find_if(spec_.units, [&](const plan::Unit& each) {
        return std::ranges::any_of(each.parameters,
                                   [&](const plan::Parameter& own) { return own.name == parameter.tied_to; });
      });
      const DType own = types_[index_of(unit)], owners = types_[index_of(owner)];
      if (own == owners) continue;
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("[training] mixed_precision_units: {0} computes in {1}, and its {2} is the {3} "
                              "of {4}, which computes in {5}: give both one type, as \"{4} param={1}\" "
                              "does, or do not tie them",
                              unit.name, to_string(own), parameter.name, parameter.tied_to, owner.name,
                              to_string(owners)));
    }
  }

  const plan::ModelSpec& spec_;
  std::vector<DType> types_;
};

std::vector<PrecisionPolicy::Entry> entries_of(const config::Training& training, bool teachers) {
  std::vector<PrecisionPolicy::Entry> entries;
  for (const std::string& text : training.mixed_precision_units) {
    PrecisionPolicy::Entry entry = parse_entry(text);
    if (is_teachers(entry.pattern) && training.objective != "distillation")
      refuse(text, "there is no teacher: leave it out, or set training.objective = distillation");
    if (is_teachers(entry.pattern) != teachers) continue;
    if (teachers) entry.pattern.erase(0, kTeacherPrefix.size());
    entries.push_back(std::move(entry));
  }
  return entries;
}

double all_flops(const plan::Unit& unit) {
  return unit.flops.forward + unit.flops.backward_input + unit.flops.backward_weight;
}

// The first few of a list.
std::string some_of(const std::vector<std::string>& names) {
  constexpr size_t kMost = 8;
  if (names.size() <= kMost) return join(names, ", ");
  return fmt::format("{} and {} more", join({names.begin(), names.begin() + kMost}, ", "),
                     names.size() - kMost);
}

}  // namespace

DType precision_of(std::string_view name) {
  std::vector<std::string> known;
  for (const DType type : kTypes) {
    if (to_string(type) == name) return type;
    known.emplace_back(to_string(type));
  }
  throw Error(ErrorCode::kInvalidArgument, unknown_name_message("precision", name, known));
}

PrecisionPolicy precision_policy(const config::Training& training) {
  PrecisionPolicy policy = precision_of(training.mixed_precision_param);
  policy.entries = entries_of(training, /*teachers=*/false);
  return policy;
}

PrecisionPolicy teachers_precision_policy(const config::Training& training) {
  PrecisionPolicy policy = precision_of(training.mixed_precision_param);
  policy.entries = entries_of(training, /*teachers=*/true);
  return policy;
}

void compute_in(const PrecisionPolicy& policy, plan::ModelSpec* spec) {
  const std::vector<DType> types = Types(policy, *spec).values();
  for (size_t u = 0; u < types.size(); ++u) {
    if (types[u] != DType::kF32) lower(*find(spec->units[u].kind), types[u], &spec->units[u]);
  }
  for (size_t u = 0; u < spec->units.size(); ++u) {
    const int32_t source = plan::source_of(*spec, static_cast<int32_t>(u));
    if (source >= 0) spec->units[u].input.dtype = spec->units[source].output.dtype;
    convert_input(&spec->units[u]);
  }
  plan::validate(*spec);
}

DType lowest_precision(const plan::ModelSpec& spec) {
  for (const DType type : {DType::kBF16, DType::kF16}) {
    if (std::ranges::any_of(spec.units, [&](const plan::Unit& unit) { return unit.compute == type; }))
      return type;
  }
  return DType::kF32;
}

std::string mixed_precision_text(const plan::ModelSpec& spec) {
  std::array<std::vector<std::string>, kTypes.size()> names;
  for (const plan::Unit& unit : spec.units)
    names[static_cast<size_t>(std::ranges::find(kTypes, unit.compute) - kTypes.begin())].push_back(unit.name);
  const auto most = static_cast<size_t>(std::ranges::max_element(names, {}, &std::vector<std::string>::size) -
                                        names.begin());
  std::string text = fmt::format("units compute in {}, but", to_string(kTypes[most]));
  bool others = false;
  for (size_t t = 0; t < kTypes.size(); ++t) {
    if (t == most || names[t].empty()) continue;
    text += fmt::format("{} in {}: {}", others ? ";" : "", to_string(kTypes[t]), some_of(names[t]));
    others = true;
  }
  return others ? text : "";
}

OperationShares operation_shares(const plan::ModelSpec& spec) {
  const DType lowest = lowest_precision(spec);
  double all = 0;
  OperationShares shares;
  for (const plan::Unit& unit : spec.units) {
    const double flops = all_flops(unit);
    const Kind* kind = find(unit.kind);
    all += flops;
    if (unit.compute == DType::kF32 || unit.compute != lowest || kind == nullptr || kind->converts) {
      shares.float32 += flops;
    } else if (kind->convolves) {
      shares.convolutions += flops;
    }
  }
  if (all <= 0) return {.float32 = 1};
  return {shares.float32 / all, shares.convolutions / all};
}

void reduce_in(DType type, plan::ModelSpec* spec) { spec->reduce = type; }

}  // namespace furrow::models
