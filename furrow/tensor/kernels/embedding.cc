#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "furrow/tensor/kernels/embedding.cc"
#include "furrow/tensor/kernels/targets.h"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on
#include "furrow/tensor/kernels/embedding.h"
#include "furrow/tensor/kernels/parallel.h"
#include "furrow/tensor/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {
namespace {

int team(int64_t n, int threads) { return team_for(n, 32768, threads); }

// target[row_of(i)] += dout[i] for all i in order that have a row (>= 0), columns in whole cache lines shared
// out over threads.
template <class T, class RowOf>
void scatter_add(int64_t count, int64_t columns, const T* dout, float* target, int threads,
                 const RowOf& row_of) {
  parallel_for(team(count * columns, threads), (columns + 15) / 16, [&](int64_t begin, int64_t end) HWY_ATTR {
    const int64_t to = std::min(end * 16, columns);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t at_row = row_of(i);
      if (at_row < 0) continue;
      const T* from = dout + i * columns;
      float* row = target + at_row * columns;
      sweep(begin * 16, to, [&](int64_t j, auto at) HWY_ATTR {
        at.store(hn::Add(at.load(row + j), at.load(from + j)), row + j);
      });
    }
  });
}

template <class T>
void look_up(const EmbeddingForward<T>& a, int threads) {
  parallel_for(team(a.count * a.columns, threads), a.count, [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t i = begin; i < end; ++i) {
      const T* row = a.table + a.ids[i] * a.columns;
      const int64_t p = a.position_ids ? a.position_ids[i] : a.positions ? i % a.period : 0;
      const T* position = a.positions ? a.positions + p * a.columns : nullptr;
      sweep(0, a.columns, [&](int64_t j, auto at) HWY_ATTR {
        const VF x = at.load(row + j);
        at.store(position ? hn::Add(x, at.load(position + j)) : x, a.out + i * a.columns + j);
      });
    }
  });
}

template <class T>
void add_up(const EmbeddingBackward<T>& a, int threads) {
  std::memset(a.dtable, 0, static_cast<size_t>(a.rows * a.columns) * sizeof(float));
  scatter_add(a.count, a.columns, a.dout, a.dtable, threads, [&](int64_t i) {
    if (a.ids == nullptr) return i % a.rows;
    const int64_t row = a.ids[i] - a.first;
    return row < a.rows ? row : -1;
  });
}

}  // namespace

void run_embedding_forward(const EmbeddingForward<float>& a, int threads) { look_up(a, threads); }
void run_embedding_forward_bf16(const EmbeddingForward<bf16>& a, int threads) { look_up(a, threads); }
void run_embedding_forward_f16(const EmbeddingForward<f16>& a, int threads) { look_up(a, threads); }

void run_embedding_backward(const EmbeddingBackward<float>& a, int threads) { add_up(a, threads); }
void run_embedding_backward_bf16(const EmbeddingBackward<bf16>& a, int threads) { add_up(a, threads); }
void run_embedding_backward_f16(const EmbeddingBackward<f16>& a, int threads) { add_up(a, threads); }

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace furrow::tensor::kernels {

HWY_EXPORT(run_embedding_forward);
HWY_EXPORT(run_embedding_forward_bf16);
HWY_EXPORT(run_embedding_forward_f16);
HWY_EXPORT(run_embedding_backward);
HWY_EXPORT(run_embedding_backward_bf16);
HWY_EXPORT(run_embedding_backward_f16);
void embedding_forward(const EmbeddingForward<float>& args, int threads) {
  HWY_DYNAMIC_DISPATCH(run_embedding_forward)(args, threads);
}
void embedding_forward(const EmbeddingForward<bf16>& args, int threads) {
  HWY_DYNAMIC_DISPATCH(run_embedding_forward_bf16)(args, threads);
}
void embedding_forward(const EmbeddingForward<f16>& args, int threads) {
  HWY_DYNAMIC_DISPATCH(run_embedding_forward_f16)(args, threads);
}
void embedding_backward(const EmbeddingBackward<float>& args, int threads) {
  HWY_DYNAMIC_DISPATCH(run_embedding_backward)(args, threads);
}
void embedding_backward(const EmbeddingBackward<bf16>& args, int threads) {
  HWY_DYNAMIC_DISPATCH(run_embedding_backward_bf16)(args, threads);
}
void embedding_backward(const EmbeddingBackward<f16>& args, int threads) {
  HWY_DYNAMIC_DISPATCH(run_embedding_backward_f16)(args, threads);
}

}  // namespace furrow::tensor::kernels
#endif
