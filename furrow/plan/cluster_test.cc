#include "furrow/plan/cluster.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <numeric>
#include <set>

#include "furrow/base/error.h"
#include "furrow/config/cluster.h"

namespace furrow::plan {
namespace {

using ::testing::HasSubstr;

Cluster cluster(int hosts, int devices) {
  Cluster c;
  c.hosts = hosts;
  c.devices = devices;
  c.device = find_device("h100-sxm");
  c.inside = {.name = "inside", .bytes_per_second = 100, .latency_s = 0};
  c.network = {.name = "network", .bytes_per_second = 10, .latency_s = 0};
  return c;
}

std::vector<int> ranks(int n, int stride = 1) {
  std::vector<int> list(static_cast<size_t>(n));
  for (int i = 0; i < n; ++i) list[static_cast<size_t>(i)] = i * stride;
  return list;
}

double seconds(const Cluster& c, Movement movement, const std::vector<int>& members, int64_t bytes,
               int sharers = 1) {
  const MovementCall call{movement, members, members.front(), bytes, 1, sharers};
  return seconds_of(legs_of(c, call));
}

TEST(Cluster, EveryPresetIsWhole) {
  std::set<std::string> names;
  for (const DeviceSpec& device : device_table()) {
    EXPECT_GT(device.f32_flops, 0) << device.name;
    EXPECT_GE(device.half_flops, device.f32_flops) << device.name;
    EXPECT_GT(device.memory_bytes, 0) << device.name;
    EXPECT_GT(device.memory_bytes_per_second, 0) << device.name;
    EXPECT_TRUE(device.efficiency > 0 && device.efficiency <= 1) << device.name;
    EXPECT_FALSE(device.source.empty()) << device.name;
    EXPECT_TRUE(names.insert(device.name).second) << device.name;
  }
  for (const LinkSpec& link : link_table()) {
    EXPECT_GT(link.bytes_per_second, 0) << link.name;
    EXPECT_GT(link.latency_s, 0) << link.name;
    EXPECT_FALSE(link.source.empty()) << link.name;
    EXPECT_TRUE(names.insert(link.name).second) << link.name;
  }
  EXPECT_EQ(find_device("h100-sxm").flops(DType::kBF16), 989.4e12);
  EXPECT_EQ(find_device("h100-sxm").flops(DType::kF16), 989.4e12);
  EXPECT_EQ(find_device("h100-sxm").flops(DType::kF32), 494.7e12);
  EXPECT_EQ(find_device("cpu-core-avx512").flops(DType::kBF16), 490e9);
  EXPECT_EQ(find_device("cpu-core-avx512").flops(DType::kF16), 113e9);
  EXPECT_THROW(find_device("h1000-sxm"), Error);
  EXPECT_THROW(find_link("nvlink44"), Error);
}

TEST(Cluster, IsMadeOfPresetsAndTheFile) {
  const config::ClusterFile file = config::parse_cluster(
      "[hosts]\ncount = 4\ndevices = 8\n[device]\nname = \"a100-sxm-80gb\"\nmemory_gib = 40\n[links]\nname = "
      "\"nvlink3\"\n[network]\nname = \"ethernet-100\"\nports = 2\ntopology = \"tree\"\nports_per_leaf = "
      "2\noversubscription = 4\n[price]\nspot_per_host_hour = 5\n",
      "folder/c.toml");
  const Cluster c = cluster_from(file);
  EXPECT_EQ(c.name, "c");
  EXPECT_EQ(c.world(), 32);
  EXPECT_EQ(c.host_of(17), 2);
  EXPECT_EQ(c.device.memory_bytes, int64_t{40} << 30);
  EXPECT_EQ(c.device.half_flops, 312e12);
  EXPECT_EQ(c.inside.bytes_per_second, 240e9);
  EXPECT_EQ(c.network.port_bytes_per_second(), 2 * 12.5e9 * 0.94);
  EXPECT_EQ(c.network.topology, Topology::kTree);
  EXPECT_EQ(c.price.spot_per_host_hour, 5);
  EXPECT_FALSE(c.inline_inside);
}

TEST(Cluster, NamesOfOneselfNeedAllFigures) {
  const auto refusal = [](const std::string& text) {
    try {
      cluster_from(config::parse_cluster(text, "c.toml"));
    } catch (const Error& error) {
      return error.message();
    }
    return std::string("accepted");
  };
  EXPECT_THAT(refusal("[device]\nname = \"h100-smx\"\n"),
              HasSubstr("c.toml:2: unknown device.name 'h100-smx': did you mean 'h100-sxm'?"));
  const std::string own =
      "[device]\nname = \"mine\"\nkind = \"other\"\nf32_tflops = 1\nmemory_gib = 1\nmemory_gb_per_second = "
      "1\nefficiency = 1\n";
  EXPECT_EQ(refusal(own), "accepted");
  EXPECT_THAT(refusal(own + "[links]\nname = \"mine\"\ngb_per_second = 3\n"), HasSubstr("latency_us"));
  EXPECT_EQ(refusal(own + "[links]\nname = \"mine\"\ngb_per_second = 3\nlatency_us = 0\n"), "accepted");
}

TEST(Cluster, ThisMachineIsCutIntoItsCores) {
  const DeviceSpec& core = find_device("cpu-core-avx2");
  EXPECT_EQ(local_cluster({4, 8 << 20, false}, 2).device.f32_flops, 2 * core.f32_flops);
  EXPECT_EQ(local_cluster({4, 8 << 20, false}, 8).device.f32_flops, core.f32_flops / 2);
  EXPECT_EQ(local_cluster({4, 8 << 20, false}, 8).device.memory_bytes, 1 << 20);
  EXPECT_TRUE(local_cluster({4, 8 << 20, false}, 4).inline_inside);
  EXPECT_FALSE(local_cluster({4, 8 << 20, false}, 2).inline_inside);
}

TEST(Movement, MovesEveryByteOnceInsideAHost) {
  const Cluster c = cluster(1, 8);
  EXPECT_DOUBLE_EQ(seconds(c, Movement::kAllGather, ranks(8), 800), 7.0);
  EXPECT_DOUBLE_EQ(seconds(c, Movement::kReduceScatter, ranks(8), 800), 7.0);
  EXPECT_DOUBLE_EQ(seconds(c, Movement::kAllReduce, ranks(8), 800), 14.0);
  EXPECT_DOUBLE_EQ(seconds(c, Movement::kAllToAll, ranks(8), 800), 7.0);
  EXPECT_DOUBLE_EQ(seconds(c, Movement::kTransfer, ranks(2), 800), 8.0);
  EXPECT_EQ(seconds(c, Movement::kAllGather, ranks(1), 800), 0);
}

TEST(Movement, GoesInsideHostsThenBetweenThem) {
  const Cluster c = cluster(4, 8);
  const std::vector<int> all = ranks(32);
  // 7/8 of the bytes at 100 a second inside; 3/4 of them through the host's port at 10.
  const std::vector<Leg> legs = legs_of(c, {Movement::kReduceScatter, all, 9, 800});
  ASSERT_EQ(legs.size(), 2u);
  EXPECT_EQ(legs[0].resource, inside_resource(c, 9));
  EXPECT_DOUBLE_EQ(legs[0].seconds, 7.0);
  EXPECT_EQ(legs[1].resource, network_resource(c, 1));
  EXPECT_DOUBLE_EQ(legs[1].seconds, 60.0);
  EXPECT_EQ(legs[1].bytes, 600);
  EXPECT_EQ(resource_name(c, legs[1].resource), "host 1 network");
  EXPECT_DOUBLE_EQ(seconds(c, Movement::kAllReduce, all, 800), 7 + 120 + 7);
  // One rank of each host: eight such groups share the port unless they are simulated themselves.
  EXPECT_DOUBLE_EQ(seconds(c, Movement::kAllGather, ranks(4, 8), 800), 60.0);
  EXPECT_DOUBLE_EQ(seconds(c, Movement::kAllGather, ranks(4, 8), 800, 8), 480.0);
}

TEST(Movement, LatencyCountsWhereBytesAreFew) {
  Cluster c = cluster(1, 8);
  c.inside.latency_s = 1;
  EXPECT_NEAR(seconds(c, Movement::kAllGather, ranks(8), 8), 3 + 0.14, 1e-12);     // doubling
  EXPECT_NEAR(seconds(c, Movement::kAllGather, ranks(8), 8000), 7 + 70.0, 1e-12);  // ring
  EXPECT_NEAR(seconds(c, Movement::kAllReduce, ranks(8), 8), 2 * (3 + 0.14), 1e-12);
}

TEST(Movement, TopologiesDivideRates) {
  Cluster c = cluster(1, 8);
  c.inside.topology = Topology::kStar;
  EXPECT_DOUBLE_EQ(seconds(c, Movement::kAllGather, ranks(8), 800), 56.0);
  EXPECT_DOUBLE_EQ(seconds(c, Movement::kTransfer, ranks(2), 800), 8.0);
  c.inside.topology = Topology::kMesh;
  EXPECT_DOUBLE_EQ(seconds(c, Movement::kAllGather, ranks(8), 800), 7.0);
  EXPECT_DOUBLE_EQ(seconds(c, Movement::kTransfer, ranks(2), 100), 7.0);  // one wire of seven
  EXPECT_DOUBLE_EQ(seconds(c, Movement::kAllGather, ranks(2), 200), 7.0);
  c.inside.topology = Topology::kRing;
  c.inside.ports = 2;
  EXPECT_DOUBLE_EQ(seconds(c, Movement::kAllGather, ranks(8), 800), 3.5);
  EXPECT_DOUBLE_EQ(seconds(c, Movement::kAllGather, ranks(4, 2), 800), 6.0);  // two hops each
  c.inside.ports = 1;
  c.inside.topology = Topology::kTree;
  c.inside.ports_per_leaf = 4;
  c.inside.oversubscription = 4;
  EXPECT_DOUBLE_EQ(seconds(c, Movement::kAllGather, ranks(4), 800), 6.0);
  EXPECT_DOUBLE_EQ(seconds(c, Movement::kAllGather, ranks(8), 800), 28.0);
}

TEST(Movement, MoreNeverTakesLess) {
  Cluster c = cluster(8, 8);
  c.inside.latency_s = c.network.latency_s = 0.01;
  for (const Topology topology :
       {Topology::kSwitch, Topology::kStar, Topology::kRing, Topology::kMesh, Topology::kTree}) {
    c.inside.topology = c.network.topology = topology;
    c.network.ports_per_leaf = 2;
    c.network.oversubscription = 2;
    for (const Movement movement : {Movement::kAllGather, Movement::kReduceScatter, Movement::kAllReduce}) {
      double before = 0;
      for (const int64_t bytes : {0, 8, 64, 1000, 100000}) {
        const double now = seconds(c, movement, ranks(64), bytes);
        EXPECT_GE(now, before);
        EXPECT_GE(seconds(c, movement, ranks(64), bytes, 2), now);
        before = now;
      }
      Cluster faster = c;
      faster.network.bytes_per_second *= 2;
      EXPECT_LE(seconds(faster, movement, ranks(64), 1000), seconds(c, movement, ranks(64), 1000));
    }
  }
}

// NVIDIA's nccl-tests of one DGX H100 reach 480 GB/s of bus bandwidth in a large all-reduce with NVLS and
// about 370 with rings; a DGX A100 about 230.
TEST(Movement, LargeAllReducesReachPublishedBandwidths) {
  const auto bus = [](const char* device, const char* link) {
    Cluster c = cluster(1, 8);
    c.device = find_device(device);
    c.inside = find_link(link);
    const int64_t bytes = int64_t{8} << 30;
    return 2 * 7.0 / 8 * static_cast<double>(bytes) / seconds(c, Movement::kAllReduce, ranks(8), bytes);
  };
  EXPECT_NEAR(bus("h100-sxm", "nvlink4") / 370e9, 1, 0.05);
  EXPECT_NEAR(bus("a100-sxm-80gb", "nvlink3") / 235e9, 1, 0.05);
}

}  // namespace
}  // namespace furrow::plan
