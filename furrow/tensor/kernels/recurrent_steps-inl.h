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
#include <utility>

#include "furrow/tensor/kernels/blocks.h"
#include "furrow/tensor/kernels/gemm_pack-inl.h"
#include "furrow/tensor/kernels/gemm_pairs-inl.h"
#include "furrow/tensor/kernels/recurrent.h"
#include "furrow/tensor/kernels/scratch.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {

constexpr int64_t kStepDepth = 256;  // lanes of k at a time: of both operands in a first-level cache
constexpr int64_t kStepBlocks = 4;   // blocks of rows that share a panel of the weight while it is there
constexpr int64_t kStepRows = kStepBlocks * kMR;

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
#if FURROW_BF16_PAIRS
  if constexpr (std::is_same_v<Lanes, PairLanes>) {
    pack_pairs_b(w, depth, {0, (depth + 1) / 2}, 0, columns, to);
  } else {
    pack_b(w, {0, depth}, 0, columns, to);
  }
#else
  pack_b(w, {0, depth}, 0, columns, to);
#endif
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

// The left operand of a share's steps, rows along k, one for the step that reads and one for the step that
// writes.  What no row has is 0.
template <class Lanes>
class StepOperand {
 public:
  using Number = typename Lanes::Number;
  StepOperand(const RecurrentShape& s, int64_t rows, int64_t parts, ScratchScope* scratch)
      : part_(row_room(lanes_of<Lanes>(s))), row_(parts * part_ + kPadding) {
    for (float** lanes : {&read_, &written_}) {
      *lanes = scratch->floats(rows * row_);
      std::memset(*lanes, 0, static_cast<size_t>(rows * row_) * sizeof(float));
    }
  }
  // Rows from `row` on, their lanes of a part from `lane` on.
  Operand read(int64_t row, int64_t part, int64_t lane) const {
    return {read_ + row * row_ + part * part_ + lane, row_};
  }
  // Where number `k` of a part of a row goes.
  HWY_INLINE Number* written(int64_t row, int64_t part, int64_t k) const {
    return reinterpret_cast<Number*>(written_ + row * row_ + part * part_) + k;
  }
  void next_step() { std::swap(read_, written_); }

 private:
  static constexpr int64_t kPadding = 16;  // so that rows lie beside each other in a cache
  int64_t part_, row_;                     // lanes of a part, of a row
  float* read_ = nullptr;
  float* written_ = nullptr;
};

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#endif
