#include "furrow/tensor/kernels/attention.h"

#include <ATen/ATen.h>

#include <cmath>
#include <memory>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/dropout_mask.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/operations_torch.h"

namespace furrow::tensor {
namespace {

// One call, kept from forward to backward.  All tensors are dense and without history.
struct AttentionCall {
  kernels::AttentionShape shape;
  at::Tensor qkv, out, log_sum_exp, rotary;
  std::vector<kernels::AttentionDocument> documents;
  bool dropped = false;
  kernels::DropoutMask mask;
  int threads = 1;
};

std::vector<at::Tensor> attention_backward(const AttentionCall& call, const at::Tensor& gradient) {
  const at::Tensor dout = widened(gradient, call.threads), out = widened(call.out, call.threads);
  const at::Tensor qkv = widened(call.qkv, call.threads);
  at::Tensor dqkv = at::empty_like(qkv);
  kernels::AttentionBackward args;
  args.shape = call.shape;
  args.qkv = qkv.const_data_ptr<float>();
  args.out = out.const_data_ptr<float>();
  args.log_sum_exp = call.log_sum_exp.const_data_ptr<float>();
  args.dout = dout.const_data_ptr<float>();
  args.dqkv = dqkv.data_ptr<float>();
  args.dropout = call.dropped ? &call.mask : nullptr;
  args.rotary = call.rotary.defined() ? call.rotary.const_data_ptr<float>() : nullptr;
  args.documents = call.documents;
  kernels::attention_backward(args, call.threads);
  return {narrowed(dqkv, gradient.scalar_type(), call.threads)};
}

// The runs 0, 1, 2, ... of positions in each row; none where the context has no positions.
std::vector<kernels::AttentionDocument> documents_of(const kernels::AttentionShape& shape,
                                                     std::span<const int64_t> positions) {
  std::vector<kernels::AttentionDocument> documents;
  FURROW_CHECK(positions.empty() || positions.size() == static_cast<size_t>(shape.batch * shape.time),
               "a position for every token");
  for (size_t i = 0; i < positions.size(); ++i) {
    const int64_t sample = static_cast<int64_t>(i) / shape.time, time = static_cast<int64_t>(i) % shape.time;
    if (positions[i] == 0) documents.push_back({sample, time, 0});
    FURROW_CHECK(
        !documents.empty() && documents.back().sample == sample && positions[i] == documents.back().length,
        "positions that do not count up from a document's start");
    ++documents.back().length;
  }
  return documents;
}

kernels::AttentionShape shape_of(const at::Tensor& qkv, const AttentionHeads& heads) {
  const int64_t keys = heads.kv_heads > 0 ? heads.kv_heads : heads.heads, all = heads.heads + 2 * keys;
  FURROW_CHECK(qkv.dim() == 3 && is_number(qkv) && heads.heads > 0 && heads.heads % keys == 0 &&
                   qkv.size(2) % all == 0,
               "attention reads numbers [batch, time, (heads + 2 kv_heads) * head_size]");
  const kernels::AttentionShape shape{qkv.size(0), qkv.size(1), heads.heads, qkv.size(2) / all, keys};
  FURROW_CHECK(
      !heads.rotary.defined() || (heads.rotary.size(0) >= shape.time &&
                                  heads.rotary.size(1) == shape.head_size && shape.head_size % 2 == 0),
      "a rotary table has a row for every position and an even head_size");
  return shape;
}

}  // namespace

at::Tensor rotary_table(int64_t time, int64_t head_size, double theta) {
  at::Tensor table = at::empty({time, head_size}, at::kFloat);
  auto* row = table.data_ptr<float>();
  const int64_t half = head_size / 2;
  for (int64_t t = 0; t < time; ++t, row += head_size) {
    for (int64_t d = 0; d < half; ++d) {
      const double angle = static_cast<double>(t) *
                           std::pow(theta, -2.0 * static_cast<double>(d) / static_cast<double>(head_size));
      row[d] = static_cast<float>(std::cos(angle));
      row[half + d] = static_cast<float>(std::sin(angle));
    }
  }
  return table;
}

namespace by_kernels {

at::Tensor causal_attention(const at::Tensor& qkv, const AttentionHeads& heads, double dropout_p,
                            std::string_view stream, OpContext& context) {
  AttentionCall call;
  call.shape = shape_of(qkv, heads);
  call.rotary = heads.rotary;
  call.qkv = qkv.detach().contiguous();
  call.threads = context.threads;
  call.dropped = context.training && dropout_p > 0;
  if (call.dropped) {
    FURROW_CHECK(call.shape.batch == static_cast<int64_t>(context.sample_ids.size()),
                 "dropout needs a sample id for every row");
    call.mask = dropout_mask(dropout_p, stream, heads.heads * call.shape.time * call.shape.time, context);
  }
  const at::Tensor wide = widened(qkv, context.threads);
  at::Tensor out = at::empty({call.shape.batch, call.shape.time, call.shape.channels()}, wide.options());
  call.log_sum_exp = at::empty({call.shape.batch, heads.heads, call.shape.time}, wide.options());
  kernels::AttentionForward args;
  args.shape = call.shape;
  args.qkv = wide.const_data_ptr<float>();
  args.out = out.data_ptr<float>();
  args.log_sum_exp = call.log_sum_exp.data_ptr<float>();
  args.dropout = call.dropped ? &call.mask : nullptr;
  args.rotary = call.rotary.defined() ? call.rotary.const_data_ptr<float>() : nullptr;
  call.documents = documents_of(call.shape, context.positions);
  args.documents = call.documents;
  kernels::attention_forward(args, context.threads);
  out = narrowed(out, qkv.scalar_type(), context.threads);
  call.out = out.detach();
  return with_backward(out, {qkv}, [call](const at::Tensor& dout) { return attention_backward(call, dout); });
}

}  // namespace by_kernels
}  // namespace furrow::tensor
