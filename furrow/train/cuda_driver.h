// What the CUDA driver says of a GPU: libtorch's interface for any device names none.  Torch-free; no header
// of CUDA is included, and no library of it linked.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace furrow::train {

struct GpuFacts {
  std::string name;  // "NVIDIA H100 80GB HBM3"
  int64_t memory_bytes = 0;
};

// The functions of libcuda.so.1 that are asked, as the driver API has had them since CUDA 3.2; 0 is success.
struct CudaDriver {
  int (*init)(unsigned flags) = nullptr;                    // cuInit
  int (*device)(int* device, int ordinal) = nullptr;        // cuDeviceGet
  int (*name)(char* name, int size, int device) = nullptr;  // cuDeviceGetName
  int (*memory)(size_t* bytes, int device) = nullptr;       // cuDeviceTotalMem_v2
};

// Of this process, which is there where CUDA computes; none: no driver.  Thread safe.
std::optional<CudaDriver> cuda_driver();

// `ordinal` among the GPUs that CUDA_VISIBLE_DEVICES shows; none: the driver does not know it.
std::optional<GpuFacts> gpu_facts(const CudaDriver& driver, int ordinal);

}  // namespace furrow::train
