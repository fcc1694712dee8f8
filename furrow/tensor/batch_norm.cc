#include "furrow/tensor/kernels/batch_norm.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cmath>
#include <utility>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/image_operations_torch.h"

namespace furrow::tensor {
namespace {

// One call, kept from forward to backward.  All tensors are without history.
struct BatchNormCall {
  int64_t rows = 0, channels = 0;
  at::Tensor x, weight, mean, rstd;
  // With a ReLU: y where a residual is in it, else what the norm is formed again with.
  at::Tensor y, beta;
  bool residual = false;
  int weight_index = -1, bias_index = -1;
  int threads = 1;
  GradientSink* sink = nullptr;
};

std::vector<at::Tensor> batch_norm_backward(const BatchNormCall& call, const at::Tensor& dy) {
  at::Tensor dx = at::empty_like(dy), g;
  if (call.residual) g = at::empty_like(dy);
  at::Tensor dweight = at::empty_like(call.mean), dbias = at::empty_like(call.mean);
  by_type(dy.scalar_type(), [&]<class T>(T) {
    kernels::BatchNormBackward<T> args;
    args.rows = call.rows;
    args.channels = call.channels;
    args.x = numbers<T>(call.x);
    args.y = numbers<T>(call.y);
    args.mean = call.mean.const_data_ptr<float>();
    args.rstd = call.rstd.const_data_ptr<float>();
    args.gamma = call.weight.const_data_ptr<float>();
    args.beta = call.beta.defined() ? call.beta.const_data_ptr<float>() : nullptr;
    args.dy = numbers<T>(dy);
    args.g = mutable_numbers<T>(g);
    args.dx = mutable_numbers<T>(dx);
    args.dgamma = dweight.data_ptr<float>();
    args.dbeta = dbias.data_ptr<float>();
    kernels::batch_norm_backward(args, call.threads);
  });
  if (call.sink != nullptr) {
    call.sink->put(call.weight_index, dweight);
    call.sink->put(call.bias_index, dbias);
  }
  return call.residual ? std::vector{dx, g} : std::vector{dx};
}

// mean and 1 / sqrt(variance + eps), of x in training, else the running ones; what x says goes where it is
// asked for.
void find_moments(const BatchNorm& norm, const OpContext& context, BatchNormCall* call) {
  float* mean = call->mean.data_ptr<float>();
  float* rstd = call->rstd.data_ptr<float>();
  if (context.training) {
    check_rows_of_norm(call->rows);
    by_type(call->x.scalar_type(), [&]<class T>(T) {
      kernels::batch_moments({call->rows, call->channels, numbers<T>(call->x), mean, rstd}, call->threads);
    });
    if (!context.batch_statistics.empty()) {
      const double unbiased = static_cast<double>(call->rows) / static_cast<double>(call->rows - 1);
      for (int64_t c = 0; c < call->channels; ++c) {
        context.batch_statistics[norm.mean_offset + c] = mean[c];
        context.batch_statistics[norm.variance_offset + c] = static_cast<float>(rstd[c] * unbiased);
      }
    }
  } else {
    FURROW_CHECK(!context.statistics.empty(), "batch norm evaluates with running statistics");
    for (int64_t c = 0; c < call->channels; ++c) {
      mean[c] = context.statistics[norm.mean_offset + c];
      rstd[c] = context.statistics[norm.variance_offset + c];
    }
  }
  for (int64_t c = 0; c < call->channels; ++c)
    rstd[c] = static_cast<float>(1 / std::sqrt(static_cast<double>(rstd[c]) + norm.eps));
}

}  // namespace

void check_rows_of_norm(int64_t rows) {
  if (rows >= 2) return;
  throw Error(ErrorCode::kInvalidArgument,
              "batch norm has one value per channel to train with: it needs more samples in a microbatch, or "
              "larger images");
}

namespace by_kernels {

at::Tensor batch_norm(const at::Tensor& x, const Param& weight, const Param& bias, const BatchNorm& norm,
                      OpContext& context) {
  FURROW_CHECK(x.dim() == 4 && is_number(x) && x.size(1) == weight.leaf.numel(),
               "batch_norm reads numbers [batch, channels, height, width]");
  BatchNormCall call;
  call.channels = x.size(1);
  call.rows = x.numel() / call.channels;
  call.x = x.detach().contiguous(kImageFormat);
  call.weight = widened(weight.leaf, 1);
  call.mean = at::empty({call.channels}, at::TensorOptions().dtype(at::kFloat));
  call.rstd = at::empty_like(call.mean);
  call.residual = norm.residual.defined() && norm.residual.requires_grad();
  call.weight_index = weight.index;
  call.bias_index = bias.index;
  call.threads = context.threads;
  call.sink = context.sink;
  find_moments(norm, context, &call);
  at::Tensor residual;
  if (norm.residual.defined()) residual = norm.residual.detach().contiguous(kImageFormat);
  at::Tensor y = at::empty(x.sizes(), call.x.options(), kImageFormat);
  const at::Tensor beta = widened(bias.leaf, 1);
  by_type(x.scalar_type(), [&]<class T>(T) {
    kernels::BatchNormApply<T> args;
    args.rows = call.rows;
    args.channels = call.channels;
    args.x = numbers<T>(call.x);
    args.residual = numbers<T>(residual);
    args.mean = call.mean.const_data_ptr<float>();
    args.rstd = call.rstd.const_data_ptr<float>();
    args.gamma = call.weight.const_data_ptr<float>();
    args.beta = beta.const_data_ptr<float>();
    args.relu = norm.relu;
    args.y = mutable_numbers<T>(y);
    kernels::batch_norm_apply(args, context.threads);
  });
  if (norm.relu && needs_backward({x, norm.residual, weight.leaf})) {
    if (norm.residual.defined()) {
      call.y = y.detach();
    } else {
      call.beta = beta;
    }
  }
  const auto backward = [call](const at::Tensor& dy) { return batch_norm_backward(call, dy); };
  if (norm.residual.defined())
    return with_backward(y, {x, norm.residual, weight.leaf}, backward, kImageFormat);
  return with_backward(y, {x, weight.leaf}, backward, kImageFormat);
}

}  // namespace by_kernels
}  // namespace furrow::tensor
