// The products of attention: a panel of queries with the keys and values that it sees, and the gradients'.
#include "furrow/tensor/kernels/targets.h"
#if defined(FURROW_TENSOR_KERNELS_ATTENTION_PRODUCTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FURROW_TENSOR_KERNELS_ATTENTION_PRODUCTS_INL_H_
#undef FURROW_TENSOR_KERNELS_ATTENTION_PRODUCTS_INL_H_
#else
#define FURROW_TENSOR_KERNELS_ATTENTION_PRODUCTS_INL_H_
#endif

#include <algorithm>
#include <cmath>

#include "furrow/tensor/kernels/attention.h"
#include "furrow/tensor/kernels/blocks.h"
#include "furrow/tensor/kernels/gemm_kernel-inl.h"
#include "furrow/tensor/kernels/scratch.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {

// Scores of a panel of kNR queries are kept transposed, [key][query]: the softmax runs down the columns
// without any horizontal reduction, and the probabilities are a left operand as they stand, over the keys as
// over the queries.  What they multiply is read where it lies.

// Columns of a head in whole panels.
inline int64_t padded_columns(const AttentionShape& s) { return (s.head_size + kNR - 1) / kNR * kNR; }

struct Head {
  const AttentionShape& s;
  int64_t sample, head;
  int64_t begin, time;                   // the tokens of its sample that it sees
  int64_t stride;                        // of a row of qkv
  int64_t q_offset, k_offset, v_offset;  // in qkv
  const float *q, *k, *v;                // [time] from `begin` on, rows q_stride, k_stride and stride apart
  int64_t q_stride, k_stride;
  const DropoutMask* dropout;
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
        scale(1.0f / std::sqrt(static_cast<float>(s.head_size))) {}

  bool first() const { return head % s.group() == 0; }
  bool last() const { return head % s.group() == s.group() - 1; }
  int64_t out_offset() const { return (sample * s.time + begin) * s.channels() + head * s.head_size; }
  int64_t sums_offset() const { return (sample * s.heads + head) * s.time + begin; }  // of log-sum-exps
  int64_t panels() const { return (time + kNR - 1) / kNR; }
};

// Rows of a head turned by their angles, or back with `sign` -1.  `out` may be `x`.
inline void rotate(const Head& h, const float* rotary, float sign, const float* x, int64_t x_stride,
                   float* out, int64_t out_stride) {
  const int64_t size = h.s.head_size, half = size / 2;
  for (int64_t t = 0; t < h.time; ++t, x += x_stride, out += out_stride) {
    const float* cosines = rotary + t * size;
    for (int64_t d = 0; d < size; d += 16) hwy::Prefetch(x + kRowsAhead * x_stride + d);
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
inline void turn(Head& h, const float* rotary, const Turned& turned) {
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

// Fetches the rows of the next panel, of the next head behind the last one.
inline void fetch_next(const Head& h, const Panel& p, const float* x, int64_t stride) {
  const bool last = p.end == h.time;
  const float* row = last ? x + h.s.head_size : x + p.end * stride;
  const int64_t count = std::min<int64_t>(kNR, last ? h.time : h.time - p.end);
  for (int64_t i = 0; i < count; ++i, row += stride) {
    for (int64_t d = 0; d < h.s.head_size; d += 16) hwy::Prefetch(row + d);
  }
}

inline void fetch_next_inputs(const Head& h, const Panel& p) {
  fetch_next(h, p, h.v, h.stride);
  if (h.q_stride != h.stride) return;  // turned, all of the head at once
  fetch_next(h, p, h.q, h.stride);
  fetch_next(h, p, h.k, h.stride);
}

// A [time, head_size] view as a right operand, rows across k: as it lies where register blocks read whole
// vectors of it, else copied to [time][padded columns].
inline bool reads_whole(const AttentionShape& s) {
  const int64_t last = s.head_size % kNR;
  return last == 0 || kernel_columns(last) == last;
}
inline Operand right_operand(const Head& h, const float* x, int64_t stride, float* copy) {
  if (reads_whole(h.s)) return {x, stride};
  const int64_t width = padded_columns(h.s);
  for (int64_t t = 0; t < h.time; ++t) {
    sweep(0, h.s.head_size,
          [&](int64_t d, auto at) HWY_ATTR { at.store(at.load(x + t * stride + d), copy + t * width + d); });
  }
  return {copy, width};
}
// Room for such a copy, null where none is made; what no row has is 0.
inline float* right_copy(const AttentionShape& s, ScratchScope& scratch) {
  if (reads_whole(s)) return nullptr;
  const int64_t floats = s.time * padded_columns(s);
  float* copy = scratch.floats(floats);
  std::memset(copy, 0, static_cast<size_t>(floats) * sizeof(float));
  return copy;
}

template <Rows ROWS>
MicroKernel kernel_of(int64_t rows, int64_t columns) {
  return columns <= kLanes ? micro_kernel_of<SingleLanes, ROWS, 1>(rows)
                           : micro_kernel_of<SingleLanes, ROWS>(rows);
}

// scores [key][kNR] = rows of a [time, head_size] view times a panel [head_size][kNR], keys [0, end).
inline void multiply_rows(const Head& h, Operand rows, const float* panel, int64_t end, float* scores) {
  const Blocks blocks(end, kMR);
  for (int64_t b = 0; b < blocks.parts; ++b) {
    const int64_t j = blocks.begin(b);
    micro_kernel_of<SingleLanes, Rows::kAlong>(blocks.size(b))(
        {rows.data + j * rows.next, rows.next}, {panel, kNR}, h.s.head_size, false, scores + j * kNR, kNR);
  }
}

// out [query][head_size], rows `stride` apart, = factor[query] times the sum over keys [0, end) of
// scores [key][query] right [key][head_size].
inline void multiply_scores(const Head& h, const Panel& p, const float* scores, Operand right,
                            const float* factor, float* out, int64_t stride) {
  const Blocks blocks(p.count, kMR);
  alignas(64) float tile[kMR * kNR];
  for (int64_t c = 0; c < h.s.head_size; c += kNR) {
    const int64_t columns = std::min<int64_t>(kNR, h.s.head_size - c);
    for (int64_t b = 0; b < blocks.parts; ++b) {
      const int64_t first = blocks.begin(b), rows = blocks.size(b);
      kernel_of<Rows::kAcross>(rows, columns)({scores + first, kNR}, {right.data + c, right.next}, p.end,
                                              false, tile, kNR);
      for (int64_t i = 0; i < rows; ++i) {
        const VF f = set(factor[first + i]);
        sweep(0, columns, [&](int64_t d, auto at) HWY_ATTR {
          at.store(hn::Mul(at.load(tile + i * kNR + d), f), out + (first + i) * stride + c + d);
        });
      }
    }
  }
}

// sums [key][column] += scores [key][query] times right [query][column]: one chain over queries per element.
inline void add_product(const Head& h, const Panel& p, const float* scores, Operand right, float* sums) {
  const int64_t width = padded_columns(h.s);
  const Blocks blocks(p.end, kMR);
  for (int64_t b = 0; b < blocks.parts; ++b) {
    const int64_t j = blocks.begin(b), rows = blocks.size(b);
    for (int64_t c = 0; c < h.s.head_size; c += kNR) {
      kernel_of<Rows::kAlong>(rows, h.s.head_size - c)({scores + j * kNR, kNR},
                                                       {right.data + p.begin * right.next + c, right.next},
                                                       p.count, true, sums + j * width + c, width);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#endif
