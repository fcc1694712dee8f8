#include <fmt/format.h>

#include <algorithm>

#include "apps/furrow/command.h"
#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/base/text.h"
#include "furrow/config/config.h"
#include "furrow/config/schema.h"

namespace furrow::app {
namespace {

[[noreturn]] void wrong_usage(const Command& command, const std::string& message) {
  throw Error(ErrorCode::kInvalidArgument, fmt::format("{}\nusage: {}", message, usage(command)));
}

// "; the configuration has --training.steps", where keys are called as the option is.
std::string keys_named(const Command& command, const std::string& option) {
  std::vector<std::string> keys;
  for (const config::Section& section : config::schema()) {
    for (const config::Field& field : section.fields) {
      if (command.takes_overrides && option == fmt::format("--{}", field.key))
        keys.push_back(fmt::format("--{}", field.name()));
    }
  }
  return keys.empty() ? "" : fmt::format("; the configuration has {}", join(keys, ", "));
}

const Option& find_option(const Command& command, const std::string& name) {
  std::vector<std::string> known;
  for (const Option& option : command.options) {
    if (option.name == name) return option;
    known.emplace_back(option.name);
  }
  const std::string keys = keys_named(command, name);
  if (known.empty())
    wrong_usage(command, fmt::format("`furrow {}` has no option {}{}", command.name, name, keys));
  wrong_usage(command, unknown_name_message("option", name, known) + keys);
}

// A value that is one of "a|b" must be one of those; upper case stands for anything.
void check_choice(const Command& command, const Option& option, const std::string& value) {
  if (std::any_of(option.value.begin(), option.value.end(), [](char c) { return c >= 'A' && c <= 'Z'; }))
    return;
  const auto known = split(option.value, '|');
  if (std::find(known.begin(), known.end(), value) != known.end()) return;
  wrong_usage(command, unknown_name_message(fmt::format("value of {}", option.name), value, known));
}

}  // namespace

std::string Arguments::get(std::string_view option, std::string_view otherwise) const {
  const auto found = options.find(option);
  return found == options.end() ? std::string(otherwise) : found->second;
}

Arguments parse_arguments(const Command& command, std::vector<std::string> words) {
  Arguments arguments;
  if (command.takes_overrides) arguments.overrides = config::take_overrides(words);
  for (size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (!word.starts_with("-") || word == "-") {
      arguments.positional.push_back(word);
      continue;
    }
    const size_t equals = word.find('=');
    const std::string name = word.substr(0, equals);
    const Option& option = find_option(command, name);
    if (option.value.empty()) {
      if (equals != std::string::npos) wrong_usage(command, fmt::format("{} takes no value", name));
      arguments.options[name] = "";
      continue;
    }
    const bool next = equals == std::string::npos;
    if (next && i + 1 == words.size())
      wrong_usage(command, fmt::format("{} needs a value: {}", name, option.value));
    const std::string value = next ? words[++i] : word.substr(equals + 1);
    check_choice(command, option, value);
    arguments.options[name] = value;
  }
  const size_t count = arguments.positional.size();
  if (count < command.min_positional)
    wrong_usage(command, fmt::format("`furrow {}` needs {}", command.name, command.arguments));
  if (count > command.max_positional) {
    wrong_usage(command,
                fmt::format("one word too many: '{}'", arguments.positional[command.max_positional]));
  }
  return arguments;
}

std::string usage(const Command& command) {
  std::string text = fmt::format("furrow {}", command.name);
  if (!command.arguments.empty()) text += fmt::format(" {}", command.arguments);
  for (const Option& option : command.options) {
    text += option.value.empty() ? fmt::format(" [{}]", option.name)
                                 : fmt::format(" [{} {}]", option.name, option.value);
  }
  if (command.takes_overrides) text += " [--section.key value ...]";
  return text;
}

}  // namespace furrow::app
