#include "furrow/plan/state_form.h"

#include <fmt/format.h>

#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/plan/flat_layout.h"
#include "furrow/plan/slices.h"

namespace furrow::plan {
namespace {

int64_t blocks_of(int64_t elements) { return (elements + kStateBlock - 1) / kStateBlock; }

// What a whole parameter adds to a state of this form, where that is no matter of its place.
int64_t own_elements(StateForm form, const FlatSpan& span) {
  const bool matrix = span.rows > 0;
  switch (form) {
    case StateForm::kRows:
      return span.rows;
    case StateForm::kColumns:
      return matrix ? span.size / span.rows : 0;
    default:
      return matrix ? 0 : span.size;
  }
}

}  // namespace

DType state_dtype(StateForm form) { return form == StateForm::kCodes ? DType::kU8 : DType::kF32; }

StateForms::StateForms(int elements) {
  if (elements < 0) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} optimizer states per unit: at least 0", elements));
  }
  assign(static_cast<size_t>(elements), StateForm::kElements);
}

int64_t state_elements_before(StateForm form, const UnitLayout& layout, int64_t at) {
  switch (form) {
    case StateForm::kElements:
    case StateForm::kCodes:
      return at;
    case StateForm::kScales:
      return blocks_of(at);
    case StateForm::kUncut:
      return std::max<int64_t>(0, at - layout.whole_elements);
    default:
      break;
  }
  int64_t elements = 0;
  for (const FlatSpan& span : layout.spans) {
    if (span.offset < at) elements += own_elements(form, span);
  }
  return elements;
}

Slice state_slice(StateForm form, const UnitLayout& layout, const Slice& slice) {
  const int64_t begin = std::min(slice.begin, layout.trained_elements);
  const int64_t end = std::min(slice.end, layout.trained_elements);
  return {state_elements_before(form, layout, begin), state_elements_before(form, layout, end)};
}

Shape state_shape(StateForm form, const FlatSpan& span, const Shape& parameter) {
  switch (form) {
    case StateForm::kElements:
    case StateForm::kCodes:
      return parameter;
    case StateForm::kScales:
      return {blocks_of(span.size)};
    case StateForm::kUncut:
      return span.whole ? Shape{0} : parameter;
    case StateForm::kVectors:
      return span.rows > 0 ? Shape{0} : parameter;
    default:
      return {own_elements(form, span)};
  }
}

int64_t state_bytes(const StateForms& forms, const UnitLayout& layout, const Slice& slice) {
  int64_t bytes = 0;
  for (const StateForm form : forms)
    bytes += state_slice(form, layout, slice).size() * static_cast<int64_t>(dtype_size(state_dtype(form)));
  return bytes;
}

}  // namespace furrow::plan
