#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/tensor/kernels/recurrent.cc"
#include "furrow/tensor/kernels/targets.h"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on
#include <algorithm>
#include <type_traits>

#include "furrow/tensor/kernels/math-inl.h"
#include "furrow/tensor/kernels/parallel.h"
#include "furrow/tensor/kernels/recurrent.h"
#include "furrow/tensor/kernels/recurrent_steps-inl.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {
namespace {

int64_t row_of(const RecurrentShape& s, int64_t sample, int64_t t) { return sample * s.time + t; }

// A thread's samples, in blocks of rows whose sizes differ by at most one, and its working memory.
template <class Lanes>
struct StepShare {
  const RecurrentShape& s;
  int64_t first;  // sample
  Blocks rows;
  StepOperand<Lanes> operand;  // h in forward, the gradient of z in backward
  float* tiles;                // [parts][kStepRows][kNR]
  float* carry;                // [sample of the share][hidden]: the cell in forward, its gradient in backward
  StepShare(const RecurrentShape& s, int64_t begin, int64_t end, int64_t operand_parts, ScratchScope* scratch)
      : s(s),
        first(begin),
        rows(end - begin, kMR),
        operand(s, rows, operand_parts, scratch),
        tiles(scratch->floats(s.parts() * kStepRows * kNR)),
        carry(scratch->floats((end - begin) * s.hidden)) {
    std::memset(carry, 0, static_cast<size_t>((end - begin) * s.hidden) * sizeof(float));
  }
  // `r` counts from the first row of the group.
  float* tile(int64_t part, int64_t r) const { return tiles + (part * kStepRows + r) * kNR; }
};

// Rows of a block and hidden columns: what is computed at a time, at place `at` of a group.
struct Patch {
  int64_t t, block, at;
  Columns columns;
};

template <class T>
void fetch(const T* row, int64_t count) {
  if (row == nullptr) return;
  for (int64_t j = 0; j < count; j += 64 / static_cast<int64_t>(sizeof(T))) hwy::Prefetch(row + j);
}

// A value as the next step multiplies it: rounded to T.
template <class Lanes, class T, class Access>
HWY_INLINE void keep(VF value, const Access& at, typename Lanes::Number* operand) {
  if constexpr (std::is_same_v<T, typename Lanes::Number>) {
    at.store(value, operand);
  } else {
    constexpr const T* kType = nullptr;
    at.store(widen(narrow(value, kType), kType), operand);
  }
}

// ----- forward

template <Cell CELL, class Lanes, class T>
struct ForwardSteps {
  static constexpr bool kForward = true;
  const RecurrentForward<T>& a;
  const StepShare<Lanes>& share;

  // One vector of hidden units behind the product; `tile` is its place in the tile of the first part.
  template <class Access>
  HWY_INLINE VF cell(const float* tile, const Access& at, int64_t row, int64_t j, float* carry) const {
    const int64_t hidden = a.shape.hidden;
    T* gates = a.gates + row * a.shape.parts() * hidden + j;
    const auto z = [&](int64_t part) HWY_ATTR {
      return hn::Add(at.load(tile + part * kStepRows * kNR), at.load(gates + part * hidden));
    };
    if constexpr (CELL == Cell::kTanh) {
      const VF h = tanh(z(0));
      at.store(h, gates);
      return h;
    } else {
      const VF i = sigmoid(z(0)), f = sigmoid(z(1)), g = tanh(z(2)), o = sigmoid(z(3));
      at.store(i, gates);
      at.store(f, gates + hidden);
      at.store(g, gates + 2 * hidden);
      at.store(o, gates + 3 * hidden);
      const VF c = hn::MulAdd(f, at.load(carry), hn::Mul(i, g));
      at.store(c, carry);
      at.store(c, a.cell + row * hidden + j);
      return hn::Mul(o, tanh(c));
    }
  }

  // Where h_t goes, and at the first step the state before it.
  struct Targets {
    T *out, *next, *first;
  };
  Targets targets(int64_t row, int64_t t, int64_t j) const {
    T* previous = a.previous ? a.previous + row * a.previous_stride + j : nullptr;
    return {a.out ? a.out + row * a.out_stride + j : nullptr,
            previous && t + 1 < a.shape.time ? previous + a.previous_stride : nullptr,
            t == 0 ? previous : nullptr};
  }

  void fetch_rows(const Patch& p) const {
    const RecurrentShape& s = a.shape;
    const int64_t begin = share.first + share.rows.begin(p.block), end = begin + share.rows.size(p.block);
    for (int64_t sample = begin; sample < end; ++sample) {
      const int64_t row = row_of(s, sample, p.t), j = p.columns.begin;
      for (int64_t part = 0; part < s.parts(); ++part)
        fetch(a.gates + (row * s.parts() + part) * s.hidden + j, p.columns.count);
      if (a.cell) fetch(a.cell + row * s.hidden + j, p.columns.count);
      const Targets to = targets(row, p.t, j);
      fetch(to.out, p.columns.count);
      fetch(to.next, p.columns.count);
    }
  }

  void finish(const Patch& p) const {
    const int64_t begin = share.rows.begin(p.block), hidden = a.shape.hidden;
    const auto operand = share.operand.written(p.block);
    for (int64_t r = 0; r < operand.rows; ++r) {
      const int64_t row = row_of(a.shape, share.first + begin + r, p.t);
      const Targets to = targets(row, p.t, p.columns.begin);
      float* carry = share.carry + (begin + r) * hidden + p.columns.begin;
      sweep(0, p.columns.count, [&](int64_t j, auto at) HWY_ATTR {
        const int64_t column = p.columns.begin + j;
        const VF h = cell(share.tile(0, p.at + r) + j, at, row, column, carry + j);
        if (to.out) at.store(h, to.out + j);
        if (to.first) at.store(zero(), to.first + j);
        if (to.next) at.store(h, to.next + j);
        keep<Lanes, T>(h, at, operand.of(0, r, column));
      });
    }
  }
};

// ----- backward

template <Cell CELL, class Lanes, class T>
struct BackwardSteps {
  static constexpr bool kForward = false;
  const RecurrentBackward<T>& a;
  const StepShare<Lanes>& share;

  // Where the gradient of h_t comes from beside the next step.
  struct Sources {
    const T *out, *next;
  };
  Sources sources(int64_t row, int64_t t, int64_t j) const {
    return {a.dout ? a.dout + row * a.dout_stride + j : nullptr,
            a.dprevious && t + 1 < a.shape.time ? a.dprevious + (row + 1) * a.dprevious_stride + j : nullptr};
  }

  void fetch_rows(const Patch& p) const {
    const RecurrentShape& s = a.shape;
    const int64_t begin = share.first + share.rows.begin(p.block), end = begin + share.rows.size(p.block);
    for (int64_t sample = begin; sample < end; ++sample) {
      const int64_t row = row_of(s, sample, p.t), j = p.columns.begin;
      for (int64_t part = 0; part < s.parts(); ++part)
        fetch(a.gates + (row * s.parts() + part) * s.hidden + j, p.columns.count);
      if (a.cell && p.t > 0) fetch(a.cell + (row - 1) * s.hidden + j, p.columns.count);
      const Sources from = sources(row, p.t, j);
      fetch(from.out, p.columns.count);
      fetch(from.next, p.columns.count);
    }
  }

  // dz of one vector of hidden units from dh, kept by keep_part(part, dz, z).
  template <class Access, class Keep>
  HWY_INLINE void cell(VF dh, const Access& at, int64_t row, int64_t t, int64_t j, float* carry,
                       const Keep& keep_part) const {
    const int64_t hidden = a.shape.hidden;
    const VF one = set(1.0f);
    T* z = a.gates + row * a.shape.parts() * hidden + j;
    if constexpr (CELL == Cell::kTanh) {
      const VF h = at.load(z);
      keep_part(0, hn::Mul(dh, hn::NegMulAdd(h, h, one)), z);
    } else {
      const T* c = a.cell + row * hidden + j;
      const VF i = at.load(z), f = at.load(z + hidden), g = at.load(z + 2 * hidden),
               o = at.load(z + 3 * hidden);
      const VF squashed = tanh(at.load(c)), before = t > 0 ? at.load(c - hidden) : zero();
      const VF dc = hn::MulAdd(hn::Mul(dh, o), hn::NegMulAdd(squashed, squashed, one), at.load(carry));
      keep_part(0, hn::Mul(hn::Mul(dc, g), hn::Mul(i, hn::Sub(one, i))), z);
      keep_part(1, hn::Mul(hn::Mul(dc, before), hn::Mul(f, hn::Sub(one, f))), z + hidden);
      keep_part(2, hn::Mul(hn::Mul(dc, i), hn::NegMulAdd(g, g, one)), z + 2 * hidden);
      keep_part(3, hn::Mul(hn::Mul(dh, squashed), hn::Mul(o, hn::Sub(one, o))), z + 3 * hidden);
      at.store(hn::Mul(dc, f), carry);
    }
  }

  void finish(const Patch& p) const {
    const int64_t begin = share.rows.begin(p.block), hidden = a.shape.hidden;
    const auto operand = share.operand.written(p.block);
    for (int64_t r = 0; r < operand.rows; ++r) {
      const int64_t row = row_of(a.shape, share.first + begin + r, p.t);
      const Sources from = sources(row, p.t, p.columns.begin);
      float* carry = share.carry + (begin + r) * hidden + p.columns.begin;
      sweep(0, p.columns.count, [&](int64_t j, auto at) HWY_ATTR {
        const int64_t column = p.columns.begin + j;
        VF dh = at.load(share.tile(0, p.at + r) + j);
        if (from.out) dh = hn::Add(dh, at.load(from.out + j));
        if (from.next) dh = hn::Add(dh, at.load(from.next + j));
        cell(dh, at, row, p.t, column, carry + j, [&](int64_t part, VF dz, T* z) HWY_ATTR {
          at.store(dz, z);
          keep<Lanes, T>(dz, at, operand.of(part, r, column));
        });
      });
    }
  }
};

// ----- both

// A panel of hidden columns of the blocks of rows [begin, end), at most kStepBlocks of them: their product with
// the step before (none at the first one), each block's rest as soon as its sums are complete.
template <class Steps, class Lanes, class T>
void step_panel(const Steps& steps, const StepShare<Lanes>& share, const StepWeight<Lanes, T>& weight,
                int64_t t, int64_t panel, int64_t begin, int64_t end, bool product) {
  const RecurrentShape& s = share.s;
  const int64_t lanes = lanes_of<Lanes>(s), base = share.rows.begin(begin);
  const Columns columns(panel, s.hidden);
  const auto patch = [&](int64_t b) { return Patch{t, b, share.rows.begin(b) - base, columns}; };
  if (!product) {
    std::memset(share.tiles, 0, static_cast<size_t>(s.parts() * kStepRows * kNR) * sizeof(float));
    for (int64_t b = begin; b < end; ++b) steps.finish(patch(b));
    return;
  }
  for (int64_t part = 0; part < s.parts(); ++part) {
    const int64_t from = Steps::kForward ? 0 : part, to = Steps::kForward ? part : 0;
    for (int64_t k = 0; k < lanes; k += kStepDepth) {
      const int64_t depth = std::min(kStepDepth, lanes - k);
      const bool last = part + 1 == s.parts() && k + depth == lanes;
      for (int64_t b = begin; b < end; ++b) {
        if (last) steps.fetch_rows(patch(b));
        step_kernel_of<Lanes>(share.rows.size(b))(share.operand.read(b, from, k),
                                                  weight.panel(panel, part) + k * kNR, depth, k > 0 || from > 0,
                                                  share.tile(to, share.rows.begin(b) - base));
        if (last) steps.finish(patch(b));
      }
    }
  }
}

int team(const RecurrentShape& s, int threads) {
  constexpr int64_t kWorthAThread = 1 << 19;  // products
  return s.batch * s.time * s.parts() * s.hidden * s.hidden < 2 * kWorthAThread ? 1 : threads;
}

template <class Steps, class Lanes, class T, class Args>
void run_share(const Args& a, const StepWeight<Lanes, T>& weight, int64_t begin, int64_t end) {
  const RecurrentShape& s = a.shape;
  ScratchScope scratch;
  StepShare<Lanes> share(s, begin, end, Steps::kForward ? 1 : s.parts(), &scratch);
  const Steps steps{a, share};
  for (int64_t step = 0; step < s.time; ++step) {
    const int64_t t = Steps::kForward ? step : s.time - 1 - step;
    for (int64_t p = 0; p < panels(s); ++p) {
      for (int64_t b = 0; b < share.rows.parts; b += kStepBlocks) {
        step_panel(steps, share, weight, t, p, b, std::min(b + kStepBlocks, share.rows.parts), step > 0);
      }
    }
    share.operand.next_step();
  }
}

template <template <Cell, class, class> class Steps, class Lanes, class T, class Args>
void run_steps(const Args& a, int threads) {
  const RecurrentShape& s = a.shape;
  const int workers = team(s, threads);
  ScratchScope scratch;
  const StepWeight<Lanes, T> weight(s, a.weight, Steps<Cell::kTanh, Lanes, T>::kForward,
                                    scratch.floats(StepWeight<Lanes, T>::floats(s)));
  parallel_for(workers, panels(s), [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) weight.pack(p);
  });
  parallel_for(workers, s.batch, [&](int64_t begin, int64_t end) {
    s.cell == Cell::kLstm ? run_share<Steps<Cell::kLstm, Lanes, T>>(a, weight, begin, end)
                          : run_share<Steps<Cell::kTanh, Lanes, T>>(a, weight, begin, end);
  });
}

template <template <Cell, class, class> class Steps, class T, class Args>
void run_recurrent(const Args& a, int threads) {
#if FURROW_BF16_PAIRS
  if constexpr (std::is_same_v<T, bf16>) {
    if (has_pairs()) return run_steps<Steps, PairLanes, T>(a, threads);
  }
#endif
  run_steps<Steps, SingleLanes, T>(a, threads);
}

}  // namespace

void run_forward_f32(const RecurrentForward<float>& a, int threads) {
  run_recurrent<ForwardSteps, float>(a, threads);
}
void run_forward_bf16(const RecurrentForward<bf16>& a, int threads) {
  run_recurrent<ForwardSteps, bf16>(a, threads);
}
void run_forward_f16(const RecurrentForward<f16>& a, int threads) {
  run_recurrent<ForwardSteps, f16>(a, threads);
}
void run_backward_f32(const RecurrentBackward<float>& a, int threads) {
  run_recurrent<BackwardSteps, float>(a, threads);
}
void run_backward_bf16(const RecurrentBackward<bf16>& a, int threads) {
  run_recurrent<BackwardSteps, bf16>(a, threads);
}
void run_backward_f16(const RecurrentBackward<f16>& a, int threads) {
  run_recurrent<BackwardSteps, f16>(a, threads);
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace furrow::tensor::kernels {

HWY_EXPORT(run_forward_f32);
HWY_EXPORT(run_forward_bf16);
HWY_EXPORT(run_forward_f16);
HWY_EXPORT(run_backward_f32);
HWY_EXPORT(run_backward_bf16);
HWY_EXPORT(run_backward_f16);
void recurrent_forward(const RecurrentForward<float>& args, int threads) {
  HWY_DYNAMIC_DISPATCH(run_forward_f32)(args, threads);
}
void recurrent_forward(const RecurrentForward<bf16>& args, int threads) {
  HWY_DYNAMIC_DISPATCH(run_forward_bf16)(args, threads);
}
void recurrent_forward(const RecurrentForward<f16>& args, int threads) {
  HWY_DYNAMIC_DISPATCH(run_forward_f16)(args, threads);
}
void recurrent_backward(const RecurrentBackward<float>& args, int threads) {
  HWY_DYNAMIC_DISPATCH(run_backward_f32)(args, threads);
}
void recurrent_backward(const RecurrentBackward<bf16>& args, int threads) {
  HWY_DYNAMIC_DISPATCH(run_backward_bf16)(args, threads);
}
void recurrent_backward(const RecurrentBackward<f16>& args, int threads) {
  HWY_DYNAMIC_DISPATCH(run_backward_f16)(args, threads);
}

}  // namespace furrow::tensor::kernels
#endif
