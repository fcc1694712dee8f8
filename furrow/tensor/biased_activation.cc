// An activation by itself, with the bias of an image's channels before it.
#include <ATen/ATen.h>

#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/activation_torch.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/half_rows_torch.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/image_operations_torch.h"
#include "furrow/tensor/kernels/elementwise.h"

namespace furrow::tensor {
namespace {

// One call, kept from forward to backward.
struct ActivationCall {
  Activation activation = Activation::kNone;
  at::MemoryFormat format = at::MemoryFormat::Contiguous;
  at::Tensor gate;  // what backward reads: the output or the slope
  int bias_index = -1;
  int threads = 1;
  GradientSink* sink = nullptr;

  bool image() const { return format == kImageFormat; }
};

// The same memory with the last dim of the columns; no copy of what is dense in that format.
at::Tensor as_rows(const at::Tensor& x, bool image) { return image ? x.permute({0, 2, 3, 1}) : x; }

std::vector<at::Tensor> backward(const ActivationCall& call, const at::Tensor& dy) {
  const at::Tensor rows = as_rows(dy, call.image());
  const bool biased = call.bias_index >= 0 && call.sink != nullptr;
  if (call.activation == Activation::kNone) {
    if (biased) call.sink->put(call.bias_index, column_sums(rows, call.threads));
    return {dy};
  }
  at::Tensor db;
  if (biased) db = at::empty({rows.size(-1)}, dy.options().dtype(at::kFloat));
  const at::Tensor dz = activation_gradient(call.activation, as_rows(call.gate, call.image()), rows,
                                            biased ? db.data_ptr<float>() : nullptr, call.threads);
  if (biased) call.sink->put(call.bias_index, db);
  return {call.image() ? dz.permute({0, 3, 1, 2}) : dz};
}

}  // namespace

namespace by_kernels {

at::Tensor biased_activation(const at::Tensor& x, const Param& bias, Activation activation,
                             OpContext& context) {
  FURROW_CHECK(
      x.dim() >= 1 && is_number(x) && (!bias.defined() || (x.dim() == 4 && bias.leaf.numel() == x.size(1))),
      "an activation reads numbers, with a bias those of an image");
  ActivationCall call;
  call.activation = activation;
  const bool image = x.dim() == 4 && (bias.defined() || x.is_contiguous(kImageFormat));
  if (image) call.format = kImageFormat;
  call.bias_index = bias.index;
  call.threads = context.threads;
  call.sink = context.sink;
  const at::Tensor in = x.detach().contiguous(call.format), y = at::empty_like(in);
  const bool recorded = bias.defined() ? needs_backward({x, bias.leaf}) : needs_backward({x});
  if (recorded && kernels::has_slope(kernel_activation(activation))) call.gate = at::empty_like(in);
  const at::Tensor offsets =
      bias.defined() ? bias.leaf.detach().to(x.scalar_type()).contiguous() : at::Tensor();
  const int64_t columns = image ? x.size(1) : x.size(-1);
  by_type(x.scalar_type(), [&]<class T>(T) {
    kernels::bias_activation(kernels::BiasActivation<T>{kernel_activation(activation), x.numel() / columns,
                                                        columns, numbers<T>(in), numbers<T>(offsets),
                                                        mutable_numbers<T>(y), mutable_numbers<T>(call.gate)},
                             context.threads);
  });
  if (!recorded) return y;
  if (activation != Activation::kNone && !call.gate.defined()) call.gate = y.detach();
  const auto run = [call](const at::Tensor& dy) { return backward(call, dy); };
  return bias.defined() ? with_backward(y, {x, bias.leaf}, run, call.format)
                        : with_backward(y, {x}, run, call.format);
}

}  // namespace by_kernels
}  // namespace furrow::tensor
