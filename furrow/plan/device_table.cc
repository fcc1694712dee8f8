// Devices by name.  Peaks and memory are the makers' figures for dense products; efficiency is the share of
// the peak that the units of a transformer reach, forward and backward, attention and normalisation included:
// an estimate, from published utilisations of training runs, that a profile replaces.
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/plan/cluster.h"

namespace furrow::plan {
namespace {

constexpr double kTera = 1e12;
constexpr double kGiga = 1e9;
constexpr int64_t kGibibyte = int64_t{1} << 30;
constexpr int64_t kGigabyte = 1'000'000'000;

// A GPU starts a dozen kernels a unit, some microseconds each, unless graphs or compilation merge them.
constexpr double kKernels = 60e-6;

// What a copy over PCIe x16 reaches of generation 3, 4, 5 (16, 32, 63 GB/s): about 0.78 of it.
constexpr double kGen3 = 12.3e9, kGen4 = 25e9, kGen5 = 49e9;

double host_rate(std::string_view name) {
  if (name.starts_with("v100") || name.starts_with("t4")) return kGen3;
  return name.starts_with("h") || name.starts_with("mi300") ? kGen5 : kGen4;
}

DeviceSpec gpu(const char* name, double f32, double half, int64_t memory_gb, double gb_per_second,
               double efficiency, const char* source) {
  return {.name = name,
          .kind = DeviceKind::kGpu,
          .f32_flops = f32 * kTera,
          .half_flops = half * kTera,
          .memory_bytes = memory_gb * kGigabyte,
          .memory_bytes_per_second = gb_per_second * kGiga,
          .efficiency = efficiency,
          .overhead_s = kKernels,
          .host_bytes_per_second = host_rate(name),
          .source = source};
}

// TPUs multiply in bfloat16; float32 products are six of those (XLA, precision HIGHEST).
DeviceSpec tpu(const char* name, double half, int64_t memory_gb, double gb_per_second, const char* source) {
  return {.name = name,
          .kind = DeviceKind::kTpu,
          .f32_flops = half / 6 * kTera,
          .half_flops = half * kTera,
          .memory_bytes = memory_gb * kGigabyte,
          .memory_bytes_per_second = gb_per_second * kGiga,
          .efficiency = 0.6,
          .overhead_s = 20e-6,
          .source = source};
}

DeviceSpec core(const char* name, double f32, double half, double gb_per_second, const char* source) {
  return {.name = name,
          .kind = DeviceKind::kCpu,
          .f32_flops = f32 * kGiga,
          .half_flops = half * kGiga,
          .memory_bytes = 4 * kGibibyte,
          .memory_bytes_per_second = gb_per_second * kGiga,
          .efficiency = 0.6,
          .overhead_s = 20e-6,
          .source = source};
}

std::vector<DeviceSpec> make_table() {
  std::vector<DeviceSpec> table;
  table.push_back(
      core("cpu-core-avx512", 113, 490, 20,
           "measured: torch.mm of 256 to 2,048 on one core of an EPYC with AVX-512 and bf16; half of "
           "the 40 GB/s that one core alone copies with"));
  table.push_back(
      core("cpu-core-avx2", 90, 90, 10,
           "arithmetic: two fused multiply-adds of eight at 2.8 GHz; memory of a desktop, shared"));
  table.push_back(gpu("v100-sxm2", 15.7, 125, 32, 900, 0.5, "NVIDIA V100 data sheet"));
  table.push_back(gpu("t4", 8.1, 65, 16, 300, 0.4, "NVIDIA T4 data sheet"));
  table.push_back(gpu("a10", 62.5, 125, 24, 600, 0.5, "NVIDIA A10 data sheet; float32 as tf32"));
  table.push_back(gpu("a100-sxm-40gb", 156, 312, 40, 1555, 0.55, "NVIDIA A100 data sheet; float32 as tf32"));
  table.push_back(gpu("a100-sxm-80gb", 156, 312, 80, 2039, 0.55, "NVIDIA A100 data sheet; float32 as tf32"));
  table.push_back(
      gpu("l4", 60, 121, 24, 300, 0.5, "NVIDIA L4 data sheet, without sparsity; float32 as tf32"));
  table.push_back(
      gpu("l40s", 183, 362, 48, 864, 0.5, "NVIDIA L40S data sheet, without sparsity; float32 as tf32"));
  table.push_back(gpu("h100-sxm", 494.7, 989.4, 80, 3350, 0.5,
                      "NVIDIA H100 data sheet, without sparsity; float32 as tf32"));
  table.push_back(gpu("h200-sxm", 494.7, 989.4, 141, 4800, 0.5,
                      "NVIDIA H200 data sheet, without sparsity; float32 as tf32"));
  table.push_back(gpu("mi300x", 653.7, 1307.4, 192, 5300, 0.4, "AMD MI300X data sheet; float32 as tf32"));
  table.push_back(tpu("tpu-v4", 275, 32, 1228, "Google Cloud, TPU v4"));
  table.push_back(tpu("tpu-v5e", 197, 16, 819, "Google Cloud, TPU v5e"));
  table.push_back(tpu("tpu-v5p", 459, 95, 2765, "Google Cloud, TPU v5p"));
  table.push_back(tpu("tpu-v6e", 918, 32, 1640, "Google Cloud, TPU v6e"));
  return table;
}

}  // namespace

std::span<const DeviceSpec> device_table() {
  static const std::vector<DeviceSpec> table = make_table();
  return table;
}

const DeviceSpec& find_device(std::string_view name) {
  std::vector<std::string> known;
  for (const DeviceSpec& device : device_table()) {
    if (device.name == name) return device;
    known.push_back(device.name);
  }
  throw Error(ErrorCode::kInvalidArgument, unknown_name_message("device", name, known));
}

}  // namespace furrow::plan
