// The functions behind the rows of backends.cc.
#pragma once

#include <memory>

#include "furrow/comm/backend.h"

namespace furrow::comm {

std::unique_ptr<Backend> make_native(Communicator& communicator);
std::unique_ptr<Backend> make_mpi(Communicator& communicator);   // opens libfurrow_mpi.so
std::unique_ptr<Backend> make_nccl(Communicator& communicator);  // opens NCCL and CUDA with use_device()

// For a backend that sends messages of its own between operations of a native group, in the same thread: what
// they moved counts for no operation.  REQUIRES: made by make_native's.
void forget_wire_bytes(GroupBackend& native);

}  // namespace furrow::comm
