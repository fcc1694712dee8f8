// The forms of optimizer state: how much of a state belongs to which parameter.
//
// A state of a unit is one flat buffer on a rank.  It covers the trained elements of the rank's slice of the
// unit's flat buffer, and lies in their order, so that a slice of the one is a slice of the other.  A form
// that sums over a whole parameter asks for parameters that no slice cuts (Parameter::whole).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "furrow/base/array.h"

namespace furrow::plan {

enum class StateForm : uint8_t {
  kElements,  // a float32 for each element
  kCodes,     // a byte for each element: an index into a table of values, times its block's scale
  kScales,    // a float32 for each block of kStateBlock elements
  kRows,      // matrices: a float32 for each row
  kColumns,   // matrices: a float32 for each column
  kVectors,   // a float32 for each element of what is no matrix
  kUncut,     // a float32 for each element of parameters that slices may cut
};
inline constexpr std::array<std::string_view, 7> kStateFormNames = {"elements", "codes",   "scales", "rows",
                                                                    "columns",  "vectors", "uncut"};

inline constexpr int64_t kStateBlock = 256;  // elements; divides the grid (kGrid)

// A state's form, and whose parameters have it.
struct StateKind {
  StateForm form = StateForm::kElements;
  std::string optimizer = {};  // of parameters with this ParameterRule::optimizer; "": all that are trained

  StateKind() = default;
  StateKind(StateForm form_in, std::string optimizer_in = {})  // NOLINT(google-explicit-constructor)
      : form(form_in), optimizer(std::move(optimizer_in)) {}
  friend bool operator==(const StateKind&, const StateKind&) = default;
};

DType state_dtype(const StateKind& kind);

// The states of a run's optimizers, in their order.  A number stands for as many of kElements.
struct StateForms : std::vector<StateKind> {
  StateForms() = default;
  StateForms(int elements);  // NOLINT(google-explicit-constructor); Error{invalid_argument}: below 0
  using std::vector<StateKind>::vector;
};

// A state of a run, by the name that checkpoints use: "exp_avg".
struct StateSpec {
  std::string name;
  StateKind form = {};
  friend bool operator==(const StateSpec&, const StateSpec&) = default;
};

struct UnitLayout;
struct FlatSpan;
struct Parameter;
struct Slice;

// Elements of a unit's state for the elements of its flat buffer before `at`.
// REQUIRES: `at` lies on the grid, or where a parameter begins; inside no whole parameter for forms that sum.
int64_t state_elements_before(const StateKind& kind, const UnitLayout& layout, int64_t at);

// The slice of the state that belongs to a slice of the flat buffer; what is not trained has no state.
Slice state_slice(const StateKind& kind, const UnitLayout& layout, const Slice& slice);

// The logical tensor of a parameter's part of a state, as checkpoints hold it.  No elements: it has no part.
Shape state_shape(const StateKind& kind, const FlatSpan& span, const Parameter& parameter);

int64_t state_bytes(const StateForms& forms, const UnitLayout& layout, const Slice& slice);

}  // namespace furrow::plan
