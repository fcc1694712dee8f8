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

// Were all trained parameters to have it.
int64_t elements_before(StateForm form, const UnitLayout& layout, int64_t at) {
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

}  // namespace

DType state_dtype(const StateKind& kind) { return kind.form == StateForm::kCodes ? DType::kU8 : DType::kF32; }

StateForms::StateForms(int elements) {
  if (elements < 0) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} optimizer states per unit: at least 0", elements));
  }
  assign(static_cast<size_t>(elements), StateKind());
}

int64_t state_elements_before(const StateKind& kind, const UnitLayout& layout, int64_t at) {
  if (kind.optimizer.empty()) return elements_before(kind.form, layout, at);
  int64_t elements = 0;
  for (const FlatGroup& group : layout.groups) {
    if (group.rule.optimizer != kind.optimizer || group.begin >= at) continue;
    elements += elements_before(kind.form, layout, std::min(at, group.end)) -
                elements_before(kind.form, layout, group.begin);
  }
  return elements;
}

Slice state_slice(const StateKind& kind, const UnitLayout& layout, const Slice& slice) {
  const int64_t begin = std::min(slice.begin, layout.trained_elements);
  const int64_t end = std::min(slice.end, layout.trained_elements);
  return {state_elements_before(kind, layout, begin), state_elements_before(kind, layout, end)};
}

Shape state_shape(const StateKind& kind, const FlatSpan& span, const Parameter& parameter) {
  if (!kind.optimizer.empty() && parameter.rule.optimizer != kind.optimizer) return {0};
  switch (kind.form) {
    case StateForm::kElements:
    case StateForm::kCodes:
      return parameter.shape;
    case StateForm::kScales:
      return {blocks_of(span.size)};
    case StateForm::kUncut:
      return span.whole ? Shape{0} : parameter.shape;
    case StateForm::kVectors:
      return span.rows > 0 ? Shape{0} : parameter.shape;
    default:
      return {own_elements(kind.form, span)};
  }
}

int64_t state_bytes(const StateForms& forms, const UnitLayout& layout, const Slice& slice) {
  int64_t bytes = 0;
  for (const StateKind& kind : forms)
    bytes += state_slice(kind, layout, slice).size() * static_cast<int64_t>(dtype_size(state_dtype(kind)));
  return bytes;
}

}  // namespace furrow::plan
