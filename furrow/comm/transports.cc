// The one table of transports.  A communicator prefers the earlier ones.
#include "furrow/comm/transports.h"

#include "furrow/base/names.h"

namespace furrow::comm {
namespace {

constexpr TransportRow kTransports[] = {
    {"inproc", "ranks that are threads of one process", &make_inproc},
    {"shm", "processes of one host: peers read each other's memory", &make_shm},
    {"tcp", "processes of any hosts: several checked connections per pair", &make_tcp},
};

}  // namespace

std::span<const TransportRow> transport_rows() { return kTransports; }

std::unique_ptr<Transport> make_transport(std::string_view name, const JoinContext& context) {
  std::vector<std::string> known;
  for (const TransportRow& row : kTransports) {
    if (row.name == name) return row.make(context);
    known.emplace_back(row.name);
  }
  throw Error(ErrorCode::kInvalidArgument, unknown_name_message("transport", name, known));
}

}  // namespace furrow::comm
