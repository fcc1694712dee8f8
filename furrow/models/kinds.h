// Unit kinds as data: what each needs and costs.  nn/ has exactly one block for every row (a test holds them together).
#pragma once

#include <span>
#include <string_view>

#include "furrow/plan/model_spec.h"

namespace furrow::models {

struct Kind {
  std::string_view name;                                  // "linear"
  // Fills parameters, output, flops and saved_bytes from name, attributes and input.  Error{invalid_argument}.
  void (*describe)(plan::Unit& unit);
};

std::span<const Kind> kinds();
const Kind& find_kind(std::string_view name);  // Error{invalid_argument}, lists the known ones

// A described unit.  `prefix` starts the names of its parameters ("blocks.0" -> "blocks.0.ln_1.weight").
plan::Unit make_unit(std::string name, std::string_view kind, plan::Attributes attributes, plan::TensorSpec input);

// The same for a kind that is not in the table: a program's own.
plan::Unit make_unit(std::string name, const Kind& kind, plan::Attributes attributes, plan::TensorSpec input);

}  // namespace furrow::models
