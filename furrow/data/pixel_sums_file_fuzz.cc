// Files of sums: whatever the bytes are, what is taken of them are whole records at their front, the same of
// that front alone.  Checksums keep a fuzzer out: the same holds with right ones, and of those all is taken
// until a stretch that there is not.
#include <cstring>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/hash.h"
#include "furrow/data/pixel_sums_file.h"

namespace {

using namespace furrow;

constexpr size_t kStretches = 8, kChannels = 3, kHead = 16, kRecord = 8 * (1 + 3 * kChannels + 1);

uint64_t word(std::span<const std::byte> file, size_t at) {
  uint64_t value = 0;
  std::memcpy(&value, file.data() + at, sizeof value);
  return value;
}

// The fingerprint is what the file says itself.
uint64_t fingerprint_of(std::span<const std::byte> file) { return file.size() < kHead ? 0 : word(file, 8); }

// Bytes of whole records.
size_t check(std::span<const std::byte> file) {
  const uint64_t fingerprint = fingerprint_of(file);
  size_t whole = 0, again = 0;
  const auto found = data::parse_pixel_sums(file, fingerprint, kStretches, kChannels, &whole);
  FURROW_CHECK(whole <= file.size(), "more than there is");
  FURROW_CHECK(whole == 0 ? found.empty() : (whole - kHead) % kRecord == 0, "part of a record");
  FURROW_CHECK(found.size() <= whole / kRecord, "sums of no record");
  for (const auto& [stretch, sums] : found)
    FURROW_CHECK(stretch < kStretches && sums.size() == kChannels, "another stretch");
  const auto front = data::parse_pixel_sums(file.first(whole), fingerprint, kStretches, kChannels, &again);
  FURROW_CHECK(again == whole && front.size() == found.size(), "what is behind the records counts");
  return whole;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = std::as_bytes(std::span(data, size));
  check(file);
  if (size < kHead) return 0;
  std::vector<std::byte> right(file.begin(), file.end());
  std::memcpy(right.data(), "FURROWS1", 8);
  size_t end = kHead;
  bool there = true;
  for (size_t at = kHead; size - at >= kRecord; at += kRecord) {
    Xxh3Stream stream;
    stream.update(std::span(right).subspan(8, 8));  // the fingerprint
    stream.update(std::span(right).subspan(at, kRecord - 8));
    const uint64_t checksum = stream.digest_64();
    std::memcpy(right.data() + at + kRecord - 8, &checksum, sizeof checksum);
    there = there && word(right, at) < kStretches;
    if (there) end = at + kRecord;
  }
  FURROW_CHECK(check(right) == end, "records that are not taken");
  return 0;
}
