#include <ATen/ATen.h>

#include <utility>

#include "furrow/tensor/composition_torch.h"

namespace furrow::tensor {
namespace {

thread_local bool composes = false;

}  // namespace

CompositionScope::CompositionScope(bool on) : before_(std::exchange(composes, composes || on)) {}
CompositionScope::~CompositionScope() { composes = before_; }

bool composed(const at::Device& device) { return composes || !device.is_cpu(); }

bool composed(const at::Tensor& x) { return composed(x.device()); }

at::Tensor over(float* data, at::IntArrayRef sizes, const at::Device& device) {
  return at::from_blob(data, sizes, at::TensorOptions().dtype(at::kFloat).device(device));
}

at::Tensor over(std::span<float> values, const at::Device& device) {
  return over(values.data(), {static_cast<int64_t>(values.size())}, device);
}

at::Tensor on_host(const at::Tensor& x) { return x.device().is_cpu() ? x : x.to(at::kCPU); }

}  // namespace furrow::tensor
