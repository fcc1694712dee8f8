#include "furrow/data/binary_targets.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "furrow/base/error.h"

namespace furrow::data {
namespace {

[[noreturn]] void refuse(const std::string& what) {
  throw Error(ErrorCode::kInvalidArgument, "[training] loss = binary tells two classes apart, but " + what);
}

void to_numbers(std::span<const int64_t> labels, std::span<float> numbers) {
  std::ranges::transform(labels, numbers.begin(), [](int64_t label) { return static_cast<float>(label); });
}

// `read` into views whose target is i64, then into those that were asked for.
template <class Read>
void read_labels(std::span<const ArrayView> fields, const Read& read) {
  Array labels(DType::kI64, {fields[1].shape[0]});
  std::vector<ArrayView> views(fields.begin(), fields.end());
  views[1] = labels.view();
  read(std::span<const ArrayView>(views));
  to_numbers(views[1].as<int64_t>(), fields[1].as<float>());
}

}  // namespace

BinaryTargets::BinaryTargets(std::unique_ptr<Source> labelled)
    : labelled_(std::move(labelled)), fields_(binary_fields(labelled_->fields(), labelled_->classes())) {}

void BinaryTargets::read(std::span<const int64_t> indices, std::span<const ArrayView> fields) const {
  check_read(*this, indices, fields);
  read_labels(fields, [&](std::span<const ArrayView> views) { labelled_->read(indices, views); });
}

void BinaryTargets::read_at(std::span<const int64_t> indices, std::span<const int64_t> positions,
                            std::span<const ArrayView> fields) const {
  check_read(*this, indices, fields);
  read_labels(fields,
              [&](std::span<const ArrayView> views) { labelled_->read_at(indices, positions, views); });
}

void BinaryTargets::read_targets(std::span<const int64_t> indices, const ArrayView& targets) const {
  Array labels(DType::kI64, {static_cast<int64_t>(indices.size())});
  labelled_->read_targets(indices, labels.view());
  to_numbers(labels.view().as<int64_t>(), targets.as<float>());
}

std::vector<Field> binary_fields(std::vector<Field> fields, int64_t classes) {
  if (fields[0].dtype == DType::kI64) refuse("these are tokens of a text: set it to cross_entropy");
  if (fields[1].dtype != DType::kI64) refuse("the target of these data is a number: set it to mse");
  if (fields[1].shape.empty() && classes == 2) {
    fields[1] = {fields[1].name, DType::kF32, {1}};
    return fields;
  }
  refuse(fmt::format("these data have {}: set it to cross_entropy for classes, or to mse for a number",
                     classes == 1 ? "one class" : fmt::format("{} classes", classes)));
}

void read_as_binary(Dataset* dataset) {
  for (std::unique_ptr<Source>* const split : {&dataset->train, &dataset->validation, &dataset->test}) {
    if (*split != nullptr) *split = std::make_unique<BinaryTargets>(std::move(*split));
  }
}

}  // namespace furrow::data
