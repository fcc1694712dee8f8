// Wires by name: what programs see of a port, in each direction, and the time of one message.
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/plan/cluster.h"

namespace furrow::plan {
namespace {

constexpr double kGiga = 1e9;
constexpr double kMicro = 1e-6;

LinkSpec wires(const char* name, double gb_per_second, double latency_us, const char* source) {
  return {.name = name,
          .bytes_per_second = gb_per_second * kGiga,
          .latency_s = latency_us * kMicro,
          .source = source};
}

// Frames of 1,500 bytes carry 1,448 of a TCP stream in 1,538 on the wire; a message passes two kernels.
LinkSpec ethernet(const char* name, double gbit) {
  return wires(name, gbit / 8 * 0.94, 30, "IEEE 802.3 rate times 0.94 for TCP; latency: two kernels");
}

// RDMA: frames of 4,096 bytes; latency as NCCL's ring over a network.
LinkSpec rdma(const char* name, double gbit) {
  return wires(name, gbit / 8 * 0.97, 14, "rate times 0.97; latency: NCCL, src/graph/tuning.cc, hwLatencies");
}

LinkSpec on_ring(LinkSpec link) {
  link.topology = Topology::kRing;
  link.ports = 2;
  return link;
}

LinkSpec on_star(LinkSpec link) {
  link.topology = Topology::kStar;
  return link;
}

std::vector<LinkSpec> make_table() {
  const char* nccl = "links times NCCL's rate of one (src/graph/topo.h); latency: its src/graph/tuning.cc";
  const char* pcie = "4/5 of the rate of 16 lanes; latency: NCCL, src/graph/tuning.cc, hwLatencies";
  const char* ici = "Google, How to Scale Your Model: a link one way; two ports of an axis of the torus";
  return {
      on_star(wires("shared-memory", 12, 5,
                    "measured: all_gather of two ranks on the two cores of an EPYC, furrow bench comm")),
      ethernet("ethernet-1", 1),
      ethernet("ethernet-10", 10),
      ethernet("ethernet-25", 25),
      ethernet("ethernet-40", 40),
      ethernet("ethernet-50", 50),
      ethernet("ethernet-100", 100),
      ethernet("ethernet-200", 200),
      ethernet("ethernet-400", 400),
      rdma("roce-25", 25),
      rdma("roce-100", 100),
      rdma("roce-200", 200),
      rdma("roce-400", 400),
      rdma("infiniband-edr", 100),
      rdma("infiniband-hdr", 200),
      rdma("infiniband-ndr", 400),
      rdma("infiniband-xdr", 800),
      wires("nvlink2", 6 * 20, 3.4, nccl),
      wires("nvlink3", 12 * 20, 3.4, nccl),
      wires("nvlink4", 18 * 20.6, 3.4, nccl),
      wires("pcie3", 12, 5.7, pcie),
      wires("pcie4", 25, 5.7, pcie),
      wires("pcie5", 50, 5.7, pcie),
      on_ring(wires("ici-v4", 45, 2, ici)),
      on_ring(wires("ici-v5e", 45, 2, ici)),
      on_ring(wires("ici-v5p", 90, 2, ici)),
  };
}

}  // namespace

std::span<const LinkSpec> link_table() {
  static const std::vector<LinkSpec> table = make_table();
  return table;
}

const LinkSpec& find_link(std::string_view name) {
  std::vector<std::string> known;
  for (const LinkSpec& link : link_table()) {
    if (link.name == name) return link;
    known.push_back(link.name);
  }
  throw Error(ErrorCode::kInvalidArgument, unknown_name_message("link", name, known));
}

}  // namespace furrow::plan
