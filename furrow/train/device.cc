#include <ATen/Context.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <fmt/format.h>
#if __has_include(<torch/headeronly/version.h>)
#include <torch/headeronly/version.h>
#else
#include <torch/csrc/api/include/torch/version.h>
#endif
#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 9
#include <c10/core/CachingDeviceAllocator.h>
#define FURROW_HAS_DEVICE_STATS 1
#endif

#include <algorithm>
#include <string_view>

#include "furrow/base/error.h"
#include "furrow/base/process.h"
#include "furrow/tensor/device_memory.h"
#include "furrow/train/cuda_driver.h"
#include "furrow/train/device_torch.h"

namespace furrow::train {
namespace {

// What a device other than the CPU computes.
constexpr std::string_view kKinds[] = {"linear",
                                       "conv_relu_pool",
                                       "token_embedding",
                                       "transformer_block",
                                       "lm_head",
                                       "embedding",
                                       "llama_block",
                                       "llama_head",
                                       "rnn",
                                       "lstm",
                                       "conv_norm",
                                       "residual_block",
                                       "bottleneck_block",
                                       "pool_linear",
                                       "latent",
                                       "conv",
                                       "activation",
                                       "dropout",
                                       "max_pool",
                                       "avg_pool",
                                       "global_avg_pool",
                                       "layer_norm",
                                       "group_norm",
                                       "batch_norm"};

}  // namespace

int device_of_local_rank(int local_rank, int devices) {
  if (devices == 1) return 0;
  if (local_rank < devices) return local_rank;
  throw Error(
      ErrorCode::kFailedPrecondition,
      fmt::format("[training] device = \"cuda\": this is rank {} of its host (from 0), which shows {} "
                  "GPUs: start a rank for each of them, or see CUDA_VISIBLE_DEVICES",
                  local_rank, devices));
}

Device open_device(const config::Config& config, int local_rank) {
  const config::Training& training = config.training;
  if (training.device != "cuda") return {training.device, 0};
  const bool built = c10::impl::hasDeviceGuardImpl(c10::DeviceType::CUDA);
  const int devices = built ? c10::impl::getDeviceGuardImpl(c10::DeviceType::CUDA)->deviceCount() : 0;
  if (devices == 0) {
    throw Error(ErrorCode::kFailedPrecondition,
                built ? "[training] device = \"cuda\": this machine shows no GPU: see nvidia-smi and "
                        "CUDA_VISIBLE_DEVICES"
                      : "[training] device = \"cuda\": this libtorch has no CUDA: build furrow with "
                        "FURROW_TORCH_ROOT at a wheel for CUDA");
  }
  at::Context& context = at::globalContext();
  const bool in_one_order = config.debug.deterministic != "off";
  context.setSDPUseCuDNN(!in_one_order);  // its attention adds gradients in any order
  context.setDeterministicCuDNN(in_one_order);
  context.setAllowTF32CuDNN(false);
  return {"cuda", device_of_local_rank(local_rank, devices)};
}

at::Device device_of(const RankContext& rank) {
  if (rank.device.type != "cuda") return at::kCPU;
  return {at::kCUDA, static_cast<c10::DeviceIndex>(rank.device.index)};
}

bool composes(const RankContext& rank) { return rank.device.type == "composed"; }

void check_device(const config::Config& config, const plan::ModelSpec& spec, const plan::Layout& layout) {
  const std::string& device = config.training.device;
  if (device == "cpu") return;
  if (device == "cuda" && layout.world() > 1 && config.comm.backend != "nccl") {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("[training] device = \"cuda\" on {} ranks: memory of GPUs travels over NCCL alone: "
                    "set [comm] backend = \"nccl\", not \"{}\"",
                    layout.world(), config.comm.backend));
  }
  for (const plan::Unit& unit : spec.units) {
    if (std::ranges::find(kKinds, unit.kind) != std::end(kKinds)) continue;
    throw Error(ErrorCode::kUnimplemented,
                fmt::format("[training] device = \"{}\" does not do unit {} of kind {}: set device = \"cpu\"",
                            device, unit.name, unit.kind));
  }
}

int64_t beside_flat_buffers(int64_t device_peak, const std::array<int64_t, kMemoryKinds>& peaks,
                            bool offload) {
  int64_t left = device_peak;
  for (const MemoryKind kind :
       {MemoryKind::kParameters, MemoryKind::kGradients, MemoryKind::kGathered, MemoryKind::kOptimizer}) {
    if (kind != MemoryKind::kOptimizer || !offload) left -= peaks[static_cast<size_t>(kind)];
  }
  return std::max<int64_t>(0, left);
}

plan::ProfiledDevice device_facts(const RankContext& rank) {
  const std::string& type = rank.device.type;
  if (type == "cpu") return {};
  if (type != "cuda") return {type, cpu_model(), 0};
  const std::optional<CudaDriver> driver = cuda_driver();
  const std::optional<GpuFacts> facts = driver ? gpu_facts(*driver, rank.device.index) : std::nullopt;
  return facts ? plan::ProfiledDevice{type, facts->name, facts->memory_bytes}
               : plan::ProfiledDevice{type, "unknown", 0};
}

std::optional<AllocatorBytes> allocator_bytes(const RankContext& rank) {
#ifdef FURROW_HAS_DEVICE_STATS
  if (const at::Device device = device_of(rank); !device.is_cpu()) {
    constexpr auto kAll = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    const auto stats = c10::getDeviceAllocator(device.type())->getDeviceStats(device.index());
    return AllocatorBytes{stats.allocated_bytes[kAll].current, stats.allocated_bytes[kAll].peak,
                          stats.reserved_bytes[kAll].peak};
  }
#else
  (void)rank;
#endif
  return std::nullopt;
}

int64_t library_bytes(const RankContext& rank, bool offload) {
  const std::optional<AllocatorBytes> allocated = allocator_bytes(rank);
  if (!allocated) return 0;
  std::array<int64_t, kMemoryKinds> now;
  for (size_t k = 0; k < kMemoryKinds; ++k) now[k] = memory_usage(static_cast<MemoryKind>(k)).current_bytes;
  return beside_flat_buffers(allocated->current - tensor::device_workspace().current_bytes, now, offload);
}

std::array<int64_t, kMemoryKinds> memory_peaks(const RankContext& rank, bool offload) {
  std::array<int64_t, kMemoryKinds> peaks;
  for (size_t k = 0; k < kMemoryKinds; ++k) peaks[k] = memory_usage(static_cast<MemoryKind>(k)).peak_bytes;
  if (const std::optional<AllocatorBytes> allocated = allocator_bytes(rank)) {
    const int64_t libraries = library_bytes(rank, offload);
    const int64_t workspace = tensor::device_workspace().peak_bytes + libraries;
    peaks[static_cast<size_t>(MemoryKind::kOther)] += libraries;
    peaks[static_cast<size_t>(MemoryKind::kActivations)] =
        beside_flat_buffers(allocated->peak - workspace, peaks, offload);
  }
  return peaks;
}

}  // namespace furrow::train
