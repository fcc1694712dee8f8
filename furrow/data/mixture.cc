#include "furrow/data/mixture.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/rng.h"

namespace furrow::data {
namespace {

// Which of the ranges that begin at `begins` holds `index`.
size_t range_of(std::span<const int64_t> begins, int64_t index) {
  return static_cast<size_t>(std::upper_bound(begins.begin(), begins.end(), index) - begins.begin()) - 1;
}

// The rows of a batch that lie side by side and come from one source, read at once.
class RowRuns {
 public:
  RowRuns(std::span<const ArrayView> fields, std::span<const int64_t> positions)
      : positions_(positions), rows_(fields.begin(), fields.end()) {
    for (const ArrayView& field : fields) all_.push_back(field.bytes);
  }

  // The next row is sample `index` of `source`.
  void add(const Source& source, int64_t index) {
    if (&source != source_) flush();
    source_ = &source;
    indices_.push_back(index);
  }

  void flush() {
    if (indices_.empty()) return;
    const size_t count = indices_.size();
    for (size_t f = 0; f < rows_.size(); ++f) {
      const size_t bytes = sample_bytes(source_->fields()[f]);
      rows_[f].shape[0] = static_cast<int64_t>(count);
      rows_[f].bytes = all_[f].subspan(first_ * bytes, count * bytes);
    }
    if (positions_.empty()) {
      source_->read(indices_, rows_);
    } else {
      source_->read_at(indices_, positions_.subspan(first_, count), rows_);
    }
    first_ += count;
    indices_.clear();
  }

 private:
  std::span<const int64_t> positions_;
  std::vector<ArrayView> rows_;
  std::vector<std::span<std::byte>> all_;
  const Source* source_ = nullptr;
  size_t first_ = 0;
  std::vector<int64_t> indices_;
};

}  // namespace

std::vector<int64_t> shares_of(std::span<const double> weights, int64_t samples) {
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<int64_t> shares;
  std::vector<double> remainders;
  for (const double weight : weights) {
    const double exact = static_cast<double>(samples) * (weight / total);
    shares.push_back(static_cast<int64_t>(std::floor(exact)));
    remainders.push_back(exact - std::floor(exact));
  }
  std::vector<size_t> order(weights.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return remainders[a] > remainders[b]; });
  int64_t left = samples - std::accumulate(shares.begin(), shares.end(), int64_t{0});
  for (size_t i = 0; left > 0; i = (i + 1) % order.size(), --left) ++shares[order[i]];
  return shares;
}

MixtureSource::MixtureSource(std::vector<Part> parts, uint64_t seed, bool shuffle)
    : parts_(std::move(parts)), begins_{0} {
  FURROW_CHECK(!parts_.empty(), "a mixture of nothing");
  for (const Part& part : parts_) {
    FURROW_CHECK(part.share > 0, "a set without a share");
    FURROW_CHECK(part.source->fields() == fields() && part.source->classes() == classes(),
                 "sets of different samples");
    orders_.emplace_back(seed ^ stable_hash(part.name), part.source->size(), shuffle);
    begins_.push_back(begins_.back() + part.share);
  }
}

size_t MixtureSource::part_of(int64_t index) const { return range_of(begins_, index); }

void MixtureSource::read(std::span<const int64_t> indices, std::span<const ArrayView> fields) const {
  read_at(indices, {}, fields);
}

void MixtureSource::read_at(std::span<const int64_t> indices, std::span<const int64_t> positions,
                            std::span<const ArrayView> fields) const {
  check_read(*this, indices, fields);
  RowRuns runs(fields, positions);
  for (size_t row = 0; row < indices.size(); ++row) {
    const size_t part = part_of(indices[row]);
    const int64_t epoch = positions.empty() ? 0 : positions[row] / size();
    int64_t own = 0;
    orders_[part].indices(epoch * parts_[part].share + indices[row] - begins_[part], {&own, 1});
    runs.add(*parts_[part].source, own);
  }
  runs.flush();
}

JoinedSource::JoinedSource(std::vector<const Source*> sources) : sources_(std::move(sources)), begins_{0} {
  FURROW_CHECK(!sources_.empty(), "nothing to join");
  for (const Source* source : sources_) begins_.push_back(begins_.back() + source->size());
}

void JoinedSource::read(std::span<const int64_t> indices, std::span<const ArrayView> fields) const {
  check_read(*this, indices, fields);
  RowRuns runs(fields, {});
  for (const int64_t index : indices) {
    const size_t source = range_of(begins_, index);
    runs.add(*sources_[source], index - begins_[source]);
  }
  runs.flush();
}

}  // namespace furrow::data
