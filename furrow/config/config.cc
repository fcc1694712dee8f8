#include "furrow/config/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/text.h"
#include "furrow/config/schema.h"
#include "furrow/config/toml.h"

namespace furrow::config {
namespace {

constexpr uint64_t kMaxFileBytes = 1 << 20;

void assign(Config& config, const Field& field, const Value& value, const Origin& origin,
            const std::string& context) {
  field.set(config, accept_value(field, value, context));
  config.origins[field.name()] = origin;
}

// Keys of torchtitan whose work is done here without one.
struct Foreign {
  std::string_view section, key, instead;
};
constexpr Foreign kForeign[] = {
    {"comm", "trace_buf_size",
     "furrow keeps no trace of collectives to set the size of: an error of any rank names every rank's last "
     "operation by itself. Leave it out"},
};

const Field& known_field(std::string_view section, std::string_view key, const std::string& context) {
  for (const Foreign& foreign : kForeign) {
    if (foreign.section != section || foreign.key != key) continue;
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}{}.{}: {}", context, section, key, foreign.instead));
  }
  return require_field(schema(), section, key, context);
}

void apply(Config& config, const Assignment& assignment, const std::string& file_name) {
  const std::string context = fmt::format("{}:{}: ", file_name, assignment.line);
  if (assignment.key.empty()) return require_section(schema(), assignment.section, context);
  const Field& field = known_field(assignment.section, assignment.key, context);
  assign(config, field, value_for(field, assignment, context), {file_name, assignment.line}, context);
}

// A word of the command line as the type of the key.
Value value_of_word(const Field& field, std::string_view word, const std::string& context) {
  const Value& wanted = field.default_value;
  int64_t integer = 0;
  double number = 0;
  if (std::holds_alternative<std::string>(wanted)) return std::string(word);
  if (std::holds_alternative<bool>(wanted) && (word == "true" || word == "false")) return word == "true";
  if (std::holds_alternative<int64_t>(wanted) && parse_int(word, integer)) return integer;
  if (std::holds_alternative<double>(wanted) && parse_double(word, number)) return number;
  if (wanted.index() < 4) refuse_type(field, fmt::format("'{}'", word), context);

  std::string_view list = trim(word);  // [a, b] or a,b
  if (list.starts_with('[') && list.ends_with(']')) list = list.substr(1, list.size() - 2);
  std::vector<std::string> texts;
  std::vector<int64_t> integers;
  std::vector<double> numbers;
  for (const std::string& part : trim(list).empty() ? std::vector<std::string>{} : split(list, ',')) {
    std::string_view item = trim(part);
    if (item.size() >= 2 && item.front() == '"' && item.back() == '"') item = item.substr(1, item.size() - 2);
    texts.emplace_back(item);
    if (parse_int(item, integer)) integers.push_back(integer);
    if (parse_double(item, number)) numbers.push_back(number);
  }
  if (std::holds_alternative<std::vector<std::string>>(wanted)) return texts;
  const bool whole = std::holds_alternative<std::vector<int64_t>>(wanted);
  if (!whole && numbers.size() == texts.size()) return numbers;
  if (!whole || integers.size() != texts.size()) refuse_type(field, fmt::format("'{}'", word), context);
  return integers;
}

// One override, spread over one or two words.
struct Override {
  std::string name;
  std::string value;
};

bool is_boolean(std::string_view name) {
  const Field* field = find_field(name);
  return field != nullptr && std::holds_alternative<bool>(field->default_value);
}

// Reads the override that starts at words[index]; `index` moves past it.
Override read_override(const std::vector<std::string>& words, size_t& index) {
  const std::string& word = words[index++];
  const size_t equals = word.find('=');
  std::string name = word.substr(2, equals == std::string::npos ? equals : equals - 2);
  if (equals != std::string::npos) return {std::move(name), word.substr(equals + 1)};
  const bool has_next = index < words.size() && !words[index].starts_with("--");
  if (is_boolean(name) && !(has_next && (words[index] == "true" || words[index] == "false"))) {
    return {std::move(name), "true"};
  }
  if (!has_next) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("command line: --{} needs a value: write --{} VALUE", name, name));
  }
  return {std::move(name), words[index++]};
}

// A number of steps on the command line replaces the epochs of the file, and the other way round.
void settle_length(Config& config) {
  const auto from_command_line = [&](std::string_view name) {
    const auto found = config.origins.find(name);
    return found != config.origins.end() && found->second.line == 0;
  };
  const bool steps = from_command_line("training.steps") && config.training.steps > 0;
  const bool epochs = from_command_line("training.epochs") && config.training.epochs > 0;
  if (steps && !epochs) config.training.epochs = 0;
  if (epochs && !steps) config.training.steps = 0;
}

}  // namespace

Config parse(std::string_view text, const std::string& file_name, const std::vector<std::string>& overrides) {
  Config config;
  for (const Assignment& assignment : read_toml(text, file_name)) apply(config, assignment, file_name);
  for (size_t index = 0; index < overrides.size();) {
    if (!is_override(overrides[index])) {
      throw Error(
          ErrorCode::kInvalidArgument,
          fmt::format("command line: '{}' is no setting: write --section.key VALUE", overrides[index]));
    }
    const Override item = read_override(overrides, index);
    set(config, item.name, item.value);
  }
  settle_length(config);
  validate(config);
  return config;
}

namespace {

std::string remedy_for_folder(const std::string& path) {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(path))
    if (entry.path().extension() == ".toml") files.push_back(entry.path().string());
  if (files.empty()) return "name a .toml file";
  return "name a file in it, such as " + *std::ranges::min_element(files);
}

}  // namespace

Config load(const std::string& path, const std::vector<std::string>& overrides) {
  if (std::filesystem::is_directory(path)) {
    throw Error(ErrorCode::kNotFound,
                fmt::format("{} is a folder, neither a config file nor a run (it has no config.toml): {}",
                            path, remedy_for_folder(path)));
  }
  return parse(read_file(path, kMaxFileBytes), path, overrides);
}

void set(Config& config, std::string_view name, std::string_view value) {
  const std::string context = "command line: ";
  const size_t dot = name.find('.');
  const std::string_view key = dot == std::string_view::npos ? "" : name.substr(dot + 1);
  const Field& field = known_field(name.substr(0, dot), key, context);
  assign(config, field, value_of_word(field, value, context), {"command line", 0}, context);
}

bool is_override(std::string_view word) {
  return word.starts_with("--") && word.substr(0, word.find('=')).find('.') != std::string_view::npos;
}

std::vector<std::string> take_overrides(std::vector<std::string>& words) {
  std::vector<std::string> taken, rest;
  for (size_t index = 0; index < words.size();) {
    if (!is_override(words[index])) {
      rest.push_back(words[index++]);
      continue;
    }
    const Override item = read_override(words, index);
    taken.push_back("--" + item.name + "=" + item.value);
  }
  words = std::move(rest);
  return taken;
}

bool operator==(const Config& a, const Config& b) {
  for (const Section& section : schema()) {
    for (const Field& field : section.fields) {
      if (field.get(a) != field.get(b)) return false;
    }
  }
  return true;
}

std::string section_toml(const Config& config, std::string_view name) {
  std::string text;
  for (const Section& section : schema()) {
    if (section.name != name) continue;
    for (const Field& field : section.fields) {
      text += fmt::format("{} = {}\n", field.key, to_toml(field.get(config)));
    }
  }
  return text;
}

std::string to_toml(const Config& config) {
  std::string text;
  for (const Section& section : schema()) {
    text +=
        fmt::format("{}[{}]\n{}", text.empty() ? "" : "\n", section.name, section_toml(config, section.name));
  }
  return text;
}

std::string where(const Config& config, std::string_view name) {
  const auto found = config.origins.find(name);
  if (found == config.origins.end()) return "";
  const Origin& origin = found->second;
  return origin.line == 0 ? origin.file + ": " : fmt::format("{}:{}: ", origin.file, origin.line);
}

}  // namespace furrow::config
