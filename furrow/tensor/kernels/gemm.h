// Single-precision matrix products, and the three of a linear layer.
//
// Every output element is one chain of fused multiply-adds over k = 0, 1, 2, ..., starting from zero: its
// bits do not depend on the thread count, on the other rows and columns, on alignment or on the blocking. (On
// a machine without FMA the product is rounded first.)  All matrices are row-major fp32, `ld*` in elements.
// Thread safe; outputs must not overlap inputs except where stated.  REQUIRES: sizes >= 0, threads >= 1.
#pragma once

#include <cstdint>

namespace furrow::tensor::kernels {

// Products apply those up to kGeluTanh; the others are elementwise.h's.
enum class Activation : uint8_t { kNone, kRelu, kGelu, kGeluTanh, kSilu, kSoftplus, kTanh, kSigmoid };

// What the gradient of one is formed from: its slope, its output (ReLU, tanh, sigmoid), or nothing.
inline bool has_slope(Activation activation) {
  return activation >= Activation::kGelu && activation <= Activation::kSoftplus;
}

// A strided matrix: element (i, j) at data[i * row_stride + j * col_stride]; one of the strides must be 1.
template <class T>
struct StridedView {
  const T* data = nullptr;
  int64_t row_stride = 0;
  int64_t col_stride = 1;

  StridedView transposed() const { return {data, col_stride, row_stride}; }
};
using MatrixView = StridedView<float>;

// What happens to a finished element c of column j before it is stored, in this order.
struct Epilogue {
  const float* bias = nullptr;                // c += bias[j]
  Activation activation = Activation::kNone;  // c = activation(c)
  float* slope = nullptr;           // GELU only: activation'(before) goes here, laid out as C; may be null
  const float* multiply = nullptr;  // c *= multiply(i, j), laid out as C (a saved slope)
  const float* positive = nullptr;  // c = positive(i, j) > 0 ? c : 0, laid out as C (a ReLU's output)
};

// C[m, n] = A[m, k] B[k, n].  With `accumulate` the chains go on from what C holds, so that products over
// parts of k one after the other give the bits of one product over all of it.
struct Gemm {
  int64_t m = 0, n = 0, k = 0;
  MatrixView a, b;
  float* c = nullptr;
  int64_t ldc = 0;
  Epilogue epilogue = {};
  bool accumulate = false;
};
void gemm(const Gemm& args, int threads);

// A linear layer y = activation(x W^T + bias); x [rows, in], W [out, in], bias [out], y [rows, out], all
// dense.
struct LinearShape {
  int64_t rows = 0, in = 0, out = 0;
};

// `slope` [rows, out] receives activation' for the GELUs (what backward needs); may be null for inference.
// ReLU needs only y.  `bias` may be null.
struct LinearForward {
  LinearShape shape;
  const float* x = nullptr;
  const float* weight = nullptr;
  const float* bias = nullptr;
  Activation activation = Activation::kNone;
  float* y = nullptr;
  float* slope = nullptr;
};
void linear_forward(const LinearForward& args, int threads);

// dx = dz W, then, if the producer of x was an activation, its backward in the same pass:
// `gate_multiply` (the producer's slope [rows, in]) or `gate_positive` (x itself when it is a ReLU's output).
struct LinearBackwardInput {
  LinearShape shape;
  const float* dz = nullptr;  // [rows, out], gradient of x W^T + bias
  const float* weight = nullptr;
  float* dx = nullptr;  // [rows, in]
  const float* gate_multiply = nullptr;
  const float* gate_positive = nullptr;
};
void linear_backward_input(const LinearBackwardInput& args, int threads);

// dW = dz^T x, written (beta 0) into dweight [out, in].
struct LinearBackwardWeight {
  LinearShape shape;
  const float* dz = nullptr;
  const float* x = nullptr;
  float* dweight = nullptr;
};
void linear_backward_weight(const LinearBackwardWeight& args, int threads);

// db[j] = sum over rows of dz(i, j), in a fixed order that does not depend on threads.
void column_sums(int64_t rows, int64_t columns, const float* dz, float* db, int threads);

// dz = backward of the activation at the output of a linear layer, and db = column sums of dz in the same
// pass. ReLU, tanh and sigmoid read y, the others slope.  dz may alias dy.  db may be null.
struct ActivationBackward {
  int64_t rows = 0, columns = 0;
  Activation activation = Activation::kNone;
  const float* dy = nullptr;
  const float* y = nullptr;
  const float* slope = nullptr;
  float* dz = nullptr;
  float* db = nullptr;
};
void activation_backward(const ActivationBackward& args, int threads);

}  // namespace furrow::tensor::kernels
