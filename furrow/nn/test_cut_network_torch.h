// The part of a network that a rank of a tensor axis has, and a step of all ranks.  For tests only.
#pragma once

#include <vector>

#include "furrow/nn/test_network_torch.h"

namespace furrow::nn::testing {

// The unit, and the spec of all units, as one rank of `degree` has it.
plan::Unit part_of_unit(const plan::Unit& unit, int degree);
// Rank's elements of a whole parameter, padding zeros; and the whole of the parts of all ranks, whose padding
// is expected to be zero.
at::Tensor part_of_parameter(const at::Tensor& whole, const plan::Parameter& parameter, int degree, int rank);
at::Tensor whole_of_parts(const std::vector<at::Tensor>& parts, const plan::Parameter& parameter);

// The step of all ranks put together; expects what is whole on every rank to have the same bits there.
Step cut_step(const Network& network, const Tensors& params, int degree, const OurStep& how = {});

}  // namespace furrow::nn::testing
