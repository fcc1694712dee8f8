#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/tensor/kernels/attention.cc"
#include "furrow/tensor/kernels/targets.h"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on
#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

#include "furrow/tensor/kernels/attention.h"
#include "furrow/tensor/kernels/attention_products-inl.h"
#include "furrow/tensor/kernels/gemm_pack-inl.h"
#include "furrow/tensor/kernels/math-inl.h"
#include "furrow/tensor/kernels/parallel.h"
#include "furrow/tensor/kernels/philox-inl.h"
#include "furrow/tensor/kernels/scratch.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {
namespace {

// Which of the queries lane, lane + 1, ... of a panel see the key that lies `key` past the panel's first
// query.
HWY_INLINE MF sees(int lane, int64_t key) {
  const VI last_unseen = hn::Set(DI(), static_cast<int32_t>(key - 1));
  return hn::RebindMask(DF(), hn::Gt(hn::Iota(DI(), static_cast<int32_t>(lane)), last_unseen));
}

// scores = fn(score, lane) where a query sees the key, 0 elsewhere, then use(result, offset, lane, keep) of
// each vector, keep(x) being 0 where it is not seen: key j by query begin + lane when j <= it.
template <class Fn, class Use>
HWY_INLINE void for_each_score(const Panel& p, float* scores, const Fn& fn, const Use& use) {
  const auto over = [&](int64_t begin, int64_t end, auto all_seen) HWY_ATTR {
    for (int64_t j = begin; j < end; ++j) {
      for (int lane = 0; lane < kNR; lane += kLanes) {
        const auto keep = [&](VF x) HWY_ATTR {
          return all_seen ? x : hn::IfThenElseZero(sees(lane, j - p.begin), x);
        };
        float* at = scores + j * kNR + lane;
        const VF x = keep(fn(load(at), lane));
        store(x, at);
        use(x, j * kNR + lane, lane, keep);
      }
    }
  };
  over(0, p.begin + 1, std::true_type());
  over(p.begin + 1, p.end, std::false_type());
}

// Largest seen score of each query; every query sees the first key.
void column_max(const Panel& p, const float* scores, float* most) {
  constexpr int64_t kChains = 4;
  for (int lane = 0; lane < kNR; lane += kLanes) {
    VF m[kChains];
    for (VF& chain : m) chain = load(scores + lane);
    const int64_t all_seen = (p.begin + 1) / kChains * kChains;
    for (int64_t j = 0; j < all_seen; j += kChains) {
      for (int64_t c = 0; c < kChains; ++c) m[c] = hn::Max(load(scores + (j + c) * kNR + lane), m[c]);
    }
    for (int64_t j = all_seen; j < p.end; j += kChains) {
      for (int64_t c = 0; c < kChains && j + c < p.end; ++c) {
        const VF x = load(scores + (j + c) * kNR + lane);
        m[c] = hn::IfThenElse(sees(lane, j + c - p.begin), hn::Max(x, m[c]), m[c]);
      }
    }
    store(hn::Max(hn::Max(m[0], m[1]), hn::Max(m[2], m[3])), most + lane);
  }
}

// The factors of a panel, [key][kNR].  `rows` holds kNR x time floats.
void panel_dropout(const Head& h, const Panel& p, float* rows, float* factors) {
  for (int64_t i = 0; i < p.count; ++i) {
    const int64_t first = (h.head * h.s.time + h.begin + p.begin + i) * h.s.time + h.begin;
    for (int64_t j = 0; j < p.end; j += kChunkWords) {
      dropout_factors(*h.dropout, h.dropout->samples[h.sample], first + j, std::min(kChunkWords, p.end - j),
                      rows + i * h.time + j);
    }
  }
  if (p.count < kNR) std::memset(factors, 0, static_cast<size_t>(p.end * kNR) * sizeof(float));
  transpose_block(rows, h.time, p.count, p.end, factors, kNR);
}

void multiply_in_place(int64_t n, const float* factors, float* x) {
  sweep(0, n,
        [&](int64_t i, auto at) HWY_ATTR { at.store(hn::Mul(at.load(x + i), at.load(factors + i)), x + i); });
}

struct ForwardBuffers {
  float *values, *queries, *scores, *drop_rows, *factors;
};

// Unnormalised probabilities in `scores`; 1 / sum and the log-sum-exp of each query.
void softmax_columns(const Head& h, const Panel& p, float* scores, float* inverse, float* log_sum_exp) {
  float most[kNR], sum[kNR] = {};
  column_max(p, scores, most);
  const VF scale = set(h.scale);
  for_each_score(
      p, scores,
      [&](VF x, int lane) HWY_ATTR { return exp_nonpositive(hn::Mul(hn::Sub(x, load(most + lane)), scale)); },
      [&](VF x, int64_t, int lane, const auto&)
          HWY_ATTR { store(hn::Add(load(sum + lane), x), sum + lane); });
  for (int64_t i = 0; i < p.count; ++i) {
    inverse[i] = 1.0f / sum[i];
    log_sum_exp[i] = most[i] * h.scale + std::log(sum[i]);
  }
}

void forward_panel(const AttentionForward& a, const Head& h, const Panel& p, Operand values,
                   const ForwardBuffers& b) {
  float inverse[kNR] = {};
  pack_b(MatrixView{h.q, 1, h.q_stride}, {0, h.s.head_size}, p.begin, p.count, b.queries);
  fetch_next_inputs(h, p);
  multiply_rows(h, {h.k, h.k_stride}, b.queries, p.end, b.scores);
  softmax_columns(h, p, b.scores, inverse, a.log_sum_exp + h.sums_offset() + p.begin);
  if (h.dropout) {
    panel_dropout(h, p, b.drop_rows, b.factors);
    multiply_in_place(p.end * kNR, b.factors, b.scores);
  }
  multiply_scores(h, p, b.scores, values, inverse, a.out + h.out_offset() + p.begin * h.s.channels(),
                  h.s.channels());
}

void forward_head(const AttentionForward& a, const Head& h, const ForwardBuffers& b) {
  const Operand values = right_operand(h, h.v, h.stride, b.values);
  for (int64_t i = 0; i < h.panels(); ++i) forward_panel(a, h, Panel(i, h.time), values, b);
}

int64_t score_floats(const AttentionShape& s) { return s.time * kNR; }

struct BackwardBuffers {
  float *keys, *queries, *douts;  // copies of right operands
  float *q_panel, *dout_panel;    // packed B of a panel, [head_size][kNR]
  float *p, *dp;                  // [key][kNR]: probabilities, then their gradient
  float *dk, *dv;                 // [time][padded columns], sums over panels
  float *drop_rows, *factors;
};

// What backward multiplies with on the right.
struct RightOperands {
  Operand keys, queries, douts;
};

// delta_i = dout_i . out_i, in order.
void row_dots(const AttentionBackward& a, const Head& h, const Panel& p, float* delta) {
  alignas(64) float sums[kNR * 16];
  for (int64_t i = 0; i < p.count; ++i) {
    const int64_t row = h.out_offset() + (p.begin + i) * h.s.channels();
    F16 sum = set16(0);
    sweep16(h.s.head_size, 0, [&](int64_t d, auto at) HWY_ATTR {
      sum = map16([](VF x, VF y, VF z) HWY_ATTR { return hn::MulAdd(x, y, z); }, at.load(a.out + row + d),
                  at.load(a.dout + row + d), sum);
    });
    store16(sum, sums + 16 * i);
  }
  sum16_rows(sums, p.count, delta);
}

// Probabilities and the gradient of the scores (before the scale) of a panel, in b.p and b.dp.
void score_gradients(const AttentionBackward& a, const Head& h, const Panel& p, const BackwardBuffers& b) {
  float lse[kNR] = {}, delta[kNR] = {};
  std::copy_n(a.log_sum_exp + h.sums_offset() + p.begin, p.count, lse);
  row_dots(a, h, p, delta);
  multiply_rows(h, {h.k, h.k_stride}, b.q_panel, p.end, b.p);
  multiply_rows(h, {h.v, h.stride}, b.dout_panel, p.end, b.dp);
  if (h.dropout) {
    panel_dropout(h, p, b.drop_rows, b.factors);
    multiply_in_place(p.end * kNR, b.factors, b.dp);
  }
  const VF scale = set(h.scale);
  for_each_score(
      p, b.p,
      [&](VF s, int lane) HWY_ATTR { return exp_nonpositive(hn::MulSub(s, scale, load(lse + lane))); },
      [&](VF probability, int64_t at, int lane, const auto& keep) HWY_ATTR {
        const VF dp = hn::Sub(load(b.dp + at), load(delta + lane));
        store(keep(hn::Mul(probability, dp)), b.dp + at);
      });
  if (h.dropout) multiply_in_place(p.end * kNR, b.factors, b.p);
}

void fetch_next_backward(const AttentionBackward& a, const Head& h, const Panel& p) {
  fetch_next_inputs(h, p);
  for (const float* x : {a.out, a.dout}) fetch_next(h, p, x + h.out_offset(), h.s.channels());
  for (const int64_t offset : {h.q_offset, h.k_offset, h.v_offset})
    fetch_next(h, p, a.dqkv + offset, h.stride);
}

// Adds the panel to dk and dv, writes its dq.
void backward_panel(const AttentionBackward& a, const Head& h, const Panel& p, const RightOperands& right,
                    const BackwardBuffers& b) {
  const int64_t channels = h.s.channels();
  const float* dout = a.dout + h.out_offset();
  float* dq = a.dqkv + h.q_offset;
  pack_b(MatrixView{h.q, 1, h.q_stride}, {0, h.s.head_size}, p.begin, p.count, b.q_panel);
  pack_b(MatrixView{dout, 1, channels}, {0, h.s.head_size}, p.begin, p.count, b.dout_panel);
  fetch_next_backward(a, h, p);
  score_gradients(a, h, p, b);
  add_product(h, p, b.p, right.douts, b.dv);
  add_product(h, p, b.dp, right.queries, b.dk);
  float scales[kNR];
  std::fill_n(scales, kNR, h.scale);
  multiply_scores(h, p, b.dp, right.keys, scales, dq + p.begin * h.stride, h.stride);
}

// The sums over the queries of a group, to their places.
void write_keys(const AttentionBackward& a, const Head& h, const BackwardBuffers& b) {
  const int64_t width = padded_columns(h.s);
  float* dk = a.dqkv + h.k_offset;
  float* dv = a.dqkv + h.v_offset;
  const VF scale = set(h.scale);
  for (int64_t j = 0; j < h.time; ++j) {
    sweep(0, h.s.head_size, [&](int64_t d, auto at) HWY_ATTR {
      at.store(hn::Mul(scale, at.load(b.dk + j * width + d)), dk + j * h.stride + d);
      at.store(at.load(b.dv + j * width + d), dv + j * h.stride + d);
    });
  }
  if (a.rotary) rotate(h, a.rotary, -1, dk, h.stride, dk, h.stride);
}

void backward_head(const AttentionBackward& a, const Head& h, const BackwardBuffers& b) {
  if (h.first()) {
    const auto bytes = static_cast<size_t>(h.time * padded_columns(h.s)) * sizeof(float);
    std::memset(b.dk, 0, bytes);
    std::memset(b.dv, 0, bytes);
  }
  const RightOperands right{right_operand(h, h.k, h.k_stride, b.keys),
                            right_operand(h, h.q, h.q_stride, b.queries),
                            right_operand(h, a.dout + h.out_offset(), h.s.channels(), b.douts)};
  for (int64_t i = 0; i < h.panels(); ++i) backward_panel(a, h, Panel(i, h.time), right, b);
  float* dq = a.dqkv + h.q_offset;
  if (a.rotary) rotate(h, a.rotary, -1, dq, h.stride, dq, h.stride);
  if (h.last()) write_keys(a, h, b);
}

BackwardBuffers take_backward(const AttentionShape& s, bool dropout, ScratchScope& scratch) {
  const int64_t width = padded_columns(s), scores = score_floats(s);
  BackwardBuffers b{};
  for (float** p : {&b.keys, &b.queries, &b.douts}) *p = right_copy(s, scratch);
  for (float** p : {&b.q_panel, &b.dout_panel}) *p = scratch.floats(s.head_size * kNR);
  for (float** p : {&b.p, &b.dp}) *p = scratch.floats(scores);
  for (float** p : {&b.dk, &b.dv}) *p = scratch.floats(s.time * width);
  b.drop_rows = dropout ? scratch.floats(s.time * kNR) : nullptr;
  b.factors = dropout ? scratch.floats(scores) : nullptr;
  return b;
}

// fn(head) for every query head of every document, a thread's share of key-value heads each.
template <class Fn>
void for_each_head(const AttentionShape& s, std::span<const AttentionDocument> documents, const float* qkv,
                   const DropoutMask* dropout, std::pair<int64_t, int64_t> share, const Fn& fn) {
  for (int64_t i = share.first; i < share.second; ++i) {
    const AttentionDocument whole{i / s.keys(), 0, s.time};
    const AttentionDocument& document =
        documents.empty() ? whole : documents[static_cast<size_t>(i / s.keys())];
    for (int64_t member = 0; member < s.group(); ++member)
      fn(Head(s, qkv, document, i % s.keys(), member, dropout));
  }
}

// Key-value heads of all documents: what is shared out over threads.
int64_t head_count(const AttentionShape& s, std::span<const AttentionDocument> documents) {
  return (documents.empty() ? s.batch : static_cast<int64_t>(documents.size())) * s.keys();
}

}  // namespace

void run_attention_forward(const AttentionForward& a, int threads) {
  const AttentionShape& s = a.shape;
  parallel_for(threads, head_count(s, a.documents), [&](int64_t begin, int64_t end) {
    ScratchScope scratch;
    const bool drop = a.dropout != nullptr;
    const ForwardBuffers b{right_copy(s, scratch), scratch.floats(s.head_size * kNR),
                           scratch.floats(score_floats(s)), drop ? scratch.floats(s.time * kNR) : nullptr,
                           drop ? scratch.floats(score_floats(s)) : nullptr};
    const Turned turned(s, a.rotary, scratch);
    for_each_head(s, a.documents, a.qkv, a.dropout, {begin, end}, [&](Head h) {
      turn(h, a.rotary, turned);
      forward_head(a, h, b);
    });
  });
}

void run_attention_backward(const AttentionBackward& a, int threads) {
  const AttentionShape& s = a.shape;
  parallel_for(threads, head_count(s, a.documents), [&](int64_t begin, int64_t end) {
    ScratchScope scratch;
    const BackwardBuffers b = take_backward(s, a.dropout != nullptr, scratch);
    const Turned turned(s, a.rotary, scratch);
    for_each_head(s, a.documents, a.qkv, a.dropout, {begin, end}, [&](Head h) {
      turn(h, a.rotary, turned);
      backward_head(a, h, b);
    });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace furrow::tensor::kernels {

HWY_EXPORT(run_attention_forward);
HWY_EXPORT(run_attention_backward);
void attention_forward(const AttentionForward& args, int threads) {
  HWY_DYNAMIC_DISPATCH(run_attention_forward)(args, threads);
}
void attention_backward(const AttentionBackward& args, int threads) {
  HWY_DYNAMIC_DISPATCH(run_attention_backward)(args, threads);
}

}  // namespace furrow::tensor::kernels
#endif
