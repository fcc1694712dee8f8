// Two classes as one number: what [training] loss = "binary" reads.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "furrow/data/dataset.h"
#include "furrow/data/records.h"
#include "furrow/data/source.h"

namespace furrow::data {

// Reads `labelled` with its target, class 0 or 1, as "target" f32 [1], 0 or 1; the network gives one number.
// What a pack stores of it are the classes.
class BinaryTargets : public Source {
 public:
  // REQUIRES: target i64 [], two classes.
  explicit BinaryTargets(std::unique_ptr<Source> labelled);

  int64_t size() const override { return labelled_->size(); }
  const std::vector<Field>& fields() const override { return fields_; }
  int64_t classes() const override { return 1; }
  int readers() const override { return labelled_->readers(); }
  void read(std::span<const int64_t> indices, std::span<const ArrayView> fields) const override;
  void read_at(std::span<const int64_t> indices, std::span<const int64_t> positions,
               std::span<const ArrayView> fields) const override;
  void read_targets(std::span<const int64_t> indices, const ArrayView& targets) const override;
  std::unique_ptr<Records> records() const override { return labelled_->records(); }

 private:
  std::unique_ptr<Source> labelled_;
  std::vector<Field> fields_;
};

// The fields of such a source over one with `fields` and `classes`.  Error{invalid_argument} when there are
// not two classes: tokens, a number, more or fewer.
std::vector<Field> binary_fields(std::vector<Field> fields, int64_t classes);

// Every split of `dataset` read so; errors as above.
void read_as_binary(Dataset* dataset);

}  // namespace furrow::data
