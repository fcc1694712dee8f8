// The product of a step of a recurrent layer: a weight packed once for all steps, and a left operand that the
// step before leaves as the register block reads it, so that nothing is packed between steps.
#include "furrow/tensor/kernels/targets.h"
#if defined(FURROW_TENSOR_KERNELS_RECURRENT_STEPS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FURROW_TENSOR_KERNELS_RECURRENT_STEPS_INL_H_
#undef FURROW_TENSOR_KERNELS_RECURRENT_STEPS_INL_H_
#else
#define FURROW_TENSOR_KERNELS_RECURRENT_STEPS_INL_H_
#endif

#include <algorithm>
#include <array>
#include <utility>

#include "furrow/tensor/kernels/blocks.h"
#include "furrow/tensor/kernels/gemm_pack-inl.h"
#include "furrow/tensor/kernels/gemm_pairs-inl.h"
#include "furrow/tensor/kernels/recurrent.h"
#include "furrow/tensor/kernels/scratch.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {

// What a 32-bit lane of the operands is: a float32, or two bfloat16 that are neighbours in k.
struct SingleLanes {
  using Number = float;
  static constexpr int64_t kNumbers = 1;
  static HWY_INLINE VF multiply_add(VF a, VF b, VF sum) { return hn::MulAdd(a, b, sum); }
  template <class T, class Access>
  static HWY_INLINE void store(VF value, T* to, const Access& at) {
    at.store(value, to);
  }
};
#if FURROW_BF16_PAIRS
struct PairLanes {
  using Number = bf16;
  static constexpr int64_t kNumbers = 2;
  static HWY_INLINE VF multiply_add(VF a, VF b, VF sum) { return add_products(a, b, sum); }
  template <class Access>
  static HWY_INLINE void store(VF value, bf16* to, const Access& at) {
    store_normal(value, to, at);
  }
};
#endif

constexpr int64_t kLine = 16;        // lanes of the left operand that lie together, of each row
constexpr int64_t kStepDepth = 256;  // lanes of k at a time: of both operands in a first-level cache
constexpr int64_t kStepBlocks = 4;   // blocks of rows that share a panel of the weight while it is there
constexpr int64_t kStepRows = kStepBlocks * kMR;

// C[MR, kNR] = (resume ? C : 0) + sum over k of a(i, k) * b[k * kNR + j], k in order.
template <class Lanes, int MR>
HWY_NOINLINE void step_kernel(const float* HWY_RESTRICT a, const float* HWY_RESTRICT b, int64_t lanes,
                              bool resume, float* HWY_RESTRICT c, int64_t ldc) {
  VF acc[MR][kNV];
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kNV; ++j) acc[i][j] = resume ? load(c + i * ldc + j * kLanes) : zero();
  }
  for (; lanes > 0; lanes -= kLine, a += MR * kLine) {
    const int64_t here = std::min(kLine, lanes);
    for (int64_t k = 0; k < here; ++k, b += kNR) {
      for (int j = 0; j < kNR; j += 16) hwy::Prefetch(b + kRowsAhead * kNR + j);
      VF bk[kNV];
#pragma GCC unroll 4
      for (int j = 0; j < kNV; ++j) bk[j] = load(b + j * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) {
        const VF ai = set(a[i * kLine + k]);
#pragma GCC unroll 4
        for (int j = 0; j < kNV; ++j) acc[i][j] = Lanes::multiply_add(ai, bk[j], acc[i][j]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kNV; ++j) store(acc[i][j], c + i * ldc + j * kLanes);
  }
}

using StepKernel = void (*)(const float*, const float*, int64_t, bool, float*, int64_t);

template <class Lanes, size_t... ROWS>
constexpr std::array<StepKernel, kMR> step_kernels(std::index_sequence<ROWS...>) {
  return {&step_kernel<Lanes, ROWS + 1>...};
}
template <class Lanes>
StepKernel step_kernel_of(int64_t rows) {
  static constexpr std::array<StepKernel, kMR> kTable = step_kernels<Lanes>(std::make_index_sequence<kMR>());
  return kTable[static_cast<size_t>(rows - 1)];
}

// Hidden columns [begin, begin + count), a panel of W or of its transpose.
struct Columns {
  int64_t begin, count;
  Columns(int64_t panel, int64_t hidden)
      : begin(panel * kNR), count(std::min<int64_t>(kNR, hidden - begin)) {}
};
inline int64_t panels(const RecurrentShape& s) { return (s.hidden + kNR - 1) / kNR; }

template <class Lanes>
int64_t lanes_of(const RecurrentShape& s) {
  return (s.hidden + Lanes::kNumbers - 1) / Lanes::kNumbers;
}

// [k, columns] of a strided matrix as a panel, columns beyond the last 0.
template <class Lanes, class T>
void pack_step_weight(const HalfView<T>& w, int64_t depth, int64_t columns, float* to) {
  if constexpr (std::is_same_v<T, float>) {
    pack_b({w.data, w.row_stride, w.col_stride}, 0, depth, 0, columns, to);
#if FURROW_BF16_PAIRS
  } else if constexpr (std::is_same_v<Lanes, PairLanes>) {
    pack_pairs_b(w, depth, {0, (depth + 1) / 2}, 0, columns, to);
#endif
  } else {
    const bool across = w.col_stride == 1;
    const int64_t runs = across ? depth : columns, length = across ? columns : depth;
    ScratchScope scratch;
    float* wide = scratch.floats(runs * length);
    for (int64_t r = 0; r < runs; ++r) {
      const T* from = w.data + r * (across ? w.row_stride : w.col_stride);
      sweep(0, length,
            [&](int64_t i, auto at) HWY_ATTR { at.store(at.load(from + i), wide + r * length + i); });
    }
    pack_b({wide, across ? length : 1, across ? 1 : length}, 0, depth, 0, columns, to);
  }
}

// W for the steps: of each panel of hidden columns its parts one after the other, forward columns of W^T
// (k is the state), backward of W (k is a part of the gradient of z).
template <class Lanes, class T>
class StepWeight {
 public:
  StepWeight(const RecurrentShape& s, const T* weight, bool forward, float* packed)
      : s_(s), weight_(weight), forward_(forward), packed_(packed) {}
  static int64_t floats(const RecurrentShape& s) { return panels(s) * s.parts() * lanes_of<Lanes>(s) * kNR; }
  const float* panel(int64_t p, int64_t part) const {
    return packed_ + (p * s_.parts() + part) * lanes_of<Lanes>(s_) * kNR;
  }
  void pack(int64_t p) const {
    const Columns columns(p, s_.hidden);
    for (int64_t part = 0; part < s_.parts(); ++part) {
      const T* rows = weight_ + part * s_.hidden * s_.weight_stride;
      const HalfView<T> view = forward_
                                   ? HalfView<T>{rows + columns.begin * s_.weight_stride, 1, s_.weight_stride}
                                   : HalfView<T>{rows + columns.begin, s_.weight_stride, 1};
      pack_step_weight<Lanes>(view, s_.hidden, columns.count,
                              packed_ + (p * s_.parts() + part) * lanes_of<Lanes>(s_) * kNR);
    }
  }

 private:
  const RecurrentShape& s_;
  const T* weight_;
  bool forward_;
  float* packed_;
};

// The left operand of a share's steps, one for the step that reads and one for the step that writes.  Rows
// lie in blocks; of a block and a part, kLine lanes of each row, then the next kLine.  What no row has is 0.
template <class Lanes>
class StepOperand {
 public:
  using Number = typename Lanes::Number;
  StepOperand(const RecurrentShape& s, const Blocks& rows, int64_t parts, ScratchScope* scratch)
      : rows_(rows), lines_((lanes_of<Lanes>(s) + kLine - 1) / kLine), parts_(parts) {
    const int64_t size = rows.count * parts * lines_ * kLine;
    read_ = scratch->floats(size);
    written_ = scratch->floats(size);
    std::memset(read_, 0, static_cast<size_t>(size) * sizeof(float));
    std::memset(written_, 0, static_cast<size_t>(size) * sizeof(float));
  }
  // A block's lanes from `lane`, a multiple of kLine, on.
  const float* read(int64_t block, int64_t part, int64_t lane) const {
    return read_ + at(block, part) + lane * rows_.size(block);
  }
  // Where number `k` of a part of row `r` of a block goes; a vector of numbers lies together.
  struct Target {
    Number* data;
    int64_t rows, part_numbers;
    HWY_INLINE Number* of(int64_t part, int64_t r, int64_t k) const {
      constexpr int64_t kRun = kLine * Lanes::kNumbers;
      return data + part * part_numbers + (k / kRun * rows + r) * kRun + k % kRun;
    }
  };
  Target written(int64_t block) const {
    const int64_t rows = rows_.size(block);
    return {reinterpret_cast<Number*>(written_ + at(block, 0)), rows,
            rows * lines_ * kLine * Lanes::kNumbers};
  }
  void next_step() { std::swap(read_, written_); }

 private:
  int64_t at(int64_t block, int64_t part) const {
    return (rows_.begin(block) * parts_ + rows_.size(block) * part) * lines_ * kLine;
  }
  const Blocks& rows_;
  int64_t lines_, parts_;
  float* read_;
  float* written_;
};

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#endif
