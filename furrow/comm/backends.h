// The functions behind the rows of backends.cc.
#pragma once

#include <memory>

#include "furrow/comm/backend.h"

namespace furrow::comm {

std::unique_ptr<Backend> make_native(Communicator& communicator);
std::unique_ptr<Backend> make_mpi(Communicator& communicator);  // opens libfurrow_mpi.so

}  // namespace furrow::comm
