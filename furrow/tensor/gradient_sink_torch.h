// Where the parameter gradients of one unit and one microbatch go: straight into the flat gradient buffer.
//
// Operations with a weight (linear, conv2d, embedding) are autograd functions whose backward returns the
// input gradient and defers the weight gradient here; norms and biases put theirs.  backward_weight then
// writes all of them, each exactly once, with beta 0, into spans of the flat buffer.  Not thread safe: one
// owner.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace furrow::tensor {

struct Adapter;
class TensorAxis;

// A parameter as a block sees it.  `leaf` is a view of the flat parameters that requires grad; an operation
// of ours uses `index` to put or defer the gradient and returns an undefined tensor to autograd for it; plain
// libtorch code just uses `leaf`, and the executor puts what autograd returns.
struct Param {
  at::Tensor leaf;
  int index = -1;                               // into Unit::parameters; -1: absent (no bias)
  std::shared_ptr<const Adapter> adapter = {};  // of a weight; null: none
  bool defined() const { return index >= 0; }
};

// Beside a weight W: the layer has W + scale * b a in its place, of which a reads its input under dropout.
struct Adapter {
  Param a, b;  // shapes: plan::Adapter
  double scale = 1;
  double dropout = 0;
  std::string stream = {};  // layer name of the mask
  int64_t columns = 0;      // of what `a` reads, where it is one of several ranks' parts of a; else 0
};

class GradientSink {
 public:
  explicit GradientSink(int parameters);  // wants all of them
  // `frozen`, by parameter: those that want no gradient.  `device`: where targets lie.
  explicit GradientSink(const std::vector<bool>& frozen, const at::Device& device = at::kCPU);

  void put(int parameter, at::Tensor gradient);                        // fp32, the parameter's shape
  void defer(int parameter, std::function<void(float* out)> compute);  // writes the whole parameter, beta 0
  // One computation for several parameters, as a weight and its bias: out[i] is the place of parameters[i].
  void defer(std::vector<int> parameters, std::function<void(std::span<float* const> out)> compute);
  // These are parts of a sum over the ranks of the axis: write() sums those that are wanted, in one
  // all-reduce behind the rest; none where none is.  The axis lives until then.
  void sum_over(TensorAxis& axis, std::vector<Param> parameters);
  bool has(int parameter) const;
  // Whether it wants the gradient: what is put or deferred for others is dropped, and need not be formed.
  bool wants(int parameter) const { return !frozen_[static_cast<size_t>(parameter)]; }
  // Whether write() needs its target: it is wanted, or computed with one that is.
  bool writes(int parameter) const;

  // Writes every gradient to its place and forgets all closures (and what they hold).  targets[i] is the span
  // of parameter i, of a frozen one memory that nobody reads, or nothing where writes() is false; a parameter
  // that got none is written as zeros.  A second gradient for one parameter is Error{internal}: a unit uses
  // each parameter once.
  void write(std::span<const std::span<float>> targets);

 private:
  struct Deferred {
    std::vector<int> parameters;
    std::function<void(std::span<float* const>)> compute;
  };
  struct Sum {
    TensorAxis* axis = nullptr;
    std::vector<Param> parameters;
  };
  void claim(int parameter);
  void sum(const Sum& sum, std::span<const std::span<float>> targets) const;

  std::vector<bool> frozen_;  // by parameter
  at::Device device_;
  std::vector<bool> claimed_;          // by parameter: it was put or deferred
  std::vector<at::Tensor> gradients_;  // by parameter: what was put
  std::vector<Deferred> deferred_;     // in the order of the calls
  std::optional<Sum> sum_;
};

}  // namespace furrow::tensor
