// Opens NCCL and the CUDA runtime.
#pragma once

#include <string_view>

#include "furrow/comm/nccl/api.h"

namespace furrow::comm {

struct NcclLibrary {
  NcclApi nccl;
  CudaApi cuda;
};

// FURROW_NCCL_LIBRARY or libnccl.so.2, FURROW_CUDART_LIBRARY or the
// libcudart.so of CUDA 13, 12 or 11.  Error{not_found} where one is not there, Error{failed_precondition}
// where it is too old (NCCL before 2.10, by its own word), with what to install.
NcclLibrary open_nccl_library();

// The same, opened at the first call, for good.  Thread safe.
const NcclLibrary& nccl_library();

// Error{unavailable} with the library's words unless it succeeded.
void check_nccl(const NcclLibrary& library, int result, std::string_view what);
void check_cuda(const NcclLibrary& library, int error, std::string_view what);

}  // namespace furrow::comm
