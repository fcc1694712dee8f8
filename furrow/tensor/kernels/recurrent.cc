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
  int64_t part_sums, row_sums;
  float* sums;   // of a step, [row of a group][output part][panel][kNR]
  float* carry;  // [sample of the share][hidden]: the cell in forward, its gradient in backward
  StepShare(const RecurrentShape& s, int64_t begin, int64_t end, bool forward, ScratchScope* scratch)
      : s(s),
        first(begin),
        rows(end - begin, kMR),
        operand(s, end - begin, forward ? 1 : s.parts(), scratch),
        part_sums(panels(s) * kNR),
        row_sums((forward ? s.parts() : 1) * part_sums + 16),  // rows beside each other in a cache
        sums(scratch->floats(std::min(kStepRows, end - begin) * row_sums)),
        carry(scratch->floats((end - begin) * s.hidden)) {
    std::memset(carry, 0, static_cast<size_t>((end - begin) * s.hidden) * sizeof(float));
  }
};

// A row of a step: what is finished at a time.
struct StepRow {
  int64_t t, share_row;
  const float* sums;
  bool followed;  // by the next sample's, which is fetched meanwhile
};

// A value as the next step multiplies it: rounded to T.
template <class Lanes, class T, class Access>
HWY_INLINE void keep(VF value, const Access& at, typename Lanes::Number* operand) {
  if constexpr (std::is_same_v<T, typename Lanes::Number>) {
    Lanes::store(value, operand, at);
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

  // One vector of hidden units behind the product.
  template <class Access>
  HWY_INLINE VF cell(const float* sums, const Access& at, int64_t row, int64_t j, float* carry) const {
    const int64_t hidden = a.shape.hidden;
    T* gates = a.gates + row * a.shape.parts() * hidden + j;
    const auto z = [&](int64_t part) HWY_ATTR {
      return hn::Add(at.load(sums + part * share.part_sums), at.load(gates + part * hidden));
    };
    if constexpr (CELL == Cell::kTanh) {
      const VF h = tanh(z(0));
      Lanes::store(h, gates, at);
      return h;
    } else {
      const VF i = sigmoid(z(0)), f = sigmoid(z(1)), g = tanh(z(2)), o = sigmoid(z(3));
      Lanes::store(i, gates, at);
      Lanes::store(f, gates + hidden, at);
      Lanes::store(g, gates + 2 * hidden, at);
      Lanes::store(o, gates + 3 * hidden, at);
      const VF c = hn::MulAdd(f, at.load(carry), hn::Mul(i, g));
      at.store(c, carry);
      Lanes::store(c, a.cell + row * hidden + j, at);
      return hn::Mul(o, tanh(c));
    }
  }

  // Columns from j on of what finish() reads and writes of a row.
  HWY_INLINE void fetch(int64_t row, int64_t t, int64_t j) const {
    const int64_t hidden = a.shape.hidden;
    for (int64_t part = 0; part < a.shape.parts(); ++part)
      hwy::Prefetch(a.gates + (row * a.shape.parts() + part) * hidden + j);
    if (a.cell) hwy::Prefetch(a.cell + row * hidden + j);
    if (a.out) hwy::Prefetch(a.out + row * a.out_stride + j);
    if (a.previous && t + 1 < a.shape.time) hwy::Prefetch(a.previous + (row + 1) * a.previous_stride + j);
  }

  void finish(const StepRow& r) const {
    const RecurrentShape& s = a.shape;
    const int64_t row = row_of(s, share.first + r.share_row, r.t),
                  following = row + (r.followed ? s.time : 0);
    float* carry = share.carry + r.share_row * s.hidden;
    T* out = a.out ? a.out + row * a.out_stride : nullptr;
    T* previous = a.previous ? a.previous + row * a.previous_stride : nullptr;
    T* next = previous && r.t + 1 < s.time ? previous + a.previous_stride : nullptr;
    sweep(0, s.hidden, [&](int64_t j, auto at) HWY_ATTR {
      fetch(following, r.t, j);
      const VF h = cell(r.sums + j, at, row, j, carry + j);
      if (out) Lanes::store(h, out + j, at);
      if (previous && r.t == 0) at.store(zero(), previous + j);
      if (next) Lanes::store(h, next + j, at);
      keep<Lanes, T>(h, at, share.operand.written(r.share_row, 0, j));
    });
  }
};

// ----- backward

template <Cell CELL, class Lanes, class T>
struct BackwardSteps {
  static constexpr bool kForward = false;
  const RecurrentBackward<T>& a;
  const StepShare<Lanes>& share;

  HWY_INLINE void fetch(int64_t row, int64_t t, int64_t j) const {
    const int64_t hidden = a.shape.hidden;
    for (int64_t part = 0; part < a.shape.parts(); ++part)
      hwy::Prefetch(a.gates + (row * a.shape.parts() + part) * hidden + j);
    if (a.cell && t > 0) hwy::Prefetch(a.cell + (row - 1) * hidden + j);
    if (a.dout) hwy::Prefetch(a.dout + row * a.dout_stride + j);
    if (a.dprevious && t + 1 < a.shape.time) hwy::Prefetch(a.dprevious + (row + 1) * a.dprevious_stride + j);
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

  void finish(const StepRow& r) const {
    const RecurrentShape& s = a.shape;
    const int64_t row = row_of(s, share.first + r.share_row, r.t),
                  following = row + (r.followed ? s.time : 0);
    float* carry = share.carry + r.share_row * s.hidden;
    const T* out = a.dout ? a.dout + row * a.dout_stride : nullptr;
    const T* next = a.dprevious && r.t + 1 < s.time ? a.dprevious + (row + 1) * a.dprevious_stride : nullptr;
    sweep(0, s.hidden, [&](int64_t j, auto at) HWY_ATTR {
      fetch(following, r.t, j);
      VF dh = at.load(r.sums + j);
      if (out) dh = hn::Add(dh, at.load(out + j));
      if (next) dh = hn::Add(dh, at.load(next + j));
      cell(dh, at, row, r.t, j, carry + j, [&](int64_t part, VF dz, T* z) HWY_ATTR {
        Lanes::store(dz, z, at);
        keep<Lanes, T>(dz, at, share.operand.written(r.share_row, part, j));
      });
    });
  }
};

// ----- both

// Sums of the blocks of rows [begin, end), at most kStepBlocks of them: their product with the step before.
template <bool FORWARD, class Lanes, class T>
void step_product(const StepShare<Lanes>& share, const StepWeight<Lanes, T>& weight, int64_t begin,
                  int64_t end) {
  const RecurrentShape& s = share.s;
  const int64_t lanes = lanes_of<Lanes>(s), first = share.rows.begin(begin);
  for (int64_t panel = 0; panel < panels(s); ++panel) {
    for (int64_t part = 0; part < s.parts(); ++part) {
      const int64_t from = FORWARD ? 0 : part, to = FORWARD ? part : 0;
      for (int64_t k = 0; k < lanes; k += kStepDepth) {
        for (int64_t b = begin; b < end; ++b) {
          const int64_t rows = share.rows.size(b);
          micro_kernel_of<Lanes, Rows::kAlong>(rows)(
              share.operand.read(share.rows.begin(b), from, k), {weight.panel(panel, part) + k * kNR, kNR},
              std::min(kStepDepth, lanes - k), k > 0 || from > 0,
              share.sums + (share.rows.begin(b) - first) * share.row_sums + to * share.part_sums +
                  panel * kNR,
              share.row_sums);
        }
      }
    }
  }
}

// What follows the sums, row by row: whole rows are read and written, the next one is fetched meanwhile.
template <class Steps, class Lanes>
void finish_rows(const Steps& steps, const StepShare<Lanes>& share, int64_t t, int64_t begin, int64_t end) {
  const int64_t first = share.rows.begin(begin), last = share.rows.begin(end) - 1;
  for (int64_t r = first; r <= last; ++r)
    steps.finish({t, r, share.sums + (r - first) * share.row_sums, r < last});
}

int team(const RecurrentShape& s, int threads) {
  constexpr int64_t kWorthAThread = 1 << 19;  // products
  return team_for(s.batch * s.time * s.parts() * s.hidden * s.hidden, kWorthAThread, threads);
}

template <class Steps, class Lanes, class T, class Args>
void run_share(const Args& a, const StepWeight<Lanes, T>& weight, int64_t begin, int64_t end) {
  const RecurrentShape& s = a.shape;
  ScratchScope scratch;
  StepShare<Lanes> share(s, begin, end, Steps::kForward, &scratch);
  const Steps steps{a, share};
  for (int64_t step = 0; step < s.time; ++step) {
    for (int64_t b = 0; b < share.rows.parts; b += kStepBlocks) {
      const int64_t stop = std::min(b + kStepBlocks, share.rows.parts);
      if (step > 0) {
        step_product<Steps::kForward>(share, weight, b, stop);
      } else {
        const int64_t sums = (share.rows.begin(stop) - share.rows.begin(b)) * share.row_sums;
        std::memset(share.sums, 0, static_cast<size_t>(sums) * sizeof(float));
      }
      finish_rows(steps, share, Steps::kForward ? step : s.time - 1 - step, b, stop);
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
    if (usable_pairs()) return run_steps<Steps, PairLanes, T>(a, threads);
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
