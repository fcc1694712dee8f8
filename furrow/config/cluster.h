// A cluster file: hosts, devices, links, a price.  plan::cluster_from makes the cluster of it that programs
// are costed on.  docs/formats/cluster.md.
//
//   config::ClusterFile file = config::load_cluster("examples/clusters/8xh100.toml");
//
// The same machinery as Config: declared once, unknown keys name the nearest, every value knows its line.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "furrow/config/config.h"
#include "furrow/config/field.h"

namespace furrow::config {

struct ClusterHead {
  std::string name;

  template <class V>
  static void fields(V& v) {
    v("name", &ClusterHead::name, {.doc = "What tables call it; empty: the name of the file."});
  }
};

struct ClusterHosts {
  int64_t count = 1;
  int64_t devices = 1;

  template <class V>
  static void fields(V& v) {
    v("count", &ClusterHosts::count, {.min = 1, .max = 1 << 16, .doc = "Machines."});
    v("devices", &ClusterHosts::devices,
      {.min = 1, .max = 1 << 10, .doc = "Devices of each, one rank a device."});
  }
};

struct ClusterDevice {
  std::string name;
  std::string kind = "preset";
  double f32_tflops = 0;
  double half_tflops = 0;
  double memory_gib = 0;
  double memory_gb_per_second = 0;
  double efficiency = 0;
  double overhead_us = -1;
  double host_gb_per_second = 0;

  template <class V>
  static void fields(V& v) {
    const auto figure = [](std::string_view doc) { return FieldSpec{.min = 0, .max = 1e9, .doc = doc}; };
    v("name", &ClusterDevice::name, {.doc = "A preset, or a name of your own with all figures."});
    v("kind", &ClusterDevice::kind,
      {.choices = "preset|cpu|gpu|tpu|other", .doc = "What it is; preset: as the preset says."});
    v("f32_tflops", &ClusterDevice::f32_tflops,
      figure("Peak of dense float32 matrix products, 10^12 a second. 0 here and below: the preset's."));
    v("half_tflops", &ClusterDevice::half_tflops, figure("The same in bfloat16."));
    v("memory_gib", &ClusterDevice::memory_gib, figure("Its memory, in GiB."));
    v("memory_gb_per_second", &ClusterDevice::memory_gb_per_second,
      figure("Rate of that memory, 10^9 bytes a second."));
    v("efficiency", &ClusterDevice::efficiency,
      {.min = 0, .max = 1, .doc = "Share of the peak that large matrix products reach."});
    v("overhead_us", &ClusterDevice::overhead_us,
      {.min = -1,
       .max = 1e6,
       .doc = "What every instruction takes besides its work, microseconds. -1: the preset's."});
    v("host_gb_per_second", &ClusterDevice::host_gb_per_second,
      figure("To or from the host's memory, one way, 10^9 bytes a second."));
  }
};

// Wires of one level.
struct ClusterWires {
  std::string name;
  int64_t ports = 0;
  double gb_per_second = 0;
  double latency_us = -1;
  std::string topology = "preset";
  int64_t ports_per_leaf = 0;
  double oversubscription = 1;

  template <class V>
  static void fields(V& v) {
    v("name", &ClusterWires::name, {.doc = "A preset, or a name of your own with all figures."});
    v("ports", &ClusterWires::ports,
      {.min = 0, .max = 1024, .doc = "Of each device or host. 0: as the preset says, else 1."});
    v("gb_per_second", &ClusterWires::gb_per_second,
      {.min = 0, .max = 1e6, .doc = "Of one port, in each direction, 10^9 bytes a second. 0: the preset's."});
    v("latency_us", &ClusterWires::latency_us,
      {.min = -1, .max = 1e7, .doc = "Of a message, one way, microseconds. -1: the preset's."});
    v("topology", &ClusterWires::topology,
      {.choices = "preset|switch|star|ring|mesh|tree",
       .doc = "switch: any to any at full rate; star: one medium for all; ring: two neighbours each; mesh: a "
              "wire to each other; tree: leaf switches, less rate above them."});
    v("ports_per_leaf", &ClusterWires::ports_per_leaf,
      {.min = 0, .max = 1 << 16, .doc = "Of a tree: how many hosts or devices a leaf switch has."});
    v("oversubscription", &ClusterWires::oversubscription,
      {.min = 1, .max = 1024, .doc = "Of a tree: rate below a leaf over rate above it."});
  }
};

struct ClusterPrice {
  double on_demand_per_host_hour = 0;
  double spot_per_host_hour = 0;
  std::string currency = "USD";

  template <class V>
  static void fields(V& v) {
    v("on_demand_per_host_hour", &ClusterPrice::on_demand_per_host_hour,
      {.min = 0, .max = 1e9, .doc = "Of one host. 0: unknown, and no costs are shown."});
    v("spot_per_host_hour", &ClusterPrice::spot_per_host_hour,
      {.min = 0, .max = 1e9, .doc = "The same where it may be taken away. 0: unknown."});
    v("currency", &ClusterPrice::currency, {.doc = "What the prices are in."});
  }
};

struct ClusterFile {
  ClusterHead cluster;
  ClusterHosts hosts;
  ClusterDevice device;
  ClusterWires links;
  ClusterWires network;
  ClusterPrice price;

  std::string path;                                    // what the file is called in errors
  std::map<std::string, Origin, std::less<>> origins;  // "hosts.count" -> where

  template <class V>
  static void sections(V& v) {
    v("cluster", &ClusterFile::cluster, "What it is called.");
    v("hosts", &ClusterFile::hosts, "How many machines, with how many devices.");
    v("device", &ClusterFile::device, "What computes.");
    v("links", &ClusterFile::links, "Wires between the devices of a host.");
    v("network", &ClusterFile::network, "Wires between hosts.");
    v("price", &ClusterFile::price, "What an hour costs.");
  }
};
bool operator==(const ClusterFile& a, const ClusterFile& b);  // of the values

// Error{invalid_argument} names file, line, key and the nearest valid one; Error{not_found} names the file.
ClusterFile load_cluster(const std::string& path);
ClusterFile parse_cluster(std::string_view text, const std::string& file_name);

// Every key; parse_cluster(to_toml(c)) == c.
std::string to_toml(const ClusterFile& file);

// "8xh100.toml:12: " in front of a message about `name` ("hosts.count"); the file alone for a default.
std::string where(const ClusterFile& file, std::string_view name);

// The keys, as a table in Markdown: docs/formats/cluster.md holds it.
std::string cluster_reference();

}  // namespace furrow::config
