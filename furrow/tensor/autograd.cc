#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/tensor/autograd_torch.h"

namespace furrow::tensor {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Closure : torch::CustomClassHolder {
  at::Tensor output;  // until recorded
  size_t inputs = 0;
  Backward backward;
  at::MemoryFormat format = at::MemoryFormat::Contiguous;
};

struct Recorded : torch::autograd::Function<Recorded> {
  static at::Tensor forward(AutogradContext* context, at::TensorList /*inputs*/,
                            const c10::intrusive_ptr<Closure>& closure) {
    context->saved_data["backward"] = c10::IValue::make_capsule(closure);
    return std::move(closure->output);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto holder = context->saved_data["backward"].toCapsule();
    auto& closure = static_cast<Closure&>(*holder);
    FURROW_CHECK(closure.backward != nullptr, "backward of an operation runs once");
    FURROW_CHECK(!at::GradMode::is_enabled(), "no double backward: declare the unit monolithic");
    const Backward run = std::exchange(closure.backward, nullptr);
    variable_list results = run(gradients[0].contiguous(closure.format));
    results.resize(closure.inputs + 1);  // undefined for what backward left out, and for the closure argument
    return results;
  }
};

}  // namespace

bool needs_backward(std::initializer_list<at::Tensor> inputs) {
  return at::GradMode::is_enabled() && std::ranges::any_of(inputs, [](const at::Tensor& input) {
           return input.defined() && input.requires_grad();
         });
}

at::Tensor with_backward(at::Tensor output, std::initializer_list<at::Tensor> inputs, Backward backward,
                         at::MemoryFormat format) {
  if (!needs_backward(inputs)) return output;
  auto closure = c10::make_intrusive<Closure>();
  closure->output = std::move(output);
  closure->inputs = inputs.size();
  closure->backward = std::move(backward);
  closure->format = format;
  return Recorded::apply(at::TensorList(inputs.begin(), inputs.size()), closure);
}

}  // namespace furrow::tensor
