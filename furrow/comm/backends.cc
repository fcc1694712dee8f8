// The one table of backends.
#include "furrow/comm/backends.h"

#include "furrow/base/error.h"
#include "furrow/base/names.h"

namespace furrow::comm {
namespace {

constexpr BackendRow kBackends[] = {
    {"native", "furrow's own algorithms over its transports", &make_native},
    {"mpi", "the MPI that started the ranks, through libfurrow_mpi.so", &make_mpi},
    {"nccl", "memory of CUDA devices over NCCL, memory of the host as native", &make_nccl},
};

}  // namespace

std::span<const BackendRow> backend_rows() { return kBackends; }

std::unique_ptr<Backend> make_backend(std::string_view name, Communicator& communicator) {
  std::vector<std::string> known;
  for (const BackendRow& row : kBackends) {
    if (row.name == name) return row.make(communicator);
    known.emplace_back(row.name);
  }
  throw Error(ErrorCode::kInvalidArgument, unknown_name_message("communication backend", name, known));
}

}  // namespace furrow::comm
