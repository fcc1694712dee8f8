// A block's parameters by the last part of their name, looked up once at construction.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/plan/model_spec.h"
#include "furrow/tensor/gradient_sink_torch.h"
#include "furrow/tensor/op_context.h"

namespace furrow::nn {

// The logical name of a layer of the unit, for its random numbers: the full name of the parameter that ends
// in `suffix` with `layer` instead of the suffix, so that merging or renaming units changes no mask.
std::string layer_name(const plan::Unit& unit, std::string_view suffix, std::string_view layer);

// A parameter's place in Unit::parameters, or none.
class ParameterSlot {
 public:
  // The parameter named "<anything>.<suffix>" or "<suffix>"; the first when several end so.
  // Error{internal} when there is none.
  static ParameterSlot find(const plan::Unit& unit, std::string_view suffix);
  // The same; operator() gives an absent Param when there is none.
  static ParameterSlot find_optional(const plan::Unit& unit, std::string_view suffix);

  int index() const { return index_; }  // -1: absent
  tensor::Param operator()(std::span<const tensor::Param> params) const {
    return index_ < 0 ? tensor::Param{} : params[static_cast<size_t>(index_)];
  }

 private:
  int index_ = -1;
};

// Weight and bias of one layer of a block, "<name>.weight" and "<name>.bias"; without the bias where the unit
// has none.
struct LayerSlots {
  LayerSlots(const plan::Unit& unit, const std::string& name)
      : weight(ParameterSlot::find(unit, name + ".weight")),
        bias(ParameterSlot::find_optional(unit, name + ".bias")) {}
  ParameterSlot weight, bias;
};

// What a tensor axis leaves whole and whose gradient has parts on its ranks (plan::Parameter::summed):
// write() sums them.
class ReplicatedParameters {
 public:
  explicit ReplicatedParameters(const plan::Unit& unit);
  void sum_gradients(std::span<const tensor::Param> params, tensor::OpContext& context) const;

 private:
  std::vector<size_t> indices_;
};

// Where the statistic whose name ends in `suffix` begins in OpContext's, elements.  Error{internal} when
// there is none.
int64_t statistic_offset(const plan::Unit& unit, std::string_view suffix);

// `whole` of the unit's heads, rows, ... on one rank.  REQUIRES: the degree divides it.
int64_t own_part(const plan::Unit& unit, int64_t whole);

}  // namespace furrow::nn
