#include "furrow/tensor/kernels/attention.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/dropout_mask.h"
#include "furrow/tensor/half_rows_torch.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/kernels/parallel.h"
#include "furrow/tensor/kernels/scratch.h"
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

// A sample, or all of them: which rows of every tensor a call of a kernel works on.
struct Samples {
  int64_t begin = 0, count = 0;
};

// Documents that begin in the samples, which lie in their order.
std::span<const kernels::AttentionDocument> documents_in(const AttentionCall& call, const Samples& samples) {
  const auto before = [](const kernels::AttentionDocument& document, int64_t sample) {
    return document.sample < sample;
  };
  const auto& all = call.documents;
  const auto first = std::lower_bound(all.begin(), all.end(), samples.begin, before);
  return {first, std::lower_bound(first, all.end(), samples.begin + samples.count, before)};
}

// What one call of a kernel needs to know of its samples alone.
struct PartOfCall {
  PartOfCall(const AttentionCall& call, const Samples& samples) : shape(call.shape), mask(call.mask) {
    shape.batch = samples.count;
    if (call.dropped) mask.samples += samples.begin;
    for (kernels::AttentionDocument document : documents_in(call, samples)) {
      document.sample -= samples.begin;
      documents.push_back(document);
    }
    log_sum_exp = call.log_sum_exp.data_ptr<float>() + samples.begin * shape.heads * shape.time;
  }

  template <class Args>
  void give(const AttentionCall& call, Args* args) const {
    args->shape = shape;
    args->log_sum_exp = log_sum_exp;
    args->dropout = call.dropped ? &mask : nullptr;
    args->rotary = call.rotary.defined() ? call.rotary.const_data_ptr<float>() : nullptr;
    args->documents = documents;
  }

  kernels::AttentionShape shape;
  kernels::DropoutMask mask;
  std::vector<kernels::AttentionDocument> documents;
  float* log_sum_exp;
};

void forward_samples(const AttentionCall& call, const Samples& samples, const float* qkv, float* out,
                     int threads) {
  const PartOfCall part(call, samples);
  kernels::AttentionForward args;
  part.give(call, &args);
  args.qkv = qkv;
  args.out = out;
  kernels::attention_forward(args, threads);
}

struct BackwardData {
  const float* qkv = nullptr;
  const float* out = nullptr;
  const float* dout = nullptr;
  float* dqkv = nullptr;
};

void backward_samples(const AttentionCall& call, const Samples& samples, const BackwardData& data,
                      int threads) {
  const PartOfCall part(call, samples);
  kernels::AttentionBackward args;
  part.give(call, &args);
  args.qkv = data.qkv;
  args.out = data.out;
  args.dout = data.dout;
  args.dqkv = data.dqkv;
  kernels::attention_backward(args, threads);
}

// Of 16 bits one sample after the other, so that float32 copies are of one sample for each thread.
template <class Work>
void for_each_sample(const AttentionCall& call, const Work& work) {
  const int64_t batch = call.shape.batch;
  const bool apart = batch >= call.threads;  // else the threads share a sample's heads
  kernels::parallel_for(apart ? call.threads : 1, batch, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) work(b, apart ? 1 : call.threads);
  });
}

at::Tensor forward(const AttentionCall& call) {
  const kernels::AttentionShape& s = call.shape;
  const at::Tensor out = at::empty({s.batch, s.time, s.channels()}, call.qkv.options());
  if (out.scalar_type() == at::kFloat) {
    forward_samples(call, {0, s.batch}, call.qkv.const_data_ptr<float>(), out.data_ptr<float>(),
                    call.threads);
    return out;
  }
  const HalfRows qkvs(call.qkv, s.time * s.row()), outs(out, s.time * s.channels());
  for_each_sample(call, [&](int64_t b, int threads) {
    kernels::ScratchScope scratch;
    float* const qkv = scratch.floats(s.time * s.row());
    float* const wide = scratch.floats(s.time * s.channels());
    qkvs.read(b, 1, qkv);
    forward_samples(call, {b, 1}, qkv, wide, threads);
    outs.write(b, 1, wide);
  });
  return out;
}

std::vector<at::Tensor> attention_backward(const AttentionCall& call, const at::Tensor& gradient) {
  const kernels::AttentionShape& s = call.shape;
  const at::Tensor dout = gradient.detach().contiguous(), dqkv = at::empty_like(call.qkv);
  if (dout.scalar_type() == at::kFloat) {
    backward_samples(call, {0, s.batch},
                     {call.qkv.const_data_ptr<float>(), call.out.const_data_ptr<float>(),
                      dout.const_data_ptr<float>(), dqkv.data_ptr<float>()},
                     call.threads);
    return {dqkv};
  }
  const HalfRows qkvs(call.qkv, s.time * s.row()), dqkvs(dqkv, s.time * s.row());
  const HalfRows outs(call.out, s.time * s.channels()), douts(dout, s.time * s.channels());
  for_each_sample(call, [&](int64_t b, int threads) {
    kernels::ScratchScope scratch;
    float* const qkv = scratch.floats(s.time * s.row());
    float* const out = scratch.floats(s.time * s.channels());
    float* const wide_dout = scratch.floats(s.time * s.channels());
    float* const wide_dqkv = scratch.floats(s.time * s.row());
    qkvs.read(b, 1, qkv);
    outs.read(b, 1, out);
    douts.read(b, 1, wide_dout);
    backward_samples(call, {b, 1}, {qkv, out, wide_dout, wide_dqkv}, threads);
    dqkvs.write(b, 1, wide_dqkv);
  });
  return {dqkv};
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

at::Tensor rotary_table(int64_t time, std::span<const double> frequencies) {
  const size_t half = frequencies.size();
  at::Tensor table = at::empty({time, static_cast<int64_t>(2 * half)}, at::kFloat);
  auto* row = table.data_ptr<float>();
  for (int64_t t = 0; t < time; ++t, row += 2 * half) {
    for (size_t d = 0; d < half; ++d) {
      const double angle = static_cast<double>(t) * frequencies[d];
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
  call.log_sum_exp =
      at::empty({call.shape.batch, heads.heads, call.shape.time}, call.qkv.options().dtype(at::kFloat));
  call.documents = documents_of(call.shape, context.positions);
  const at::Tensor out = forward(call);
  call.out = out.detach();
  return with_backward(out, {qkv}, [call](const at::Tensor& dout) { return attention_backward(call, dout); });
}

}  // namespace by_kernels
}  // namespace furrow::tensor
