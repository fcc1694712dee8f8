#include <ATen/ATen.h>
#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <atomic>
#include <cstring>
#include <memory>

#include "furrow/base/error.h"
#include "furrow/tensor/device_memory.h"
#include "furrow/tensor/flat_buffer_torch.h"
#include "furrow/tensor/kernels/copy.h"
#include "furrow/tensor/threads_torch.h"

namespace furrow::tensor {

namespace {

std::atomic<int64_t> workspace_bytes = 0, workspace_peak = 0;

void count_device_buffer(MemoryKind kind, int64_t bytes) {
  count_allocation(kind, bytes);
  if (kind != MemoryKind::kOther) return;
  const int64_t now = workspace_bytes += bytes;
  int64_t peak = workspace_peak;
  while (peak < now && !workspace_peak.compare_exchange_weak(peak, now)) {
  }
}

at::Tensor device_zeros(int64_t elements, MemoryKind kind, const at::TensorOptions& options) {
  try {
    return at::zeros({elements}, options);
  } catch (const c10::OutOfMemoryError&) {
    const auto bytes = static_cast<size_t>(elements) * options.dtype().itemsize();
    throw Error(ErrorCode::kResourceExhausted,
                fmt::format("no memory for {} bytes of {} on {}: use a smaller model or batch", bytes,
                            to_string(kind), options.device().str()));
  }
}

at::Tensor device_buffer(int64_t elements, MemoryKind kind, const at::TensorOptions& options) {
  const at::Tensor owned = device_zeros(elements, kind, options);
  if (elements == 0) return owned;  // no memory, so nothing that a device knows
  const auto bytes = static_cast<int64_t>(owned.nbytes());
  count_device_buffer(kind, bytes);
  return at::from_blob(
      owned.data_ptr(), {elements}, [owned, kind, bytes](void*) { count_device_buffer(kind, -bytes); },
      options);
}

}  // namespace

at::Tensor flat_buffer(int64_t elements, MemoryKind kind, at::ScalarType type, const at::Device& device) {
  FURROW_CHECK(elements >= 0, "a buffer of negative size");
  const at::TensorOptions options = at::TensorOptions().dtype(type).device(device);
  if (!device.is_cpu()) return device_buffer(elements, kind, options);
  const size_t bytes = static_cast<size_t>(elements) * c10::elementSize(type);
  auto buffer = std::make_shared<CountedBuffer>(bytes, kind);
  if (bytes > 0) std::memset(buffer->data(), 0, bytes);
  return at::from_blob(buffer->data(), {elements}, [buffer](void*) {}, options);
}

MemoryUsage device_workspace() { return {workspace_bytes, workspace_peak}; }

at::Tensor pinned_buffer(int64_t elements, MemoryKind kind, const at::Device& device) {
  if (device.is_cpu() || elements == 0) return flat_buffer(elements, kind);
  const int64_t bytes = elements * static_cast<int64_t>(sizeof(float));
  const auto allocate = [&] {
    try {
      return at::globalContext()
          .getPinnedMemoryAllocator(device.type())
          ->allocate(static_cast<size_t>(bytes));
    } catch (const c10::Error& error) {
      throw Error(ErrorCode::kResourceExhausted,
                  fmt::format("no page-locked memory for {} bytes of {}: free memory of the host, or leave "
                              "[training] enable_cpu_offload out ({})",
                              bytes, to_string(kind), error.what_without_backtrace()));
    }
  };
  auto memory = std::make_shared<c10::DataPtr>(allocate());
  std::memset(memory->get(), 0, static_cast<size_t>(bytes));
  count_allocation(kind, bytes);
  void* const data = memory->get();
  return at::from_blob(
      data, {elements}, [memory, kind, bytes](void*) { count_allocation(kind, -bytes); }, at::kFloat);
}

at::Tensor kept_copy(const at::Tensor& values) {
  if (!values.device().is_cpu()) return values.to(at::kCPU);
  FURROW_CHECK(values.is_contiguous(), "a copy of scattered values");
  at::Tensor copy = at::empty(values.sizes(), values.options());
  kernels::copy_past_cache({static_cast<const std::byte*>(values.const_data_ptr()), values.nbytes()},
                           static_cast<std::byte*>(copy.data_ptr()), thread_count());
  return copy;
}

at::Tensor view(const at::Tensor& flat, int64_t offset, const Shape& shape) {
  const int64_t size = num_elements(shape);
  FURROW_CHECK(flat.dim() == 1 && offset >= 0 && offset <= flat.numel() - size,
               "a view outside its flat buffer");
  return flat.narrow(0, offset, size).view(shape);
}

}  // namespace furrow::tensor
