// Where each rank's elements lie in a buffer of all, for engines that take tables of counts and offsets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace furrow::comm {

// Elements, by rank.  REQUIRES, of what makes them: they fit into Count.
template <class Count>
struct SliceTable {
  std::vector<Count> counts, offsets;

  void push_back(int64_t offset, int64_t count) {
    offsets.push_back(static_cast<Count>(offset));
    counts.push_back(static_cast<Count>(count));
  }

  // As an operation gives them: `counts`, or equal ones of `all` where it is empty.
  static SliceTable of(const std::vector<int64_t>& counts, int64_t all, int ranks) {
    SliceTable table;
    int64_t offset = 0;
    for (int r = 0; r < ranks; ++r) {
      const int64_t count = counts.empty() ? all / ranks : counts[static_cast<size_t>(r)];
      table.push_back(offset, count);
      offset += count;
    }
    return table;
  }

  // Of `all` elements that need not divide.
  static SliceTable shares(int64_t all, int ranks) {
    SliceTable table;
    for (int r = 0; r < ranks; ++r) {
      const int64_t begin = all * r / ranks;
      table.push_back(begin, all * (r + 1) / ranks - begin);
    }
    return table;
  }
};

}  // namespace furrow::comm
