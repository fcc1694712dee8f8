#include "furrow/tensor/kernels/attention.h"

#include <ATen/ATen.h>

#include <memory>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/dropout_mask.h"
#include "furrow/tensor/ops_torch.h"

namespace furrow::tensor {
namespace {

// One call, kept from forward to backward.  All tensors are dense and without history.
struct AttentionCall {
  kernels::AttentionShape shape;
  at::Tensor qkv, out, log_sum_exp;
  bool dropped = false;
  kernels::DropoutMask mask;
  int threads = 1;
};

std::vector<at::Tensor> attention_backward(const AttentionCall& call, const at::Tensor& dout) {
  at::Tensor dqkv = at::empty_like(call.qkv);
  kernels::AttentionBackward args;
  args.shape = call.shape;
  args.qkv = call.qkv.const_data_ptr<float>();
  args.out = call.out.const_data_ptr<float>();
  args.log_sum_exp = call.log_sum_exp.const_data_ptr<float>();
  args.dout = dout.const_data_ptr<float>();
  args.dqkv = dqkv.data_ptr<float>();
  args.dropout = call.dropped ? &call.mask : nullptr;
  kernels::attention_backward(args, call.threads);
  return {dqkv};
}

}  // namespace

at::Tensor causal_attention(const at::Tensor& qkv, int64_t heads, double dropout_p, std::string_view stream,
                            OpContext& context) {
  FURROW_CHECK(
      qkv.dim() == 3 && qkv.scalar_type() == at::kFloat && heads > 0 && qkv.size(2) % (3 * heads) == 0,
      "attention reads float32 [batch, time, 3 * width], width a multiple of heads");
  AttentionCall call;
  call.shape = {qkv.size(0), qkv.size(1), heads, qkv.size(2) / (3 * heads)};
  call.qkv = qkv.detach().contiguous();
  call.threads = context.threads;
  call.dropped = context.training && dropout_p > 0;
  if (call.dropped) {
    FURROW_CHECK(call.shape.batch == static_cast<int64_t>(context.sample_ids.size()),
                 "dropout needs a sample id for every row");
    call.mask = dropout_mask(dropout_p, stream, context);
  }
  at::Tensor out = at::empty({call.shape.batch, call.shape.time, call.shape.channels()}, call.qkv.options());
  call.log_sum_exp = at::empty({call.shape.batch, heads, call.shape.time}, call.qkv.options());
  kernels::AttentionForward args;
  args.shape = call.shape;
  args.qkv = call.qkv.const_data_ptr<float>();
  args.out = out.data_ptr<float>();
  args.log_sum_exp = call.log_sum_exp.data_ptr<float>();
  args.dropout = call.dropped ? &call.mask : nullptr;
  kernels::attention_forward(args, context.threads);
  call.out = out.detach();
  return with_backward(out, {qkv}, [call](const at::Tensor& dout) { return attention_backward(call, dout); });
}

}  // namespace furrow::tensor
