// Finds and opens libfurrow_mpi.so.
#pragma once

#include "furrow/comm/mpi/plugin.h"

namespace furrow::comm {

// Opened at the first call, for good.  Thread safe.  Error{not_found} where it is not,
// Error{failed_precondition} where it cannot be loaded or is of another build.
const MpiPlugin& mpi_plugin();

}  // namespace furrow::comm
