#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/tensor/composition_torch.h"
#include "furrow/tensor/gradient_sink_torch.h"
#include "furrow/tensor/tensor_axis_torch.h"

namespace furrow::tensor {
namespace {

void write_gradient(const at::Tensor& gradient, std::span<float> target, const at::Device& device) {
  FURROW_CHECK(static_cast<size_t>(gradient.numel()) == target.size(),
               "a gradient and its parameter differ in size");
  if (!device.is_cpu()) {
    over(target, device).copy_(gradient.reshape({-1}));
    return;
  }
  const at::Tensor dense = gradient.contiguous();
  if (!target.empty()) std::memcpy(target.data(), dense.const_data_ptr<float>(), target.size_bytes());
}

void fill_with_zeros(std::span<float> target, const at::Device& device) {
  if (device.is_cpu()) {
    std::ranges::fill(target, 0.0F);
  } else if (!target.empty()) {
    over(target, device).zero_();
  }
}

}  // namespace

GradientSink::GradientSink(int parameters)
    : GradientSink(std::vector<bool>(static_cast<size_t>(parameters))) {}

GradientSink::GradientSink(const std::vector<bool>& frozen, const at::Device& device)
    : frozen_(frozen), device_(device), claimed_(frozen.size()), gradients_(frozen.size()) {}

void GradientSink::put(int parameter, at::Tensor gradient) {
  FURROW_CHECK(gradient.defined() && gradient.scalar_type() == at::kFloat, "a gradient is float32");
  claim(parameter);
  if (!wants(parameter)) return;
  gradients_[static_cast<size_t>(parameter)] = std::move(gradient);
}

void GradientSink::defer(int parameter, std::function<void(float*)> compute) {
  defer(std::vector{parameter},
        [compute = std::move(compute)](std::span<float* const> out) { compute(out.front()); });
}

void GradientSink::defer(std::vector<int> parameters, std::function<void(std::span<float* const>)> compute) {
  for (const int parameter : parameters) claim(parameter);
  const auto wanted = [this](int parameter) { return wants(parameter); };
  if (std::ranges::none_of(parameters, wanted)) return;
  deferred_.push_back({std::move(parameters), std::move(compute)});
}

void GradientSink::sum_over(TensorAxis& axis, std::vector<Param> parameters) {
  FURROW_CHECK(!sum_, "one sum over the axis for a unit");
  std::erase_if(parameters, [&](const Param& parameter) { return !wants(parameter.index); });
  if (!parameters.empty()) sum_ = Sum{&axis, std::move(parameters)};
}

void GradientSink::sum(const Sum& sum, std::span<const std::span<float>> targets) const {
  int64_t elements = 0;
  for (const Param& parameter : sum.parameters) elements += parameter.leaf.numel();
  const at::Tensor all = at::empty({elements}, at::TensorOptions().dtype(at::kFloat).device(device_));
  const auto each = [&](const auto& move) {
    int64_t begin = 0;
    for (const Param& parameter : sum.parameters) {
      const int64_t size = parameter.leaf.numel();
      move(all.narrow(0, begin, size), over(targets[static_cast<size_t>(parameter.index)], device_));
      begin += size;
    }
  };
  each([](const at::Tensor& part, const at::Tensor& target) { part.copy_(target); });
  sum.axis->all_reduce(all);
  each([](const at::Tensor& part, const at::Tensor& target) { target.copy_(part); });
}

bool GradientSink::has(int parameter) const {
  FURROW_CHECK(parameter >= 0 && static_cast<size_t>(parameter) < claimed_.size(),
               "no parameter " + std::to_string(parameter));
  return claimed_[static_cast<size_t>(parameter)];
}

bool GradientSink::writes(int parameter) const {
  return wants(parameter) || std::ranges::any_of(deferred_, [&](const Deferred& each) {
           return std::ranges::find(each.parameters, parameter) != each.parameters.end();
         });
}

void GradientSink::claim(int parameter) {
  FURROW_CHECK(!has(parameter), "a second gradient for parameter " + std::to_string(parameter));
  claimed_[static_cast<size_t>(parameter)] = true;
}

void GradientSink::write(std::span<const std::span<float>> targets) {
  FURROW_CHECK(targets.size() == claimed_.size(), "one target for every parameter");
  const std::vector<bool> claimed = std::exchange(claimed_, std::vector<bool>(targets.size()));
  std::vector<at::Tensor> gradients = std::exchange(gradients_, std::vector<at::Tensor>(targets.size()));
  std::vector<Deferred> all_deferred = std::exchange(deferred_, {});
  for (size_t i = 0; i < targets.size(); ++i) {
    if (gradients[i].defined()) write_gradient(std::exchange(gradients[i], {}), targets[i], device_);
    if (!claimed[i]) fill_with_zeros(targets[i], device_);
  }
  for (Deferred& slot : all_deferred) {
    const Deferred deferred = std::move(slot);  // its tensors go when it is done
    std::vector<float*> out;
    for (const int parameter : deferred.parameters)
      out.push_back(targets[static_cast<size_t>(parameter)].data());
    deferred.compute(out);
  }
  if (const std::optional<Sum> parts = std::exchange(sum_, std::nullopt)) sum(*parts, targets);
}

}  // namespace furrow::tensor
