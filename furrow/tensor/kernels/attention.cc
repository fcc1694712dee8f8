#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/tensor/kernels/attention.cc"
#include "furrow/tensor/kernels/targets.h"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "furrow/tensor/kernels/attention.h"
#include "furrow/tensor/kernels/gemm_pack-inl.h"
#include "furrow/tensor/kernels/math-inl.h"
#include "furrow/tensor/kernels/parallel.h"
#include "furrow/tensor/kernels/philox-inl.h"
#include "furrow/tensor/kernels/scratch.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {
namespace {

// Everything is computed transposed, for a panel of kNR queries: scores are [key][query], so the softmax runs
// down the columns without any horizontal reduction, and the probabilities are a packed B operand as they
// stand.

struct Head {
  const AttentionShape& s;
  int64_t sample, head;
  int64_t begin, time;                   // the tokens of its sample that it sees
  int64_t stride;                        // of a row of qkv
  int64_t q_offset, k_offset, v_offset;  // in qkv
  const float *q, *k, *v;                // [time] from `begin` on, rows q_stride, k_stride and stride apart
  int64_t q_stride, k_stride;
  const DropoutMask* dropout;
  RowPanels keys;  // register blocks of keys, and of the columns of a head
  RowPanels columns;
  float scale;

  // Query head `member` of the group of key-value head `key` over one document.
  Head(const AttentionShape& s, const float* qkv, const AttentionDocument& document, int64_t key,
       int64_t member, const DropoutMask* dropout)
      : s(s),
        sample(document.sample),
        head(key * s.group() + member),
        begin(document.begin),
        time(document.length),
        stride(s.row()),
        q_offset((sample * s.time + begin) * stride + head * s.head_size),
        k_offset((sample * s.time + begin) * stride + s.channels() + key * s.head_size),
        v_offset(k_offset + s.kv_channels()),
        q(qkv + q_offset),
        k(qkv + k_offset),
        v(qkv + v_offset),
        q_stride(stride),
        k_stride(stride),
        dropout(dropout != nullptr && dropout->p > 0 ? dropout : nullptr),
        keys(time),
        columns(s.head_size),
        scale(1.0f / std::sqrt(static_cast<float>(s.head_size))) {}

  bool first() const { return head % s.group() == 0; }
  bool last() const { return head % s.group() == s.group() - 1; }
  int64_t out_offset() const { return (sample * s.time + begin) * s.channels() + head * s.head_size; }
  int64_t sums_offset() const { return (sample * s.heads + head) * s.time + begin; }  // of log-sum-exps
  int64_t panels() const { return (time + kNR - 1) / kNR; }
  int64_t padded_columns() const { return (s.head_size + kNR - 1) / kNR * kNR; }
};

// Rows of a head turned by their angles, or back with `sign` -1.  `out` may be `x`.
void rotate(const Head& h, const float* rotary, float sign, const float* x, int64_t x_stride, float* out,
            int64_t out_stride) {
  const int64_t size = h.s.head_size, half = size / 2;
  for (int64_t t = 0; t < h.time; ++t, x += x_stride, out += out_stride) {
    const float* cosines = rotary + t * size;
    sweep(0, half, [&](int64_t d, auto at) HWY_ATTR {
      const VF a = at.load(x + d), b = at.load(x + half + d), cosine = at.load(cosines + d);
      const VF sine = hn::Mul(set(sign), at.load(cosines + half + d));
      at.store(hn::NegMulAdd(b, sine, hn::Mul(a, cosine)), out + d);
      at.store(hn::MulAdd(a, sine, hn::Mul(b, cosine)), out + half + d);
    });
  }
}

// Where a thread keeps the turned queries and keys of a head.
struct Turned {
  float *q = nullptr, *k = nullptr;  // [time, head_size]
  Turned(const AttentionShape& s, const float* rotary, ScratchScope& scratch) {
    if (rotary == nullptr) return;
    q = scratch.floats(s.time * s.head_size);
    k = scratch.floats(s.time * s.head_size);
  }
};

// Lets the head read turned queries and keys; the keys of a group are turned with its first head.
void turn(Head& h, const float* rotary, const Turned& turned) {
  if (rotary == nullptr) return;
  rotate(h, rotary, 1, h.q, h.stride, turned.q, h.s.head_size);
  if (h.first()) rotate(h, rotary, 1, h.k, h.stride, turned.k, h.s.head_size);
  h.q = turned.q;
  h.k = turned.k;
  h.q_stride = h.k_stride = h.s.head_size;
}

// A panel of queries [begin, begin + count) and the keys [0, end) that they see.
struct Panel {
  int64_t begin, count, end;
  Panel(int64_t index, int64_t time)
      : begin(index * kNR), count(std::min<int64_t>(kNR, time - begin)), end(begin + count) {}
};

// The columns of a [time, head_size] view as packed A with depth time.
void pack_columns(const Head& h, const float* x, int64_t stride, float* dst) {
  pack_a(MatrixView{x, 1, stride}, 0, h.columns, {0, h.time}, dst);
}
int64_t packed_columns_floats(const AttentionShape& s) { return s.head_size * row_room(s.time) + kPackSlack; }

// out [key][kNR] = rows of a [time, head_size] view times panel [head_size][kNR]; whole register blocks, so
// up to kMR - 1 rows past `end`.
void multiply_rows(const Head& h, Operand rows, const float* panel, int64_t end, float* out) {
  for (int64_t b = 0; b < h.keys.parts && h.keys.begin(b) < end; ++b) {
    const int64_t j = h.keys.begin(b);
    micro_kernel_of<SingleLanes, Rows::kAlong>(h.keys.size(b))(
        {rows.data + j * rows.next, rows.next}, {panel, kNR}, h.s.head_size, false, out + j * kNR, kNR);
  }
}

// out [head_size][kNR] = packed columns (keys [0, end)) times panel [key][kNR].
void multiply_columns(const Head& h, const float* columns, const float* panel, int64_t end, float* out) {
  for (int64_t b = 0; b < h.columns.parts; ++b) {
    const int64_t j = h.columns.begin(b), count = h.columns.size(b);
    micro_kernel_of<SingleLanes, Rows::kAcross>(count)({columns + j * row_room(h.time), count}, {panel, kNR},
                                                       end, false, out + j * kNR, kNR);
  }
}

// Which of the queries lane, lane + 1, ... of a panel see the key that lies `key` past the panel's first
// query.
HWY_INLINE MF sees(int lane, int64_t key) {
  const VI last_unseen = hn::Set(DI(), static_cast<int32_t>(key - 1));
  return hn::RebindMask(DF(), hn::Gt(hn::Iota(DI(), static_cast<int32_t>(lane)), last_unseen));
}

// fn(x, offset, lane) on every score that a query may see, 0 on the others: key j of query begin + lane when
// j <= it.
template <class Fn>
HWY_INLINE void for_each_score(const Panel& p, float* scores, const Fn& fn) {
  for (int64_t j = 0; j < p.end; ++j) {
    for (int lane = 0; lane < kNR; lane += kLanes) {
      float* at = scores + j * kNR + lane;
      VF x = fn(load(at), j * kNR + lane, lane);
      if (j > p.begin + lane) {
        const MF seen = sees(lane, j - p.begin);
        x = hn::IfThenElseZero(seen, x);
      }
      store(x, at);
    }
  }
}

// Largest seen score of each query.
void column_max(const Panel& p, const float* scores, float* most) {
  for (int lane = 0; lane < kNR; lane += kLanes) {
    VF m = load(scores + lane);
    for (int64_t j = 1; j < p.end; ++j) {
      const MF seen = sees(lane, j - p.begin);
      const VF x = load(scores + j * kNR + lane);
      m = hn::IfThenElse(seen, hn::Max(x, m), m);
    }
    store(m, most + lane);
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
  float *v_columns, *queries, *scores, *out, *drop_rows, *factors;
};

// Unnormalised probabilities in `scores`; 1 / sum and the log-sum-exp of each query.
void softmax_columns(const Head& h, const Panel& p, float* scores, float* inverse, float* log_sum_exp) {
  float most[kNR], sum[kNR] = {};
  column_max(p, scores, most);
  const VF scale = set(h.scale);
  for_each_score(p, scores, [&](VF x, int64_t, int lane) HWY_ATTR {
    return exp_nonpositive(hn::Mul(hn::Sub(x, load(most + lane)), scale));
  });
  for (int lane = 0; lane < kNR; lane += kLanes) {
    VF total = zero();
    for (int64_t j = 0; j < p.end; ++j) total = hn::Add(total, load(scores + j * kNR + lane));
    store(total, sum + lane);
  }
  for (int64_t i = 0; i < p.count; ++i) {
    inverse[i] = 1.0f / sum[i];
    log_sum_exp[i] = most[i] * h.scale + std::log(sum[i]);
  }
}

void forward_panel(const AttentionForward& a, const Head& h, const Panel& p, const ForwardBuffers& b) {
  float inverse[kNR] = {};
  pack_b(MatrixView{h.q, 1, h.q_stride}, {0, h.s.head_size}, p.begin, p.count, b.queries);
  multiply_rows(h, {h.k, h.k_stride}, b.queries, p.end, b.scores);
  softmax_columns(h, p, b.scores, inverse, a.log_sum_exp + h.sums_offset() + p.begin);
  if (h.dropout) {
    panel_dropout(h, p, b.drop_rows, b.factors);
    multiply_in_place(p.end * kNR, b.factors, b.scores);
  }
  multiply_columns(h, b.v_columns, b.scores, p.end, b.out);
  for (int64_t d = 0; d < h.s.head_size; ++d) multiply_in_place(kNR, inverse, b.out + d * kNR);
  transpose_block(b.out, kNR, h.s.head_size, p.count, a.out + h.out_offset() + p.begin * h.s.channels(),
                  h.s.channels());
}

// Register blocks write whole: room for kMR more rows.
int64_t score_floats(const AttentionShape& s) { return (s.time + kMR) * kNR; }

struct BackwardBuffers {
  float* k_columns;                 // packed A
  float *q_panel, *dout_panel;      // packed B of a panel, [head_size][kNR]
  float *q_natural, *dout_natural;  // packed B of a panel, [query][kNR] for each kNR columns
  float *p, *dp;                    // [key][kNR]: probabilities, then their gradient
  float *dk, *dv;                   // [time + kMR][padded columns], sums over panels
  float* dq;                        // [head_size][kNR]
  float *drop_rows, *factors;
};

// delta_i = dout_i . out_i, in order.
void row_dots(const AttentionBackward& a, const Head& h, const Panel& p, float* delta) {
  for (int64_t i = 0; i < p.count; ++i) {
    const int64_t row = h.out_offset() + (p.begin + i) * h.s.channels();
    F16 sum = set16(0);
    sweep16(h.s.head_size, 0, [&](int64_t d, auto at) HWY_ATTR {
      sum = map16([](VF x, VF y, VF z) HWY_ATTR { return hn::MulAdd(x, y, z); }, at.load(a.out + row + d),
                  at.load(a.dout + row + d), sum);
    });
    delta[i] = sum16(sum);
  }
}

// sums [key][column] += scores [key][query] times natural [query][columns]: one chain over queries per
// element.
void add_product(const Head& h, const Panel& p, const float* scores, const float* natural, float* sums) {
  const int64_t width = h.padded_columns();
  for (int64_t block = 0; block < h.keys.parts && h.keys.begin(block) < p.end; ++block) {
    const int64_t j = h.keys.begin(block), rows = h.keys.size(block);
    for (int64_t c = 0; c < width; c += kNR) {
      micro_kernel_of<SingleLanes, Rows::kAlong>(rows)({scores + j * kNR, kNR}, {natural + c * p.count, kNR},
                                                       p.count, true, sums + j * width + c, width);
    }
  }
}

void pack_natural(const Head& h, const Panel& p, const float* x, int64_t stride, float* dst) {
  for (int64_t c = 0; c < h.s.head_size; c += kNR) {
    pack_b(MatrixView{x, stride, 1}, {p.begin, p.count}, c, std::min<int64_t>(kNR, h.s.head_size - c),
           dst + c * p.count);
  }
}

// Probabilities and the gradient of the scores (before the scale) of a panel, in b.p and b.dp.
void score_gradients(const AttentionBackward& a, const Head& h, const Panel& p, const BackwardBuffers& b) {
  float lse[kNR] = {}, delta[kNR] = {};
  std::copy_n(a.log_sum_exp + h.sums_offset() + p.begin, p.count, lse);
  row_dots(a, h, p, delta);
  multiply_rows(h, {h.k, h.k_stride}, b.q_panel, p.end, b.p);
  multiply_rows(h, {h.v, h.stride}, b.dout_panel, p.end, b.dp);
  const VF scale = set(h.scale);
  for_each_score(p, b.p, [&](VF s, int64_t, int lane) HWY_ATTR {
    return exp_nonpositive(hn::MulSub(s, scale, load(lse + lane)));
  });
  if (h.dropout) {
    panel_dropout(h, p, b.drop_rows, b.factors);
    multiply_in_place(p.end * kNR, b.factors, b.dp);
  }
  for_each_score(p, b.dp, [&](VF dp, int64_t at, int lane) HWY_ATTR {
    return hn::Mul(load(b.p + at), hn::Sub(dp, load(delta + lane)));
  });
  if (h.dropout) multiply_in_place(p.end * kNR, b.factors, b.p);
  // The last register block of keys reaches past the panel: those keys get nothing from it.
  for (float* x : {b.p, b.dp}) std::memset(x + p.end * kNR, 0, kMR * kNR * sizeof(float));
}

// Adds the panel to dk and dv, writes its dq.
void backward_panel(const AttentionBackward& a, const Head& h, const Panel& p, const BackwardBuffers& b) {
  const int64_t channels = h.s.channels();
  const float* dout = a.dout + h.out_offset();
  pack_b(MatrixView{h.q, 1, h.q_stride}, {0, h.s.head_size}, p.begin, p.count, b.q_panel);
  pack_b(MatrixView{dout, 1, channels}, {0, h.s.head_size}, p.begin, p.count, b.dout_panel);
  pack_natural(h, p, h.q, h.q_stride, b.q_natural);
  pack_natural(h, p, dout, channels, b.dout_natural);
  score_gradients(a, h, p, b);
  add_product(h, p, b.p, b.dout_natural, b.dv);
  add_product(h, p, b.dp, b.q_natural, b.dk);
  multiply_columns(h, b.k_columns, b.dp, p.end, b.dq);
  const VF scale = set(h.scale);
  sweep(0, h.s.head_size * kNR,
        [&](int64_t i, auto at) HWY_ATTR { at.store(hn::Mul(scale, at.load(b.dq + i)), b.dq + i); });
  transpose_block(b.dq, kNR, h.s.head_size, p.count, a.dqkv + h.q_offset + p.begin * h.stride, h.stride);
}

// The sums over the queries of a group, to their places.
void write_keys(const AttentionBackward& a, const Head& h, const BackwardBuffers& b) {
  const int64_t width = h.padded_columns();
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
    const auto bytes = static_cast<size_t>((h.time + kMR) * h.padded_columns()) * sizeof(float);
    pack_columns(h, h.k, h.k_stride, b.k_columns);
    std::memset(b.dk, 0, bytes);
    std::memset(b.dv, 0, bytes);
  }
  for (int64_t i = 0; i < h.panels(); ++i) backward_panel(a, h, Panel(i, h.time), b);
  float* dq = a.dqkv + h.q_offset;
  if (a.rotary) rotate(h, a.rotary, -1, dq, h.stride, dq, h.stride);
  if (h.last()) write_keys(a, h, b);
}

BackwardBuffers take_backward(const AttentionShape& s, bool dropout, ScratchScope& scratch) {
  const int64_t width = (s.head_size + kNR - 1) / kNR * kNR, scores = score_floats(s);
  BackwardBuffers b{};
  b.k_columns = scratch.floats(packed_columns_floats(s));
  for (float** p : {&b.q_panel, &b.dout_panel, &b.dq}) *p = scratch.floats(s.head_size * kNR);
  for (float** p : {&b.q_natural, &b.dout_natural}) *p = scratch.floats(width * kNR);
  for (float** p : {&b.p, &b.dp}) *p = scratch.floats(scores);
  for (float** p : {&b.dk, &b.dv}) *p = scratch.floats((s.time + kMR) * width);
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
    const ForwardBuffers b{scratch.floats(packed_columns_floats(s)),
                           scratch.floats(s.head_size * kNR),
                           scratch.floats(score_floats(s)),
                           scratch.floats(s.head_size * kNR),
                           drop ? scratch.floats(s.time * kNR) : nullptr,
                           drop ? scratch.floats(score_floats(s)) : nullptr};
    const Turned turned(s, a.rotary, scratch);
    for_each_head(s, a.documents, a.qkv, a.dropout, {begin, end}, [&](Head h) {
      turn(h, a.rotary, turned);
      if (h.first()) pack_columns(h, h.v, h.stride, b.v_columns);
      for (int64_t panel = 0; panel < h.panels(); ++panel) forward_panel(a, h, Panel(panel, h.time), b);
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
