// A source: random access to the samples of one data set.  Order, splits, prefetch are on top of it.
// Thread safety: all methods are const and may be called from several threads.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "furrow/base/array.h"

namespace furrow::data {

// One array of a sample, without the batch dim: name "input", f32 [1, 28, 28].
struct Field {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;

  friend bool operator==(const Field&, const Field&) = default;
};

class Records;

class Source {
 public:
  virtual ~Source() = default;
  virtual int64_t size() const = 0;
  // Field 0 is the input, field 1 the target; field 2, where there is one, the position of each token in its
  // document (documents.h).
  virtual const std::vector<Field>& fields() const = 0;
  virtual int64_t classes() const = 0;  // of the target: labels or tokens; 1: a number
  // Batches that are worth reading at once.
  virtual int readers() const { return 1; }
  // Writes samples `indices` (each < size()) into row r of `fields[f]`, whose shape is [indices.size(), field
  // shape...].
  virtual void read(std::span<const int64_t> indices, std::span<const ArrayView> fields) const = 0;
  // The same for training: `positions`, one per row, are those in the global order, which count the random
  // numbers of transforms.  A source without transforms need not know.
  virtual void read_at(std::span<const int64_t> indices, std::span<const int64_t> /*positions*/,
                       std::span<const ArrayView> fields) const {
    read(indices, fields);
  }
  // Field 1 alone; a source that need not read inputs for it says so.
  virtual void read_targets(std::span<const int64_t> indices, const ArrayView& targets) const;
  // What a pack stores of this source (records.h); it must not outlive the source.
  virtual std::unique_ptr<Records> records() const;
};

// Error{internal} unless `views` are what `source`.read() of `indices` asks for and every index is in range.
void check_read(const Source& source, std::span<const int64_t> indices, std::span<const ArrayView> views);

// Bytes of one sample in `field`.
size_t sample_bytes(const Field& field);

}  // namespace furrow::data
