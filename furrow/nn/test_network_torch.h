// One step of a whole network, unit by unit as the executor runs it, beside the same step in plain libtorch
// autograd.  For tests only.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "furrow/plan/model_spec.h"

namespace furrow::nn::testing {

using Tensors = std::map<std::string, at::Tensor>;  // by full parameter name
using Plain = std::function<at::Tensor(const at::Tensor& input, const Tensors& params)>;

struct Network {
  plan::ModelSpec spec;
  Plain plain;  // logits
  at::Tensor input, targets;
  std::vector<int64_t> positions = {};  // of the context; empty: rows are whole
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

// Expects loss and every gradient within the bound of tensor/bounds.h, on one thread and on two; controls:
// one element of each gradient changed by 2^-12 of itself, and two samples that take each other's target.
void expect_equal_steps(const Network& network);

}  // namespace furrow::nn::testing
