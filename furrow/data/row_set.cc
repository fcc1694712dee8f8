#include "furrow/data/row_set.h"

#include <algorithm>
#include <bit>

#include "furrow/base/error.h"

namespace furrow::data {

RowSet RowSet::all(int64_t bound) {
  RowSet set;
  set.all_ = true;
  set.bound_ = set.size_ = bound;
  return set;
}

RowSet::RowSet(int64_t bound) : bound_(bound), words_(static_cast<size_t>(bound + 63) / 64) {}

void RowSet::add(int64_t row) { words_[static_cast<size_t>(row) / 64] |= uint64_t{1} << row % 64; }

void RowSet::seal() {
  size_ = 0;
  counts_.clear();
  for (size_t word = 0; word < words_.size(); ++word) {
    if (word % kStride == 0) counts_.push_back(size_);
    size_ += std::popcount(words_[word]);
  }
}

bool RowSet::contains(int64_t row) const {
  return all_ || (words_[static_cast<size_t>(row) / 64] >> row % 64 & 1) != 0;
}

std::vector<uint32_t> RowSet::of_block(int64_t first, size_t rows) const {
  std::vector<uint32_t> in;
  if (size_ == 0) return in;
  in.reserve(rows);
  for (size_t row = 0; row < rows; ++row) {
    if (contains(first + static_cast<int64_t>(row))) in.push_back(static_cast<uint32_t>(row));
  }
  return in;
}

int64_t RowSet::before(int64_t row) const {
  if (all_) return row;
  if (row >= bound_) return size_;
  const size_t word = static_cast<size_t>(row) / 64;
  int64_t count = counts_[word / kStride];
  for (size_t i = word / kStride * kStride; i < word; ++i) count += std::popcount(words_[i]);
  return count + std::popcount(words_[word] & ((uint64_t{1} << row % 64) - 1));
}

int64_t RowSet::row(int64_t index) const {
  FURROW_CHECK(index >= 0 && index < size_, "a row outside of its set");
  if (all_) return index;
  const auto stride = std::upper_bound(counts_.begin(), counts_.end(), index) - counts_.begin() - 1;
  int64_t left = index - counts_[static_cast<size_t>(stride)];
  for (auto word = static_cast<size_t>(stride * kStride);; ++word) {
    const int64_t here = std::popcount(words_[word]);
    if (left < here) {
      uint64_t bits = words_[word];
      for (; left > 0; --left) bits &= bits - 1;
      return static_cast<int64_t>(word) * 64 + std::countr_zero(bits);
    }
    left -= here;
  }
}

CarvedRows carve_rows(int64_t rows, int64_t validation, int64_t test, uint64_t seed) {
  FURROW_CHECK(validation >= 0 && test >= 0 && validation + test < rows, "a carving out of range");
  if (validation + test == 0) return {RowSet::all(rows), {}, {}};
  CarvedRows carved{RowSet(rows), RowSet(rows), RowSet(rows)};
  RowSet kept(rows);
  for_each_chosen(rows, validation + test, seed, [&](int64_t row) { kept.add(row); });
  // Of what is kept, some in the same way.
  RowSet parts(validation + test);
  if (validation > 0 && test > 0)
    for_each_chosen(validation + test, validation, ~seed, [&](int64_t at) { parts.add(at); });
  kept.seal();
  for (int64_t row = 0, at = 0; row < rows; ++row) {
    if (!kept.contains(row)) {
      carved.train.add(row);
    } else {
      const bool to_validation = test == 0 || (validation > 0 && parts.contains(at));
      (to_validation ? carved.validation : carved.test).add(row);
      ++at;
    }
  }
  carved.train.seal();
  carved.validation.seal();
  carved.test.seal();
  return carved;
}

}  // namespace furrow::data
