// What programs are costed on: hosts, their devices, the links inside a host and between hosts, a price.
//
// One kind of device and one kind of host.  Ranks fill the hosts in order, one rank a device, as launchers
// do: rank r is device r % devices of host r / devices.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/base/array.h"

namespace furrow::config {
struct ClusterFile;
}

namespace furrow::plan {

enum class DeviceKind : uint8_t { kCpu, kGpu, kTpu, kOther };
inline constexpr std::array<std::string_view, 4> kDeviceKindNames = {"cpu", "gpu", "tpu", "other"};

// One device, or one core of a CPU.  Peaks are dense ones; 0: has no arithmetic of that kind.
struct DeviceSpec {
  std::string name;  // "h100-sxm"
  DeviceKind kind = DeviceKind::kCpu;
  double f32_flops =
      0;  // per second, of float32 as the device multiplies matrices in it (tf32 where it does)
  double half_flops = 0;  // of bfloat16 and float16 (of a CPU: bfloat16)
  int64_t memory_bytes = 0;
  double memory_bytes_per_second = 0;
  double efficiency = 0;             // share of the peak that large matrix products reach
  double overhead_s = 0;             // of an instruction, besides its work
  double host_bytes_per_second = 0;  // to or from the host's memory, one way; 0: it is the host's
  std::string source = {};           // where the figures are from
  int threads = 1;                   // of a rank's kernels on a CPU

  double flops(DType dtype) const {
    if (kind == DeviceKind::kCpu && dtype == DType::kF16) return f32_flops;  // converted, then multiplied
    return dtype_size(dtype) == 2 ? half_flops : f32_flops;
  }
};

// How the ports of one level are connected.
enum class Topology : uint8_t {
  kSwitch,  // any port to any other at full rate
  kStar,    // one shared medium: all ports together have one port's rate (a bus, a host's memory)
  kRing,    // each port to its two neighbours
  kMesh,    // each port to each other, its rate cut in as many equal wires
  kTree,    // leaf switches of `ports_per_leaf`, above them `oversubscription` times less than below
};
inline constexpr std::array<std::string_view, 5> kTopologyNames = {"switch", "star", "ring", "mesh", "tree"};

// One level of wires: between the devices of a host, or between hosts.
struct LinkSpec {
  std::string name;             // "nvlink4"
  double bytes_per_second = 0;  // of one port, in each direction at once; what programs see of it
  double latency_s = 0;         // of a message, one way
  int ports = 1;                // of a device, or of a host
  Topology topology = Topology::kSwitch;
  int ports_per_leaf = 0;       // kTree
  double oversubscription = 1;  // kTree
  std::string source = {};

  double port_bytes_per_second() const { return bytes_per_second * ports; }
};

struct Price {
  double on_demand_per_host_hour = 0;  // 0: unknown
  double spot_per_host_hour = 0;
  std::string currency = "USD";
};

struct Cluster {
  std::string name;
  int hosts = 1;
  int devices = 1;  // of a host
  DeviceSpec device;
  LinkSpec inside;   // between the devices of a host
  LinkSpec network;  // between hosts
  Price price;
  double host_memory_bytes_per_second = 300e9;  // of a host, shared by its devices: two sockets of 8 channels
  // Communication that the thread that starts it carries out itself, so that nothing of it is hidden: all of
  // it inside a host (CPU cores that move and add the bytes), and messages of up to so many bytes anywhere.
  bool inline_inside = false;
  int64_t inline_bytes = 0;

  int world() const { return hosts * devices; }
  int host_of(int rank) const { return rank / devices; }
};

// Presets by name, in plan/device_table.cc and plan/link_table.cc, with their sources.
std::span<const DeviceSpec> device_table();
std::span<const LinkSpec> link_table();
const DeviceSpec& find_device(
    std::string_view name);                        // Error{invalid_argument}: unknown; lists the known ones
const LinkSpec& find_link(std::string_view name);  // the same

// Presets with what the file says on top.  Error{invalid_argument} names file, line and key.
Cluster cluster_from(const config::ClusterFile& file);

// This machine as a cluster of one host: a rank a core, or `ranks` of them if that is more.
struct LocalMachine {
  int cores = 1;
  int64_t memory_bytes = 0;
  bool avx512 = false;
};
Cluster local_cluster(const LocalMachine& machine, int ranks);

// What a collective moves.  Bytes are of the whole buffer, S: all slices together.
enum class Movement : uint8_t {
  kAllGather,      // every rank receives the slices of the others
  kReduceScatter,  // every rank receives the others' parts of its slice, and adds them
  kAllReduce,      // both
  kAllToAll,       // every rank receives an n-th of every other's S
  kTransfer,       // ranks[0] sends S to ranks[1]
};
std::string_view movement_name(Movement movement);  // "all_gather"

// A stretch of a movement: seconds that it takes alone on a resource, which it shares with what else is on it
// at that time.  Resources are numbered by `Fabric`; -1: none, it only takes time.
struct Leg {
  int32_t resource = -1;
  double seconds = 0;
  int64_t bytes = 0;  // that cross the resource, for the account of it
};

// A collective over `ranks` (of the world, in the order of the group) as legs of the busiest rank `self`, one
// after the other: inside hosts first (or last), then between hosts, each rank of a host with its share of
// the host's ports.  Rings where bytes count: Thakur, Rabenseifner, Gropp, "Optimization of Collective
// Communication Operations in MPICH", 2005; hierarchical: each level moves what the level below has reduced.
struct MovementCall {
  Movement movement = Movement::kAllGather;
  std::span<const int> ranks;
  int self = 0;  // rank of the world
  int64_t bytes = 0;
  int64_t messages = 1;  // back to back: latency counts for each
  // Groups like this one with members on self's host that move as much at the same time, this one included:
  // those that are not simulated by themselves.  They share the wires.
  int sharers = 1;
  std::string_view operation = {};  // of the program, which may have been measured by itself
};
std::vector<Leg> legs_of(const Cluster& cluster, const MovementCall& call);
double seconds_of(std::span<const Leg> legs);  // alone

// Numbers of resources: what a rank sends inside its host, and what its host sends and receives over its
// network ports.
int32_t inside_resource(const Cluster& cluster, int rank);
int32_t network_resource(const Cluster& cluster, int host);
std::string resource_name(const Cluster& cluster, int32_t resource);  // "host 3 network"

}  // namespace furrow::plan
