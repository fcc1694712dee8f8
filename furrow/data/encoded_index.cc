#include "furrow/data/encoded_index.h"

#include <fmt/format.h>

#include <cstring>

#include "furrow/base/error.h"
#include "furrow/data/image_files.h"

namespace furrow::data {
namespace {

int64_t end_of(std::span<const std::byte> record) {
  int64_t end = 0;
  std::memcpy(&end, record.data(), sizeof(end));
  return end;
}

}  // namespace

std::vector<Field> index_record_fields() { return {{"end", DType::kI64, {}}, {"label", DType::kI32, {}}}; }

void store_index_record(int64_t end, int32_t label, std::span<std::byte> record) {
  FURROW_CHECK(record.size() == kIndexRecordBytes, "no record of an index");
  std::memcpy(record.data(), &end, sizeof(end));
  std::memcpy(record.data() + sizeof(end), &label, sizeof(label));
}

EncodedFile parse_index_record(std::span<const std::byte> before, std::span<const std::byte> record,
                               const IndexLimits& limits) {
  FURROW_CHECK(record.size() == kIndexRecordBytes && (before.empty() || before.size() == kIndexRecordBytes),
               "no record of an index");
  EncodedFile file{before.empty() ? 0 : end_of(before), end_of(record), 0};
  std::memcpy(&file.label, record.data() + sizeof(file.end), sizeof(file.label));
  const bool ascends = file.begin >= 0 && file.begin < file.end && file.end <= limits.bytes;
  if (!ascends || static_cast<uint64_t>(file.end - file.begin) > kMostImageFileBytes) {
    throw Error(ErrorCode::kDataLoss,
                fmt::format("it goes from byte {} to {} of {}", file.begin, file.end, limits.bytes));
  }
  if (file.label < 0 || file.label >= limits.classes)
    throw Error(ErrorCode::kDataLoss, fmt::format("its class is {} of {}", file.label, limits.classes));
  return file;
}

void IndexCheck::add(std::span<const std::byte> records) {
  FURROW_CHECK(records.size() % kIndexRecordBytes == 0, "a part of a record");
  std::span<const std::byte> before = before_;
  for (size_t at = 0; at < records.size(); at += kIndexRecordBytes, ++files_) {
    const auto record = records.subspan(at, kIndexRecordBytes);
    try {
      parse_index_record(before, record, limits_);
    } catch (const Error& error) {
      throw error.with_context(fmt::format("the index is wrong about image {}", files_));
    }
    before = record;
  }
  before_ = std::vector<std::byte>(before.begin(), before.end());
}

void IndexCheck::finish() const {
  const int64_t end = before_.empty() ? 0 : end_of(before_);
  if (end == limits_.bytes) return;
  throw Error(ErrorCode::kDataLoss,
              fmt::format("the index is of {} bytes of images, and there are {}", end, limits_.bytes));
}

}  // namespace furrow::data
