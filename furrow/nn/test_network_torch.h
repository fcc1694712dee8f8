// One step of a whole network, unit by unit as the executor runs it, beside the same step in plain libtorch
// autograd.  For tests only.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "furrow/nn/block_torch.h"
#include "furrow/plan/flat_layout.h"
#include "furrow/plan/model_spec.h"
#include "furrow/tensor/tensor_axis_torch.h"

namespace furrow::nn::testing {

using Tensors = std::map<std::string, at::Tensor>;  // by full parameter name
using Plain = std::function<at::Tensor(const at::Tensor& input, const Tensors& params)>;

struct Network {
  plan::ModelSpec spec;
  Plain plain;  // logits
  at::Tensor input, targets;
  std::vector<int64_t> positions = {};  // of the context; empty: rows are whole
  double smoothing = 0;                 // of the labels
  int64_t classes = 0;                  // of a rank's part: those of all
};

// Appends a unit that reads the output of the last one.
void append(plan::ModelSpec* spec, std::string name, std::string_view kind, plan::Attributes attributes);

// Made-up ids below `classes`.
at::Tensor tokens(at::IntArrayRef sizes, int64_t classes, uint64_t seed);

// Several documents in each row of `input`, the rest of which is padding: positions, ignored targets.
void share_rows(Network* network);
at::Tensor positions_of(const Network& network);  // [batch, time]
// Which keys a query sees, [batch, 1, time, time]: those of its document up to itself.
at::Tensor plain_mask(const at::Tensor& positions);

// x weight^T + bias of the parameters that start with `name`; without the bias where there is none.
at::Tensor plain_linear(const at::Tensor& x, const Tensors& params, const std::string& name);

// Layers of these outputs over images of 6 x 7; the last gives logits.
Network mlp_network(const std::vector<int64_t>& widths, const std::string& activation);

// Two layers over made-up tokens.  kv_heads and ffn are llama's, bias and dropout the gpt's.
struct DecoderForm {
  int64_t batch = 5, time = 9, vocabulary = 17, width = 32, heads = 4, kv_heads = 4, ffn = 44;
  bool tied = false, bias = true, documents = false;  // documents: several in each row
  double dropout = 0;                                 // plain has none
  bool qkv_bias = false;                              // llama's
  int64_t head_dim = 0;                               // llama's; 0: width / heads
  std::string rope_scaling = "none";                  // llama's: 4 times, Llama 3's beyond 32 positions
};
Network gpt_network(const DecoderForm& form);
Network llama_network(const DecoderForm& form);

// The network with adapters in it (models/lora.h), of which plain reads the sums with their weights; every
// parameter trains.  REQUIRES: no weight with an adapter is tied.
struct AdapterForm {
  int64_t rank = 5;
  double alpha = 8, dropout = 0;
  std::vector<std::string> target_modules = {"*"};
};
Network with_adapters(Network network, const AdapterForm& form = {});

// A unit with batch norm that trains on a microbatch, and is evaluated by what that said of its statistics.
class NormedUnit {
 public:
  // `params`: by parameter of the unit.
  NormedUnit(const plan::Unit& unit, const std::vector<at::Tensor>& params);
  at::Tensor train(const at::Tensor& x);
  at::Tensor said(size_t statistic) const;  // of the last train(), one of the unit's statistics
  at::Tensor evaluate(const at::Tensor& x);

 private:
  plan::UnitLayout layout_;
  std::unique_ptr<Block> block_;
  std::vector<tensor::Param> params_;
  std::vector<float> said_;
};

struct Step {
  double loss = 0;
  int64_t rows = 0, correct = 0;  // of ours alone
  at::Tensor output;
  at::Tensor input_gradient;  // of an input of numbers
  Tensors gradients;
};

// Parameters as training starts, norms, biases and adapters away from their neutral start.
Tensors initial(const plan::ModelSpec& spec);

// The step unit by unit as the executor runs it.  Over an axis: the rank's, of a spec and of parameters that
// are its part; every unit is held to the collectives that it declares.
struct OurStep {
  int threads = 1;
  tensor::TensorAxis* axis = nullptr;
  bool recompute = false;  // forward once without a graph, and again before backward
  bool composed = false;   // by the operations of devices
};
Step our_step(const Network& network, const Tensors& params, const OurStep& how);
Step plain_step(const Network& network, const Tensors& params, at::ScalarType dtype);

// Expects loss and every gradient within the bound of tensor/bounds.h, on one thread, on two and by
// compositions; controls:
// one element of each gradient changed by 2^-12 of itself, and two samples that take each other's target.
void expect_equal_steps(const Network& network);

}  // namespace furrow::nn::testing
