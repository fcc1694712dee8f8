// Which implementation an operation has: our kernels, over memory of the CPU, or a composition of libtorch's
// own operations, on any device.
//
// The device of the tensors decides.  On the CPU a scope chooses compositions too: so a machine without a
// device tests what devices run, against the kernels.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

namespace furrow::tensor {

// While it lives, operations of this thread are compositions on the CPU too, where `on` says so.
class CompositionScope {
 public:
  explicit CompositionScope(bool on = true);
  ~CompositionScope();
  CompositionScope(const CompositionScope&) = delete;
  CompositionScope& operator=(const CompositionScope&) = delete;

 private:
  bool before_;
};

bool composed(const at::Tensor& x);
bool composed(const at::Device& device);

// A dense tensor over memory of `device`, which must outlive it.  Spans of a device's memory are read and
// written through tensors alone.
at::Tensor over(float* data, at::IntArrayRef sizes, const at::Device& device);
at::Tensor over(std::span<float> values, const at::Device& device);

// The tensor where host code may read it; itself when it is on the CPU.
at::Tensor on_host(const at::Tensor& x);

}  // namespace furrow::tensor
