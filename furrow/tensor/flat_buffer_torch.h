// The flat buffers that hold all parameters, gradients or one optimizer state of a unit.  Where each
// parameter lies is the caller's knowledge (plan/flat_layout.h); tensors are views made with `view`.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "furrow/base/array.h"
#include "furrow/base/memory.h"

namespace furrow::tensor {

// A tensor [elements] of `type` over 64-byte-aligned memory of `device` of its own, counted under `kind`.
// Zeros: the padding between parameters must be zero and stays so, as every operation on flat buffers maps
// zeros to zeros. Error{resource_exhausted} when memory is short.
at::Tensor flat_buffer(int64_t elements, MemoryKind kind, at::ScalarType type = at::kFloat,
                       const at::Device& device = at::kCPU);

// The same, float32, in memory of the host that `device` copies to and from by itself, beside everything else
// (page-locked).  Where the device is the CPU, memory like any other.
at::Tensor pinned_buffer(int64_t elements, MemoryKind kind, const at::Device& device);

// A copy of dense `values` in memory of the host of its own, made past the caches by `thread_count()`
// threads: for what is kept and not read soon.
at::Tensor kept_copy(const at::Tensor& values);

// A dense tensor over elements [offset, offset + product of shape) of `flat`; it keeps the buffer alive.
// Error{internal} outside the buffer.
at::Tensor view(const at::Tensor& flat, int64_t offset, const Shape& shape);

}  // namespace furrow::tensor
