// Rows of a table, and their gradient.  Thread safe.  REQUIRES: 0 <= id < vocabulary for every id (the caller
// has checked), columns >= 1.
#pragma once

#include <cstdint>

#include "furrow/tensor/kernels/half.h"

namespace furrow::tensor::kernels {

// out [count, columns] = table[ids] (+ positions[p], p being position_ids[i], or i % period without them,
// when positions is not null: learned positions).
// T is float, bf16 or f16; the sum is float32, rounded once.
template <class T>
struct EmbeddingForward {
  int64_t count = 0, columns = 0;
  const int64_t* ids = nullptr;
  const T* table = nullptr;      // [vocabulary, columns]
  const T* positions = nullptr;  // [period, columns]
  int64_t period = 0;
  T* out = nullptr;
  const int64_t* position_ids = nullptr;  // [count], each below period; or null
};
void embedding_forward(const EmbeddingForward<float>& args, int threads);
void embedding_forward(const EmbeddingForward<bf16>& args, int threads);
void embedding_forward(const EmbeddingForward<f16>& args, int threads);

// dtable [rows, columns], written whole: row r is the sum of dout over the positions i with ids[i] == first +
// r, in order, or without ids over those with i % rows == r; rows that do not occur are zero, ids of other
// rows (of other ranks) left out.  T is float, bf16 or f16; sums are float32.  Parallel over columns, so bits
// do not depend on threads.
template <class T>
struct EmbeddingBackward {
  int64_t count = 0, columns = 0, rows = 0;
  const int64_t* ids = nullptr;
  const T* dout = nullptr;
  float* dtable = nullptr;
  int64_t first = 0;
};
void embedding_backward(const EmbeddingBackward<float>& args, int threads);
void embedding_backward(const EmbeddingBackward<bf16>& args, int threads);
void embedding_backward(const EmbeddingBackward<f16>& args, int threads);

}  // namespace furrow::tensor::kernels
