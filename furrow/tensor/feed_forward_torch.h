// The feed-forward layer of a decoder's block, in the terms of ops_torch.h, which has the rules.
#pragma once

#include <ATen/core/Tensor.h>

#include <span>
#include <string_view>

#include "furrow/tensor/ops_torch.h"

namespace furrow::tensor {

// x + dropout(out(h)), h being activation(in(n)), or of two layers `in` swiglu(in_0(n), in_1(n)), and n
// layer_norm(x), or rms_norm(x) where it is not centred.  The bits of those operations.
struct FeedForward {
  struct Norm {
    Param weight, bias = {};
    double eps = 1e-5;
    bool centred = true;
  };
  Norm norm;
  std::span<const Param> in;                  // weights
  Param in_bias = {};                         // of one
  Activation activation = Activation::kGelu;  // of one: a GELU
  Param out, out_bias = {};
  double dropout = 0;
  std::string_view stream = {};
};
at::Tensor feed_forward(const at::Tensor& x, const FeedForward& layers, OpContext& context);

// Whether all of it runs at once, by our kernels: where nothing is cut, adapted, dropped or of 16 bits.
bool runs_at_once(const at::Tensor& x, const FeedForward& layers, const OpContext& context);

}  // namespace furrow::tensor
