// Parameters as readers of other programs' models hand them over.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "furrow/base/array.h"
#include "furrow/config/model.h"

namespace furrow::models {

// A model may be larger than memory: parameters are read one by one, when they are asked for.
struct NamedParameter {
  std::string name;  // as the spec of the architecture has it
  Shape shape;
  std::function<Array()> read;  // float32
};

// A model that was trained elsewhere, under the names of this library.
struct ForeignModel {
  config::Model model;     // [model]: the architecture and its sizes
  int64_t vocabulary = 0;  // classes of the output
  int64_t context = 0;     // the most tokens of one sample
  std::vector<NamedParameter> parameters;
  DType stored = DType::kF32;  // what all of them were of before
};

}  // namespace furrow::models
