#include "furrow/plan/cluster.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/config/cluster.h"

namespace furrow::plan {
namespace {

constexpr double kGibibyte = 1 << 30;
constexpr int64_t kInlineBytes = 16 * 1024;  // comm::CommunicatorOptions

// Sections of the file on top of presets.
class Reader {
 public:
  explicit Reader(const config::ClusterFile& file) : file_(file) {}

  DeviceSpec device() const {
    const config::ClusterDevice& given = file_.device;
    const bool custom = given.f32_tflops > 0 && given.memory_gib > 0 && given.memory_gb_per_second > 0 &&
                        given.efficiency > 0 && given.kind != "preset";
    DeviceSpec device;
    device.name = given.name;
    device.source = file_.path;
    if (!custom) device = preset(device_table(), given.name, "device", kDeviceFigures);
    if (given.kind != "preset") device.kind = static_cast<DeviceKind>(index_of(kDeviceKindNames, given.kind));
    take(given.f32_tflops * 1e12, &device.f32_flops);
    take(given.half_tflops * 1e12, &device.half_flops);
    take(given.memory_gb_per_second * 1e9, &device.memory_bytes_per_second);
    take(given.host_gb_per_second * 1e9, &device.host_bytes_per_second);
    take(given.efficiency, &device.efficiency);
    if (given.memory_gib > 0) device.memory_bytes = static_cast<int64_t>(given.memory_gib * kGibibyte);
    if (given.overhead_us >= 0) device.overhead_s = given.overhead_us * 1e-6;
    if (device.half_flops == 0) device.half_flops = device.f32_flops;
    return device;
  }

  LinkSpec wires(const config::ClusterWires& given, const std::string& section) const {
    LinkSpec link;
    if (given.name.empty()) return link;
    link.name = given.name;
    link.source = file_.path;
    const bool custom = given.gb_per_second > 0 && given.latency_us >= 0;
    if (!custom) link = preset(link_table(), given.name, section, "gb_per_second and latency_us");
    take(given.gb_per_second * 1e9, &link.bytes_per_second);
    if (given.latency_us >= 0) link.latency_s = given.latency_us * 1e-6;
    if (given.ports > 0) link.ports = static_cast<int>(given.ports);
    if (given.topology != "preset")
      link.topology = static_cast<Topology>(index_of(kTopologyNames, given.topology));
    link.ports_per_leaf = static_cast<int>(given.ports_per_leaf);
    link.oversubscription = given.oversubscription;
    return link;
  }

 private:
  static constexpr const char* kDeviceFigures =
      "kind, f32_tflops, memory_gib, memory_gb_per_second and efficiency";

  static void take(double given, double* figure) {
    if (given > 0) *figure = given;
  }

  template <size_t N>
  static size_t index_of(const std::array<std::string_view, N>& names, std::string_view name) {
    const auto found = std::ranges::find(names, name);
    FURROW_CHECK(found != names.end(), "a choice of the schema is not in the table");
    return static_cast<size_t>(found - names.begin());
  }

  template <class Row>
  Row preset(std::span<const Row> table, const std::string& name, const std::string& section,
             const std::string& figures) const {
    std::vector<std::string> known;
    for (const Row& row : table) {
      if (row.name == name) return row;
      known.push_back(row.name);
    }
    const std::string key = section + ".name";
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}{}; one of your own needs {}", config::where(file_, key),
                            unknown_name_message(key, name, known), figures));
  }

  const config::ClusterFile& file_;
};

}  // namespace

Cluster cluster_from(const config::ClusterFile& file) {
  const Reader reader(file);
  Cluster cluster;
  cluster.name = file.cluster.name;
  if (cluster.name.empty()) cluster.name = std::filesystem::path(file.path).stem().string();
  cluster.hosts = static_cast<int>(file.hosts.count);
  cluster.devices = static_cast<int>(file.hosts.devices);
  cluster.device = reader.device();
  cluster.inside = reader.wires(file.links, "links");
  cluster.network = reader.wires(file.network, "network");
  cluster.price = {file.price.on_demand_per_host_hour, file.price.spot_per_host_hour, file.price.currency};
  const bool cores = cluster.device.kind == DeviceKind::kCpu;
  cluster.inline_inside = cores;
  cluster.inline_bytes = cores ? kInlineBytes : 0;
  return cluster;
}

Cluster local_cluster(const LocalMachine& machine, int ranks) {
  FURROW_CHECK(ranks >= 1 && machine.cores >= 1, "a machine has a core, a world a rank");
  Cluster cluster;
  cluster.name = "local";
  cluster.devices = ranks;
  cluster.device = find_device(machine.avx512 ? "cpu-core-avx512" : "cpu-core-avx2");
  const int threads = std::max(1, machine.cores / ranks);
  // More ranks than cores take turns.
  const double cores = ranks > machine.cores ? static_cast<double>(machine.cores) / ranks : threads;
  cluster.device.threads = threads;
  cluster.device.f32_flops *= cores;
  cluster.device.half_flops *= cores;
  cluster.device.memory_bytes_per_second *= cores;
  cluster.device.memory_bytes = machine.memory_bytes / ranks;
  cluster.inside = find_link("shared-memory");
  cluster.inline_inside = threads == 1;
  cluster.inline_bytes = kInlineBytes;
  return cluster;
}

}  // namespace furrow::plan
