#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/tensor/kernels/recurrent.cc"
#include "furrow/tensor/kernels/targets.h"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on
#include <algorithm>

#include "furrow/tensor/kernels/blocks.h"
#include "furrow/tensor/kernels/gemm_pack-inl.h"
#include "furrow/tensor/kernels/math-inl.h"
#include "furrow/tensor/kernels/parallel.h"
#include "furrow/tensor/kernels/recurrent.h"
#include "furrow/tensor/kernels/scratch.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {
namespace {

// Hidden columns [begin, begin + count), a panel of W or of its transpose.
struct Columns {
  int64_t begin, count;
  Columns(int64_t panel, int64_t hidden)
      : begin(panel * kNR), count(std::min<int64_t>(kNR, hidden - begin)) {}
};

int64_t panels(const RecurrentShape& s) { return (s.hidden + kNR - 1) / kNR; }
int64_t row_of(const RecurrentShape& s, int64_t sample, int64_t t) { return sample * s.time + t; }

// A thread's samples, in blocks of rows whose sizes differ by at most one, and its working memory.
struct Share {
  const RecurrentShape& s;
  int64_t first;  // sample
  Blocks rows;
  float* packed;  // the left operand of a step, a panel per block
  float* tiles;   // [parts][kMR][kNR]
  float* state;   // [sample of the share][hidden]: h in forward, the cell's gradient in backward
  Share(const RecurrentShape& s, int64_t begin, int64_t end, int64_t depth, ScratchScope& scratch)
      : s(s),
        first(begin),
        rows(end - begin, kMR),
        packed(scratch.floats((end - begin) * depth + kPackSlack)),
        tiles(scratch.floats(s.parts() * kMR * kNR)),
        state(scratch.floats((end - begin) * s.hidden)) {
    std::memset(tiles, 0, static_cast<size_t>(s.parts() * kMR * kNR) * sizeof(float));
    std::memset(state, 0, static_cast<size_t>((end - begin) * s.hidden) * sizeof(float));
  }
  void pack(const float* x, int64_t stride, int64_t depth) const {
    for (int64_t b = 0; b < rows.parts; ++b) {
      pack_a({x + rows.begin(b) * stride, stride, 1}, 0, RowPanels(rows.size(b)), 0, depth,
             packed + rows.begin(b) * depth);
    }
  }
};

// ----- forward

// One vector of hidden units behind the product; `tile` is its place in the tile of the first part.
template <Cell CELL, class Access>
HWY_INLINE VF step_cell(const RecurrentForward& a, const float* tile, const Access& at, int64_t row,
                        int64_t t, int64_t j) {
  const int64_t hidden = a.shape.hidden;
  if constexpr (CELL == Cell::kTanh) {
    const VF h = tanh(at.load(tile));
    at.store(h, a.gates + row * hidden + j);
    return h;
  } else {
    constexpr int64_t kTile = kMR * kNR;
    const VF i = sigmoid(at.load(tile)), f = sigmoid(at.load(tile + kTile)),
             g = tanh(at.load(tile + 2 * kTile)), o = sigmoid(at.load(tile + 3 * kTile));
    float* gates = a.gates + row * 4 * hidden + j;
    at.store(i, gates);
    at.store(f, gates + hidden);
    at.store(g, gates + 2 * hidden);
    at.store(o, gates + 3 * hidden);
    float* cell = a.cell + row * hidden + j;
    const VF before = t > 0 ? at.load(cell - hidden) : zero();
    const VF c = hn::MulAdd(f, before, hn::Mul(i, g));
    at.store(c, cell);
    return hn::Mul(o, tanh(c));
  }
}

template <Cell CELL>
void step_rows(const RecurrentForward& a, const Share& share, int64_t begin, int64_t count, int64_t t,
               const Columns& columns) {
  const RecurrentShape& s = a.shape;
  for (int64_t r = 0; r < count; ++r) {
    const int64_t row = row_of(s, share.first + begin + r, t);
    float* state = share.state + (begin + r) * s.hidden + columns.begin;
    float* out = a.out ? a.out + row * a.out_stride + columns.begin : nullptr;
    float* next =
        a.previous && t + 1 < s.time ? a.previous + (row + 1) * a.previous_stride + columns.begin : nullptr;
    float* first = a.previous && t == 0 ? a.previous + row * a.previous_stride + columns.begin : nullptr;
    sweep(0, columns.count, [&](int64_t j, auto at) HWY_ATTR {
      const VF h = step_cell<CELL>(a, share.tiles + r * kNR + j, at, row, t, columns.begin + j);
      at.store(h, state + j);
      if (out) at.store(h, out + j);
      if (next) at.store(h, next + j);
      if (first) at.store(zero(), first + j);
    });
  }
}

// The projections of a block of rows, and those of the next step ahead of time.
void load_tile(const RecurrentForward& a, const Share& share, int64_t begin, int64_t count, int64_t t,
               int64_t part, const Columns& columns) {
  const RecurrentShape& s = a.shape;
  const int64_t width = s.parts() * s.hidden;
  float* tile = share.tiles + part * kMR * kNR;
  for (int64_t r = 0; r < count; ++r, tile += kNR) {
    const float* from =
        a.gates + row_of(s, share.first + begin + r, t) * width + part * s.hidden + columns.begin;
    sweep(0, columns.count, [&](int64_t j, auto at) HWY_ATTR { at.store(at.load(from + j), tile + j); });
    for (int64_t j = 0; j < columns.count && t + 1 < s.time; j += 16) hwy::Prefetch(from + width + j);
  }
}

template <Cell CELL>
void forward_share(const RecurrentForward& a, const Share& share, const float* weight) {
  const RecurrentShape& s = a.shape;
  for (int64_t t = 0; t < s.time; ++t) {
    if (t > 0) share.pack(share.state, s.hidden, s.hidden);
    for (int64_t p = 0; p < panels(s); ++p) {
      const Columns columns(p, s.hidden);
      for (int64_t b = 0; b < share.rows.parts; ++b) {
        const int64_t begin = share.rows.begin(b), count = share.rows.size(b);
        for (int64_t part = 0; part < s.parts(); ++part) {
          load_tile(a, share, begin, count, t, part, columns);
          if (t == 0) continue;
          micro_kernel_of(count, true)(share.packed + begin * s.hidden,
                                       weight + (p * s.parts() + part) * s.hidden * kNR, s.hidden,
                                       share.tiles + part * kMR * kNR, kNR);
        }
        step_rows<CELL>(a, share, begin, count, t, columns);
      }
    }
  }
}

// ----- backward

// dz of one vector of hidden units from dh; `carry` is the cell's gradient.
template <Cell CELL, class Access>
HWY_INLINE void step_back(const RecurrentBackward& a, VF dh, const Access& at, int64_t row, int64_t t,
                          int64_t j, float* carry) {
  const int64_t hidden = a.shape.hidden;
  const VF one = set(1.0f);
  if constexpr (CELL == Cell::kTanh) {
    float* z = a.gates + row * hidden + j;
    const VF h = at.load(z);
    at.store(hn::Mul(dh, hn::NegMulAdd(h, h, one)), z);
  } else {
    float* z = a.gates + row * 4 * hidden + j;
    const float* cell = a.cell + row * hidden + j;
    const VF i = at.load(z), f = at.load(z + hidden), g = at.load(z + 2 * hidden),
             o = at.load(z + 3 * hidden);
    const VF squashed = tanh(at.load(cell)), before = t > 0 ? at.load(cell - hidden) : zero();
    const VF dc = hn::MulAdd(hn::Mul(dh, o), hn::NegMulAdd(squashed, squashed, one), at.load(carry));
    at.store(hn::Mul(hn::Mul(dc, g), hn::Mul(i, hn::Sub(one, i))), z);
    at.store(hn::Mul(hn::Mul(dc, before), hn::Mul(f, hn::Sub(one, f))), z + hidden);
    at.store(hn::Mul(hn::Mul(dc, i), hn::NegMulAdd(g, g, one)), z + 2 * hidden);
    at.store(hn::Mul(hn::Mul(dh, squashed), hn::Mul(o, hn::Sub(one, o))), z + 3 * hidden);
    at.store(hn::Mul(dc, f), carry);
  }
}

// The gradients of h_t that come from outside, into the first tile.
void load_gradients(const RecurrentBackward& a, const Share& share, int64_t begin, int64_t count, int64_t t,
                    const Columns& columns) {
  const RecurrentShape& s = a.shape;
  for (int64_t r = 0; r < count; ++r) {
    const int64_t row = row_of(s, share.first + begin + r, t);
    const float* out = a.dout ? a.dout + row * a.dout_stride + columns.begin : nullptr;
    const float* next = a.dprevious && t + 1 < s.time
                            ? a.dprevious + (row + 1) * a.dprevious_stride + columns.begin
                            : nullptr;
    sweep(0, columns.count, [&](int64_t j, auto at) HWY_ATTR {
      VF dh = out ? at.load(out + j) : zero();
      if (next) dh = hn::Add(dh, at.load(next + j));
      at.store(dh, share.tiles + r * kNR + j);
    });
  }
}

template <Cell CELL>
void step_back_rows(const RecurrentBackward& a, const Share& share, int64_t begin, int64_t count, int64_t t,
                    const Columns& columns) {
  const RecurrentShape& s = a.shape;
  for (int64_t r = 0; r < count; ++r) {
    const int64_t row = row_of(s, share.first + begin + r, t);
    float* carry = share.state + (begin + r) * s.hidden + columns.begin;
    sweep(0, columns.count, [&](int64_t j, auto at) HWY_ATTR {
      step_back<CELL>(a, at.load(share.tiles + r * kNR + j), at, row, t, columns.begin + j, carry + j);
    });
  }
}

template <Cell CELL>
void backward_share(const RecurrentBackward& a, const Share& share, const float* weight) {
  const RecurrentShape& s = a.shape;
  const int64_t depth = s.parts() * s.hidden;
  for (int64_t t = s.time - 1; t >= 0; --t) {
    const bool last = t + 1 == s.time;
    if (!last) share.pack(a.gates + row_of(s, share.first, t + 1) * depth, s.time * depth, depth);
    for (int64_t p = 0; p < panels(s); ++p) {
      const Columns columns(p, s.hidden);
      for (int64_t b = 0; b < share.rows.parts; ++b) {
        const int64_t begin = share.rows.begin(b), count = share.rows.size(b);
        load_gradients(a, share, begin, count, t, columns);
        if (!last) {
          micro_kernel_of(count, true)(share.packed + begin * depth, weight + p * depth * kNR, depth,
                                       share.tiles, kNR);
        }
        step_back_rows<CELL>(a, share, begin, count, t, columns);
      }
    }
  }
}

// ----- both

int team(const RecurrentShape& s, int threads) {
  constexpr int64_t kWorthAThread = 1 << 19;  // products
  return s.batch * s.time * s.parts() * s.hidden * s.hidden < 2 * kWorthAThread ? 1 : threads;
}

}  // namespace

void run_recurrent_forward(const RecurrentForward& a, int threads) {
  const RecurrentShape& s = a.shape;
  const int workers = team(s, threads);
  ScratchScope scratch;
  float* weight = scratch.floats(panels(s) * s.parts() * s.hidden * kNR);
  parallel_for(workers, panels(s), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * s.parts(); i < end * s.parts(); ++i) {
      const Columns columns(i / s.parts(), s.hidden);
      pack_b({a.weight, 1, s.weight_stride}, 0, s.hidden, i % s.parts() * s.hidden + columns.begin,
             columns.count, weight + i * s.hidden * kNR);
    }
  });
  parallel_for(workers, s.batch, [&](int64_t begin, int64_t end) {
    ScratchScope own;
    const Share share(s, begin, end, s.hidden, own);
    s.cell == Cell::kLstm ? forward_share<Cell::kLstm>(a, share, weight)
                          : forward_share<Cell::kTanh>(a, share, weight);
  });
}

void run_recurrent_backward(const RecurrentBackward& a, int threads) {
  const RecurrentShape& s = a.shape;
  const int64_t depth = s.parts() * s.hidden;
  const int workers = team(s, threads);
  ScratchScope scratch;
  float* weight = scratch.floats(panels(s) * depth * kNR);
  parallel_for(workers, panels(s), [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const Columns columns(p, s.hidden);
      pack_b({a.weight, s.weight_stride, 1}, 0, depth, columns.begin, columns.count,
             weight + p * depth * kNR);
    }
  });
  parallel_for(workers, s.batch, [&](int64_t begin, int64_t end) {
    ScratchScope own;
    const Share share(s, begin, end, depth, own);
    s.cell == Cell::kLstm ? backward_share<Cell::kLstm>(a, share, weight)
                          : backward_share<Cell::kTanh>(a, share, weight);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace furrow::tensor::kernels {

HWY_EXPORT(run_recurrent_forward);
HWY_EXPORT(run_recurrent_backward);
void recurrent_forward(const RecurrentForward& args, int threads) {
  HWY_DYNAMIC_DISPATCH(run_recurrent_forward)(args, threads);
}
void recurrent_backward(const RecurrentBackward& args, int threads) {
  HWY_DYNAMIC_DISPATCH(run_recurrent_backward)(args, threads);
}

}  // namespace furrow::tensor::kernels
#endif
