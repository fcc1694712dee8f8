#include <algorithm>

#include "furrow/nn/test_cut_network_torch.h"
#include "furrow/tensor/test_axis_torch.h"
#include "furrow/tensor/test_support_torch.h"

namespace furrow::nn::testing {
namespace {

int64_t part_length(int64_t length, int degree) { return (length + degree - 1) / degree; }

std::vector<int64_t> segments_of(const plan::Parameter& parameter, int64_t length) {
  return parameter.tensor_segments.empty() ? std::vector{length} : parameter.tensor_segments;
}

plan::TensorSpec part_of_border(plan::TensorSpec border, int degree) {
  if (border.tensor_axis < 0) return border;
  int64_t& size = border.shape[static_cast<size_t>(border.tensor_axis)];
  size = part_length(size, degree);
  return border;
}

// The parts of the outputs side by side, without what is behind the last class.
at::Tensor whole_output(const std::vector<Step>& steps, const plan::TensorSpec& border) {
  if (border.tensor_axis < 0) return steps[0].output;
  std::vector<at::Tensor> parts;
  for (const Step& step : steps) parts.push_back(step.output);
  const auto dim = static_cast<size_t>(border.tensor_axis);
  return at::cat(parts, border.tensor_axis).narrow(border.tensor_axis, 0, border.shape[dim]);
}

}  // namespace

plan::Unit part_of_unit(const plan::Unit& unit, int degree) {
  plan::Unit part = unit;
  part.tensor_degree = degree;
  part.input = part_of_border(unit.input, degree);
  part.output = part_of_border(unit.output, degree);
  for (plan::Parameter& parameter : part.parameters) {
    if (parameter.tensor_axis < 0) continue;
    int64_t& size = parameter.shape[static_cast<size_t>(parameter.tensor_axis)];
    int64_t sum = 0;
    parameter.tensor_segments = segments_of(parameter, size);
    for (const int64_t length : parameter.tensor_segments) sum += part_length(length, degree);
    size = sum;
  }
  return part;
}

at::Tensor part_of_parameter(const at::Tensor& whole, const plan::Parameter& parameter, int degree,
                             int rank) {
  const int dim = parameter.tensor_axis;
  if (dim < 0) return whole.clone();
  std::vector<at::Tensor> parts;
  int64_t segment = 0;
  for (const int64_t length : segments_of(parameter, whole.size(dim))) {
    const int64_t part = part_length(length, degree), begin = std::min(length, rank * part),
                  end = std::min(length, begin + part);
    std::vector<int64_t> sizes = whole.sizes().vec();
    sizes[static_cast<size_t>(dim)] = part;
    const at::Tensor padded = at::zeros(sizes, whole.options());
    padded.narrow(dim, 0, end - begin).copy_(whole.narrow(dim, segment + begin, end - begin));
    parts.push_back(padded);
    segment += length;
  }
  return at::cat(parts, dim);
}

at::Tensor whole_of_parts(const std::vector<at::Tensor>& parts, const plan::Parameter& parameter) {
  const int dim = parameter.tensor_axis, degree = static_cast<int>(parts.size());
  if (dim < 0) {
    for (const at::Tensor& part : parts)
      EXPECT_TRUE(tensor::testing::bitwise_equal(part, parts[0])) << parameter.name;
    return parts[0];
  }
  const at::Tensor whole = at::zeros(parameter.shape);
  int64_t segment = 0, own = 0;
  for (const int64_t length : segments_of(parameter, parameter.shape[static_cast<size_t>(dim)])) {
    const int64_t size = part_length(length, degree);
    for (int rank = 0; rank < degree; ++rank) {
      const int64_t begin = std::min(length, rank * size), end = std::min(length, begin + size);
      const at::Tensor part = parts[static_cast<size_t>(rank)].narrow(dim, own, size);
      whole.narrow(dim, segment + begin, end - begin).copy_(part.narrow(dim, 0, end - begin));
      EXPECT_EQ(part.narrow(dim, end - begin, size - end + begin).count_nonzero().item<int64_t>(), 0)
          << "padding of " << parameter.name;
    }
    segment += length;
    own += size;
  }
  return whole;
}

Step cut_step(const Network& network, const Tensors& params, int degree, const OurStep& how) {
  std::vector<Step> steps(static_cast<size_t>(degree));
  tensor::testing::run_ranks(degree, [&](tensor::testing::ThreadAxis& axis) {
    Network part = network;
    Tensors own;
    part.classes = network.spec.units.back().output.shape.back();
    for (plan::Unit& unit : part.spec.units) {
      for (const plan::Parameter& parameter : unit.parameters) {
        if (!parameter.tied())
          own[parameter.name] = part_of_parameter(params.at(parameter.name), parameter, degree, axis.rank());
      }
      unit = part_of_unit(unit, degree);
    }
    OurStep on_axis = how;
    on_axis.axis = &axis;
    steps[static_cast<size_t>(axis.rank())] = our_step(part, own, on_axis);
  });
  Step whole = steps[0];
  whole.output = whole_output(steps, network.spec.units.back().output);
  for (const Step& step : steps) {
    EXPECT_EQ(step.loss, whole.loss);
    EXPECT_EQ(step.rows, whole.rows);
    EXPECT_EQ(step.correct, whole.correct);
    if (whole.input_gradient.defined()) {
      EXPECT_TRUE(tensor::testing::bitwise_equal(step.input_gradient, whole.input_gradient));
    }
  }
  for (const plan::Unit& unit : network.spec.units) {
    for (const plan::Parameter& parameter : unit.parameters) {
      if (parameter.tied()) continue;
      std::vector<at::Tensor> parts;
      for (const Step& step : steps) parts.push_back(step.gradients.at(parameter.name));
      whole.gradients[parameter.name] = whole_of_parts(parts, parameter);
    }
  }
  return whole;
}

}  // namespace furrow::nn::testing
