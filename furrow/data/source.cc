#include "furrow/data/source.h"

#include <fmt/format.h>

#include "furrow/base/error.h"
#include "furrow/data/records.h"

namespace furrow::data {

std::unique_ptr<Records> Source::records() const { return std::make_unique<SampleRecords>(*this); }

void Source::read_targets(std::span<const int64_t> indices, const ArrayView& targets) const {
  std::vector<Array> arrays;
  std::vector<ArrayView> views;
  for (const Field& field : fields()) {
    Shape shape = field.shape;
    shape.insert(shape.begin(), static_cast<int64_t>(indices.size()));
    arrays.emplace_back(field.dtype, shape);
    views.push_back(arrays.back().view());
  }
  views[1] = targets;
  read(indices, views);
}

size_t sample_bytes(const Field& field) {
  return static_cast<size_t>(num_elements(field.shape)) * dtype_size(field.dtype);
}

void check_read(const Source& source, std::span<const int64_t> indices, std::span<const ArrayView> views) {
  const std::vector<Field>& fields = source.fields();
  FURROW_CHECK(views.size() == fields.size(),
               fmt::format("{} arrays for {} fields", views.size(), fields.size()));
  for (size_t f = 0; f < fields.size(); ++f) {
    FURROW_CHECK(views[f].dtype == fields[f].dtype, "field " + fields[f].name + " has another dtype");
    FURROW_CHECK(views[f].bytes.size() == indices.size() * sample_bytes(fields[f]),
                 "field " + fields[f].name + " has another size");
  }
  const int64_t size = source.size();
  for (const int64_t index : indices) {
    FURROW_CHECK(index >= 0 && index < size, fmt::format("sample {} of {}", index, size));
  }
}

}  // namespace furrow::data
