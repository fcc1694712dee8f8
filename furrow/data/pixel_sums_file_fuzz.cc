// Files of sums: whatever the bytes are, what is taken of them are whole records at their front, the same of
// that front alone.
#include "furrow/base/error.h"
#include "furrow/data/pixel_sums_file.h"

// The fingerprint is what the file says itself.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace furrow;
  constexpr size_t kStretches = 8, kChannels = 3, kRecord = 8 * (1 + 3 * kChannels + 1);
  uint64_t fingerprint = 0;
  if (size >= 16) __builtin_memcpy(&fingerprint, data + 8, sizeof fingerprint);
  const auto file = std::as_bytes(std::span(data, size));
  size_t whole = 0, again = 0;
  const auto found = data::parse_pixel_sums(file, fingerprint, kStretches, kChannels, &whole);
  FURROW_CHECK(whole <= size, "more than there is");
  FURROW_CHECK(whole == 0 ? found.empty() : (whole - 16) % kRecord == 0, "part of a record");
  FURROW_CHECK(found.size() <= whole / kRecord, "sums of no record");
  for (const auto& [stretch, sums] : found)
    FURROW_CHECK(stretch < kStretches && sums.size() == kChannels, "another stretch");
  const auto front = data::parse_pixel_sums(file.first(whole), fingerprint, kStretches, kChannels, &again);
  FURROW_CHECK(again == whole && front.size() == found.size(), "what is behind the records counts");
  return 0;
}
