// A source that opens its files when it is first used: a test split stays untouched until its end of the run.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "furrow/data/records.h"
#include "furrow/data/source.h"

namespace furrow::data {

// fields() and classes() are known beforehand; size() and read() open.  A failure to open is thrown by each
// of them.
class LazySource : public Source {
 public:
  using Open = std::function<std::unique_ptr<Source>()>;
  LazySource(std::vector<Field> fields, int64_t classes, Open open)
      : fields_(std::move(fields)), classes_(classes), open_(std::move(open)) {}

  int64_t size() const override { return source().size(); }
  const std::vector<Field>& fields() const override { return fields_; }
  int64_t classes() const override { return classes_; }
  void read(std::span<const int64_t> indices, std::span<const ArrayView> fields) const override {
    source().read(indices, fields);
  }
  void read_at(std::span<const int64_t> indices, std::span<const int64_t> positions,
               std::span<const ArrayView> fields) const override {
    source().read_at(indices, positions, fields);
  }
  std::unique_ptr<Records> records() const override { return source().records(); }

 private:
  const Source& source() const {
    const std::lock_guard lock(mutex_);
    if (source_ == nullptr) source_ = open_();
    return *source_;
  }

  std::vector<Field> fields_;
  int64_t classes_;
  Open open_;
  mutable std::mutex mutex_;
  mutable std::unique_ptr<Source> source_;
};

}  // namespace furrow::data
