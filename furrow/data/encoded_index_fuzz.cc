// Indexes of image files: refused with Error{data_loss}, or every file lies behind the one before it and
// inside of the bytes; the same verdict whatever pieces the index comes in.
#include <algorithm>
#include <cstring>
#include <optional>

#include "furrow/base/error.h"
#include "furrow/data/encoded_index.h"
#include "furrow/data/image_files.h"

namespace {

using namespace furrow;

std::optional<std::string> verdict(std::span<const std::byte> records, const data::IndexLimits& limits,
                                   size_t at_once) {
  try {
    data::IndexCheck check(limits);
    for (size_t at = 0; at < records.size(); at += at_once * data::kIndexRecordBytes)
      check.add(records.subspan(at, std::min(at_once * data::kIndexRecordBytes, records.size() - at)));
    check.finish();
  } catch (const Error& error) {
    FURROW_CHECK(error.code() == ErrorCode::kDataLoss, "an error of another code");
    return error.what();
  }
  return std::nullopt;
}

}  // namespace

// The first 8 bytes are how many there are of all files, the rest is records.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  data::IndexLimits limits{0, 10};
  if (size < sizeof(limits.bytes)) return 0;
  std::memcpy(&limits.bytes, data, sizeof(limits.bytes));
  auto records = std::as_bytes(std::span(data, size)).subspan(sizeof(limits.bytes));
  records = records.first(records.size() / data::kIndexRecordBytes * data::kIndexRecordBytes);
  const auto whole = verdict(records, limits, records.size() + 1);
  FURROW_CHECK(whole == verdict(records, limits, 1) && whole == verdict(records, limits, 3),
               "a verdict that depends on pieces");
  if (whole) return 0;
  std::span<const std::byte> before;
  int64_t end = 0;
  for (size_t at = 0; at < records.size(); at += data::kIndexRecordBytes) {
    const auto record = records.subspan(at, data::kIndexRecordBytes);
    const data::EncodedFile file = data::parse_index_record(before, record, limits);
    const bool right = file.begin == end && file.end > end && file.label >= 0 && file.label < limits.classes;
    FURROW_CHECK(right && static_cast<uint64_t>(file.end - end) <= data::kMostImageFileBytes,
                 "a file elsewhere");
    end = file.end;
    before = record;
  }
  FURROW_CHECK(end == limits.bytes, "bytes that belong to no file");
  return 0;
}
