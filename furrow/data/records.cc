#include "furrow/data/records.h"

#include <fmt/format.h>

#include <cstring>
#include <numeric>

#include "furrow/base/error.h"

namespace furrow::data {

size_t Records::record_bytes() const {
  size_t bytes = 0;
  for (const Field& field : fields()) bytes += sample_bytes(field);
  return bytes;
}

std::vector<Field> document_end_fields() { return {{"end", DType::kI64, {}}}; }

std::string part_suffix(size_t i) { return fmt::format(".{}", i); }

void SampleRecords::read(int64_t first, std::span<std::byte> out) const {
  const size_t bytes = record_bytes(), rows = out.size() / bytes;
  FURROW_CHECK(rows * bytes == out.size(), "a part of a record");
  std::vector<int64_t> indices(rows);
  std::iota(indices.begin(), indices.end(), first);
  std::vector<Array> arrays;
  std::vector<ArrayView> views;
  for (const Field& field : fields()) {
    Shape shape{static_cast<int64_t>(rows)};
    shape.insert(shape.end(), field.shape.begin(), field.shape.end());
    arrays.emplace_back(field.dtype, shape, MemoryKind::kData);
    views.push_back(arrays.back().view());
  }
  source_.read(indices, views);
  size_t at = 0;
  for (size_t f = 0; f < views.size(); ++f) {
    const size_t part = sample_bytes(fields()[f]);
    for (size_t row = 0; row < rows; ++row) {
      std::memcpy(out.data() + row * bytes + at, views[f].bytes.data() + row * part, part);
    }
    at += part;
  }
}

}  // namespace furrow::data
