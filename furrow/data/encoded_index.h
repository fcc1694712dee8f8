// The index of a pack of image files: where each ends in the bytes of all of them, and its class.  A split of
// its own (kEndsSuffix), a record per file: "end" i64 [], "label" i32 [].
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "furrow/data/source.h"

namespace furrow::data {

inline constexpr size_t kIndexRecordBytes = 12;
std::vector<Field> index_record_fields();
void store_index_record(int64_t end, int32_t label, std::span<std::byte> record);

// What an index may say: `bytes` of all files together, labels below `classes`.
struct IndexLimits {
  int64_t bytes = 0;
  int64_t classes = 0;
};

struct EncodedFile {
  int64_t begin = 0, end = 0;  // begin < end <= bytes, at most 2^30 apart
  int32_t label = 0;
  friend bool operator==(const EncodedFile&, const EncodedFile&) = default;
};

// The file of `record`, which begins where that of the record `before` ends; empty: it is the first.
// Error{data_loss}: neither in order nor in range.
EncodedFile parse_index_record(std::span<const std::byte> before, std::span<const std::byte> record,
                               const IndexLimits& limits);

// Looks at a whole index in pieces, in order, whose memory does not depend on it.
class IndexCheck {
 public:
  explicit IndexCheck(IndexLimits limits) : limits_(limits) {}
  void add(std::span<const std::byte> records);  // Error{data_loss} names the file by its number
  void finish() const;                           // Error{data_loss}: the files do not end with the bytes

 private:
  IndexLimits limits_;
  int64_t files_ = 0;
  std::vector<std::byte> before_;  // the record before
};

}  // namespace furrow::data
