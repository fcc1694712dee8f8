// Networks for tests of this module.
#pragma once

#include "furrow/config/model.h"
#include "furrow/models/architectures.h"

namespace furrow::models::testing {

// Two blocks of 2 heads, width 16, over 8 of 13 tokens.
inline plan::ModelSpec gpt() {
  config::Model model;
  model.name = "gpt";
  model.layers = 2;
  model.heads = 2;
  model.width = 16;
  return describe(model, {{DType::kI64, {-1, 8}}, 13});
}

}  // namespace furrow::models::testing
