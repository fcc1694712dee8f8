// model.toml as text.  The only user of toml++ in this module.
#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>
#include <string>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/storage/artefact.h"

namespace furrow::storage {
namespace {

constexpr std::string_view kFormat = "furrow-artefact";
constexpr int64_t kVersion = 1;

[[noreturn]] void damaged(const std::string& message) { throw Error(ErrorCode::kDataLoss, message); }

toml::table parse_table(std::string_view text) {
  try {
    return toml::parse(text);
  } catch (const toml::parse_error& error) {
    damaged(fmt::format("line {}: not TOML: {}", error.source().begin.line, error.description()));
  }
}

void append_ports(std::string& text, std::string_view key, const std::vector<TensorPort>& ports) {
  for (const TensorPort& port : ports) {
    text += fmt::format("\n[[{}]]\nname = {}\ndtype = {}\nshape = {}\n", key, json_quote(port.name),
                        json_quote(to_string(port.dtype)), to_string(port.shape));
  }
}

void append_table(std::string& text, std::string_view name,
                  const std::map<std::string, std::string>& entries) {
  text += fmt::format("\n[{}]\n", name);
  for (const auto& [key, value] : entries)
    text += fmt::format("{} = {}\n", json_quote(key), json_quote(value));
}

const toml::node& require(const toml::table& table, std::string_view key) {
  const toml::node* node = table.get(key);
  if (node == nullptr) damaged(fmt::format("'{}' is missing", key));
  return *node;
}

std::string read_string(const toml::node& node, std::string_view key) {
  const auto text = node.value_exact<std::string>();
  if (!text) damaged(fmt::format("'{}' must be a string", key));
  return *text;
}

const toml::table& read_table(const toml::table& root, std::string_view key) {
  const toml::table* table = require(root, key).as_table();
  if (table == nullptr) damaged(fmt::format("'{}' must be a table", key));
  return *table;
}

std::map<std::string, std::string> read_strings(const toml::table& root, std::string_view name) {
  std::map<std::string, std::string> entries;
  for (const auto& [key, value] : read_table(root, name)) {
    entries[std::string(key.str())] = read_string(value, key.str());
  }
  return entries;
}

DType read_dtype(const std::string& name) {
  try {
    return parse_dtype(name);
  } catch (const Error& error) {
    damaged(error.message());
  }
}

TensorPort read_port(const toml::node& node) {
  const toml::table* table = node.as_table();
  if (table == nullptr) damaged("a port must be a table");
  TensorPort port{.name = read_string(require(*table, "name"), "name"),
                  .dtype = read_dtype(read_string(require(*table, "dtype"), "dtype")),
                  .shape = {}};
  const toml::array* shape = require(*table, "shape").as_array();
  if (shape == nullptr) damaged("the shape of a port must be a list");
  for (const toml::node& dim : *shape) {
    const auto size = dim.value_exact<int64_t>();
    if (!size || *size < -1)
      damaged(fmt::format("port '{}' has a dim that is neither a size nor -1", port.name));
    port.shape.push_back(*size);
  }
  return port;
}

std::vector<TensorPort> read_ports(const toml::table& root, std::string_view key) {
  const toml::array* list = require(root, key).as_array();
  if (list == nullptr) damaged(fmt::format("'{}' must be a list", key));
  std::vector<TensorPort> ports;
  for (const toml::node& node : *list) ports.push_back(read_port(node));
  return ports;
}

// A scalar or a list of values as TOML.
std::string value_text(const toml::node& node) {
  if (const auto truth = node.value_exact<bool>()) return *truth ? "true" : "false";
  if (const auto integer = node.value_exact<int64_t>()) return std::to_string(*integer);
  if (const auto text = node.value_exact<std::string>()) return json_quote(*text);
  if (const auto number = node.value_exact<double>()) {
    const std::string digits = format_double(*number);
    return digits.find_first_of(".en") == std::string::npos ? digits + ".0" : digits;
  }
  const toml::array* list = node.as_array();
  if (list == nullptr) damaged("a value under [model] must be a scalar or a list");
  std::vector<std::string> elements;
  for (const toml::node& element : *list) elements.push_back(value_text(element));
  return fmt::format("[{}]", fmt::join(elements, ", "));
}

// One "key = value" line per entry, in the order of the text.
std::string table_lines(const toml::table& table) {
  std::vector<std::pair<toml::source_position, std::string>> lines;
  for (const auto& [key, value] : table) {
    const bool bare = std::all_of(key.str().begin(), key.str().end(), [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
             c == '-';
    });
    const std::string name = bare && !key.str().empty() ? std::string(key.str()) : json_quote(key.str());
    lines.emplace_back(key.source().begin, fmt::format("{} = {}\n", name, value_text(value)));
  }
  std::stable_sort(lines.begin(), lines.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::string text;
  for (const auto& [position, line] : lines) text += line;
  return text;
}

// The lines of `model`, checked and in one spelling, so that writing what was read gives the same text.
std::string checked_model(const std::string& model) {
  try {
    return table_lines(parse_table(model));
  } catch (const Error& error) {
    throw Error(ErrorCode::kInvalidArgument, "the [model] table of an artefact: " + error.message());
  }
}

Hash128 read_digest(const std::string& text) {
  Hash128 digest;
  const bool good = text.size() == 32 && parse_hex(std::string_view(text).substr(0, 16), digest.high) &&
                    parse_hex(std::string_view(text).substr(16), digest.low);
  if (!good) damaged("the digest is not 32 hexadecimal digits");
  return digest;
}

void check_version(const toml::table& root) {
  if (read_string(require(root, "format"), "format") != kFormat)
    damaged("not the description of an artefact");
  const auto version = require(root, "version").value_exact<int64_t>();
  if (!version || *version < 1) damaged("'version' must be a whole number from 1 on");
  if (*version > kVersion) {
    throw Error(ErrorCode::kUnimplemented,
                fmt::format("the artefact has version {}, this furrow reads up to {}: use a newer furrow",
                            *version, kVersion));
  }
}

std::vector<std::string> read_labels(const toml::table& root) {
  const toml::array* list = require(root, "labels").as_array();
  if (list == nullptr) damaged("'labels' must be a list");
  std::vector<std::string> labels;
  for (const toml::node& label : *list) labels.push_back(read_string(label, "labels"));
  return labels;
}

}  // namespace

std::string to_toml(const Artefact& artefact) {
  std::vector<std::string> labels;
  for (const std::string& label : artefact.labels) labels.push_back(json_quote(label));
  std::string text = fmt::format(
      "format = \"{}\"\nversion = {}\narchitecture = {}\nlabels = [{}]\ndigest = \"{}\"\n", kFormat, kVersion,
      json_quote(artefact.architecture), join(labels, ", "), to_hex(artefact.digest));
  if (artefact.inputs.empty()) text += "inputs = []\n";
  if (artefact.outputs.empty()) text += "outputs = []\n";
  text += "\n[model]\n" + checked_model(artefact.model);
  append_ports(text, "inputs", artefact.inputs);
  append_ports(text, "outputs", artefact.outputs);
  append_table(text, "preprocessing", artefact.preprocessing);
  append_table(text, "lineage", artefact.lineage);
  return text;
}

Artefact parse_artefact(std::string_view text) {
  const toml::table root = parse_table(text);
  check_version(root);
  Artefact artefact;
  artefact.architecture = read_string(require(root, "architecture"), "architecture");
  artefact.model = table_lines(read_table(root, "model"));
  artefact.inputs = read_ports(root, "inputs");
  artefact.outputs = read_ports(root, "outputs");
  artefact.preprocessing = read_strings(root, "preprocessing");
  artefact.labels = read_labels(root);
  artefact.lineage = read_strings(root, "lineage");
  artefact.digest = read_digest(read_string(require(root, "digest"), "digest"));
  return artefact;
}

}  // namespace furrow::storage
