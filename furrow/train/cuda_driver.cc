#include "furrow/train/cuda_driver.h"

#include <dlfcn.h>

#include <array>

namespace furrow::train {
namespace {

template <class Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(::dlsym(library, name));
  return function != nullptr;
}

}  // namespace

std::optional<CudaDriver> cuda_driver() {
  static void* const library = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);  // open for good
  CudaDriver driver;
  if (library == nullptr || !find(library, "cuInit", driver.init) ||
      !find(library, "cuDeviceGet", driver.device) || !find(library, "cuDeviceGetName", driver.name) ||
      !find(library, "cuDeviceTotalMem_v2", driver.memory))
    return std::nullopt;
  return driver;
}

std::optional<GpuFacts> gpu_facts(const CudaDriver& driver, int ordinal) {
  int device = 0;
  std::array<char, 256> name{};
  size_t bytes = 0;
  if (driver.init(0) != 0 || driver.device(&device, ordinal) != 0) return std::nullopt;
  if (driver.name(name.data(), static_cast<int>(name.size()) - 1, device) != 0) return std::nullopt;
  if (driver.memory(&bytes, device) != 0) return std::nullopt;
  return GpuFacts{name.data(), static_cast<int64_t>(bytes)};
}

}  // namespace furrow::train
