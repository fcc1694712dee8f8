#include "furrow/config/cluster.h"

#include <fmt/format.h>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/text.h"
#include "furrow/config/schema.h"
#include "furrow/config/toml.h"

namespace furrow::config {
namespace {

constexpr uint64_t kMaxFileBytes = 1 << 20;

const std::vector<SectionOf<ClusterFile>>& cluster_schema() {
  static const std::vector<SectionOf<ClusterFile>> sections = make_schema<ClusterFile>();
  return sections;
}

void apply(ClusterFile& file, const Assignment& assignment) {
  const std::string context = fmt::format("{}:{}: ", file.path, assignment.line);
  if (assignment.key.empty()) return require_section(cluster_schema(), assignment.section, context);
  const auto& field = require_field(cluster_schema(), assignment.section, assignment.key, context);
  field.set(file, accept_value(field, value_for(field, assignment, context), context));
  file.origins[field.name()] = {file.path, assignment.line};
}

void require(bool holds, const ClusterFile& file, std::string_view key, const std::string& message) {
  if (!holds) throw Error(ErrorCode::kInvalidArgument, where(file, key) + message);
}

void check_wires(const ClusterFile& file, const std::string& section, const ClusterWires& wires) {
  const std::string leaf = section + ".ports_per_leaf", above = section + ".oversubscription";
  const bool tree = wires.topology == "tree";
  require(!tree || wires.ports_per_leaf > 0, file, leaf,
          fmt::format("{} is missing: a tree has so many ports on each leaf switch", leaf));
  require(tree || wires.ports_per_leaf == 0, file, leaf,
          fmt::format("{} has no effect without {}.topology = \"tree\"", leaf, section));
  require(tree || wires.oversubscription == 1, file, above,
          fmt::format("{} has no effect without {}.topology = \"tree\"", above, section));
}

}  // namespace

ClusterFile parse_cluster(std::string_view text, const std::string& file_name) {
  ClusterFile file;
  file.path = file_name;
  for (const Assignment& assignment : read_toml(text, file_name)) apply(file, assignment);
  require(!file.device.name.empty(), file, "device.name",
          "device.name is missing: write [device] and the name of a preset or of your own");
  require(
      file.hosts.devices == 1 || !file.links.name.empty(), file, "links.name",
      fmt::format("links.name is missing: {} devices of a host need wires between them", file.hosts.devices));
  require(file.hosts.count == 1 || !file.network.name.empty(), file, "network.name",
          fmt::format("network.name is missing: {} hosts need a network", file.hosts.count));
  check_wires(file, "links", file.links);
  check_wires(file, "network", file.network);
  return file;
}

ClusterFile load_cluster(const std::string& path) {
  return parse_cluster(read_file(path, kMaxFileBytes), path);
}

bool operator==(const ClusterFile& a, const ClusterFile& b) {
  for (const auto& section : cluster_schema()) {
    for (const auto& field : section.fields) {
      if (field.get(a) != field.get(b)) return false;
    }
  }
  return true;
}

std::string to_toml(const ClusterFile& file) {
  std::string text;
  for (const auto& section : cluster_schema()) {
    text += fmt::format("{}[{}]\n", text.empty() ? "" : "\n", section.name);
    for (const auto& field : section.fields)
      text += fmt::format("{} = {}\n", field.key, to_toml(field.get(file)));
  }
  return text;
}

std::string where(const ClusterFile& file, std::string_view name) {
  const auto found = file.origins.find(name);
  if (found == file.origins.end()) return file.path + ": ";
  return fmt::format("{}:{}: ", found->second.file, found->second.line);
}

std::string cluster_reference() {
  std::string text = "| key | default | what |\n|---|---|---|\n";
  for (const auto& section : cluster_schema()) {
    for (const auto& field : section.fields) {
      text +=
          fmt::format("| `{}` | `{}` | {} |\n", field.name(), to_toml(field.default_value), field.spec.doc);
    }
  }
  return text;
}

}  // namespace furrow::config
