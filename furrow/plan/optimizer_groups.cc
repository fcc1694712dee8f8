// [optimizer] on a model: rules of single parameters, and what follows from them.
#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/base/text.h"
#include "furrow/plan/optimizer_spec.h"
#include "furrow/plan/tensor_cut.h"
#include "furrow/plan/topology.h"

namespace furrow::plan {
namespace {

struct OwnKey {
  std::string_view name;
  std::optional<double> ParameterRule::* value;
  std::optional<double> below;
};
constexpr OwnKey kOwnKeys[] = {{"beta1", &ParameterRule::beta1, 1},
                               {"beta2", &ParameterRule::beta2, 1},
                               {"eps", &ParameterRule::eps, {}},
                               {"momentum", &ParameterRule::momentum, 1}};

bool has_key(const std::string& optimizer, std::string_view key) {
  const std::vector<std::string> keys = split(find_optimizer_spec(optimizer).keys, ' ');
  return std::ranges::find(keys, key) != keys.end();
}

// One entry of [optimizer] groups.
class Entry {
 public:
  Entry(const std::string& text, const config::Optimizer& optimizer) : text_(text), optimizer_(optimizer) {
    for (const std::string& word : split(text, ' ')) {
      if (!word.empty()) words_.push_back(word);
    }
    if (words_.size() < 2) fail("write \"PATTERN key=value ...\"");
  }

  void apply(ModelSpec* spec) const {
    bool found = false;
    std::vector<std::string> names;
    for (Unit& unit : spec->units) {
      for (Parameter& parameter : unit.parameters) {
        const bool matches = fnmatch(words_[0].c_str(), parameter.name.c_str(), 0) == 0;
        if (parameter.tied() && matches && words_[0] == parameter.name)
          fail(fmt::format("{} is tied to {}: name that one", parameter.name, parameter.tied_to));
        if (parameter.tied()) continue;
        names.push_back(parameter.name);
        if (matches) set(parameter.name, &parameter.rule);
        found = found || matches;
      }
    }
    if (!found) fail("it matches no parameter; " + unknown_name_message("parameter", words_[0], names));
  }

 private:
  [[noreturn]] void fail(const std::string& message) const {
    throw Error(ErrorCode::kInvalidArgument, fmt::format("[optimizer] groups: '{}': {}", text_, message));
  }

  // Of at least 0 and, where `below` says so, below that.
  double number(const std::string& key, const std::string& text, std::optional<double> below = {}) const {
    double value = 0;
    if (!parse_double(text, value) || !(value >= 0) || !std::isfinite(value) || (below && value >= *below))
      fail(fmt::format("{} = {} is no number of at least 0{}", key, text,
                       below ? fmt::format(" and below {}", *below) : ""));
    return value;
  }

  const std::string& optimizer_of(const ParameterRule& rule) const {
    return rule.optimizer.empty() ? optimizer_.name : rule.optimizer;
  }

  // A key that not every optimizer has; false: there is no such key.
  bool set_own(const std::string& key, const std::string& value, const std::string& parameter,
               ParameterRule* rule) const {
    for (const OwnKey& own : kOwnKeys) {
      if (own.name != key) continue;
      const std::string& optimizer = optimizer_of(*rule);
      if (!has_key(optimizer, key)) {
        fail(rule->optimizer.empty()
                 ? fmt::format("optimizer.name = {} has no {}: leave it out", optimizer, key)
                 : fmt::format("{} is stepped by {}, which has no {}: leave it out, or out of this entry",
                               parameter, optimizer, key));
      }
      rule->*own.value = number(key, value, own.below);
      return true;
    }
    return false;
  }

  // Another optimizer; what earlier entries say has to be of a kind that it has.
  void set_optimizer(const std::string& name, const std::string& parameter, ParameterRule* rule) const {
    try {
      rule->optimizer = find_optimizer_spec(name).name;
    } catch (const Error& error) {
      fail(error.message());
    }
    for (const OwnKey& own : kOwnKeys) {
      if ((rule->*own.value).has_value() && !has_key(name, own.name))
        fail(fmt::format("{} has no {}, which an earlier entry sets for {}: leave one of them out", name,
                         own.name, parameter));
    }
  }

  void set(const std::string& parameter, ParameterRule* rule) const {
    for (size_t i = 1; i < words_.size(); ++i) {
      if (words_[i].starts_with("name=")) set_optimizer(words_[i].substr(5), parameter, rule);
    }
    for (size_t i = 1; i < words_.size(); ++i) {
      const size_t equals = words_[i].find('=');
      const std::string key = words_[i].substr(0, equals);
      const std::string value = equals == std::string::npos ? "" : words_[i].substr(equals + 1);
      if (key == "name") {
        if (equals == std::string::npos) fail("name is an optimizer: write name=adamw");
      } else if (key == "lr") {
        rule->lr_scale = number(key, value) / optimizer_.lr;
        if (!std::isfinite(rule->lr_scale))
          fail(fmt::format("lr = {} is too far above optimizer.lr = {}", value, optimizer_.lr));
      } else if (key == "weight_decay") {
        rule->weight_decay = number(key, value);
      } else if (key == "frozen") {
        if (value != "true" && value != "false") fail(fmt::format("frozen = {} is not true or false", value));
        rule->frozen = value == "true";
      } else if (!set_own(key, value, parameter, rule)) {
        const std::vector<std::string> known = {"beta1", "beta2",    "eps",  "frozen",
                                                "lr",    "momentum", "name", "weight_decay"};
        fail(unknown_name_message("key", key, known));
      }
    }
  }

  const std::string& text_;
  const config::Optimizer& optimizer_;
  std::vector<std::string> words_;
};

// Of what gradients of weights read, what backward_input makes.
int64_t made_bytes(const Unit& unit) {
  return unit.deferred_bytes - unit.kept_saved_bytes - unit.kept_grad_bytes;
}

// Backward of weights costs as much as there is of them in the products, and a unit that trains none of its
// own keeps nothing for it but what its adapters do; the rest goes when the input has its gradient.
void leave_out_frozen(Unit* unit) {
  const auto still = [](const Parameter& parameter) { return parameter.rule.frozen || parameter.borrowed; };
  int64_t all = 0, trained = 0;
  bool trains = false;
  for (const Parameter& parameter : unit->parameters) {
    trains = trains || (!still(parameter) && !parameter.adapter);
    if (parameter.shape.size() < 2) continue;
    all += parameter.size();
    trained += still(parameter) ? 0 : parameter.size();
  }
  if (all > 0) unit->flops.backward_weight *= static_cast<double>(trained) / static_cast<double>(all);
  declare_gradient_sum(unit);
  if (trains) return;
  const int64_t before = made_bytes(*unit);
  unit->deferred_bytes = unit->kept_saved_bytes = unit->kept_grad_bytes = 0;
  unit->tensor.whole_deferred_bytes = 0;
  for (const Adapter& adapter : unit->adapters) {
    if (still(unit->parameters[adapter.a]) && still(unit->parameters[adapter.b])) continue;
    unit->deferred_bytes += adapter.deferred_bytes;
    unit->kept_saved_bytes += adapter.kept_saved_bytes;
    unit->kept_grad_bytes += adapter.kept_grad_bytes;
    unit->tensor.whole_deferred_bytes += adapter.whole_deferred_bytes;
  }
  unit->backward_scratch.sample_bytes += before - made_bytes(*unit);
}

// Of a run of several optimizers every parameter names its own, of others none.
void name_optimizers(const config::Optimizer& optimizer, ModelSpec* spec) {
  const bool several = optimizers_of(optimizer).size() > 1;
  for (Unit& unit : spec->units) {
    for (Parameter& parameter : unit.parameters) {
      std::string& name = parameter.rule.optimizer;
      if (!several) name.clear();
      if (several && name.empty()) name = optimizer.name;
    }
  }
}

bool steps_whole(const std::string& optimizer, const ModelSpec& spec, size_t unit,
                 const Parameter& parameter) {
  const StepNeeds needs = find_optimizer_spec(optimizer).needs;
  return needs == StepNeeds::kParameters ||
         (needs == StepNeeds::kMatrices && is_hidden_matrix(spec, unit, parameter));
}

// Tied parameters follow their owners.
void follow_owners(ModelSpec* spec) {
  std::map<std::string, ParameterRule> rules;
  for (Unit& unit : spec->units) {
    for (Parameter& parameter : unit.parameters) {
      if (parameter.tied()) parameter.rule = rules[parameter.tied_to];
      rules[parameter.name] = parameter.rule;
    }
  }
}

}  // namespace

bool is_hidden_matrix(const ModelSpec& spec, size_t unit, const Parameter& parameter) {
  const std::vector<Head> heads = heads_of(spec);
  const bool last = std::any_of(heads.begin(), heads.end(),
                                [&](const Head& head) { return head.unit == static_cast<int32_t>(unit); });
  return parameter.shape.size() >= 2 && is_number(spec.units[unit].input.dtype) && !last;
}

void apply_optimizer(const config::Optimizer& optimizer, ModelSpec* spec) {
  for (const std::string& text : optimizer.groups) Entry(text, optimizer).apply(spec);
  name_optimizers(optimizer, spec);
  follow_owners(spec);
  for (const std::string& name : optimizers_of(optimizer)) {
    if (find_optimizer_spec(name).needs == StepNeeds::kBlocks) spec->alignment = kStateBlock;
  }
  for (size_t u = 0; u < spec->units.size(); ++u) {
    leave_out_frozen(&spec->units[u]);
    for (Parameter& parameter : spec->units[u].parameters) {
      const std::string& own = parameter.rule.optimizer;
      parameter.whole = !parameter.rule.frozen && !parameter.tied() &&
                        steps_whole(own.empty() ? optimizer.name : own, *spec, u, parameter);
    }
  }
}

}  // namespace furrow::plan
