// Any bytes either decompress or are refused with Error{data_loss}; what decompresses does so again
// alike, as a stream too.
#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/data/gzip.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace furrow;
  const auto file = std::as_bytes(std::span(data, size));
  bool whole = false;
  std::vector<uint8_t> contents;
  try {
    const data::Bytes bytes = data::gunzip(file);
    contents.assign(bytes.as_uint8().begin(), bytes.as_uint8().end());
    whole = true;
  } catch (const Error& error) {
    FURROW_CHECK(error.code() == ErrorCode::kDataLoss, "an error of another code");
  }
  try {
    size_t at = 0;
    data::GzipStream stream([&](std::span<std::byte> out) {
      const size_t count = std::min({out.size(), file.size() - at, size_t{7}});
      std::ranges::copy(file.subspan(at, count), out.begin());
      at += count;
      return count;
    });
    std::vector<uint8_t> some(100), all;
    while (const size_t got = stream.read(std::as_writable_bytes(std::span(some))))
      all.insert(all.end(), some.begin(), some.begin() + static_cast<long>(got));
    if (whole) FURROW_CHECK(all == contents, "a stream of other contents");
  } catch (const Error& error) {
    FURROW_CHECK(error.code() == ErrorCode::kDataLoss && !whole, "a stream refused, the whole not");
  }
  try {
    const std::vector<uint8_t> start = data::gunzip_prefix(file, 36);
    const auto expected = std::span(contents).first(std::min(start.size(), contents.size()));
    if (whole) FURROW_CHECK(std::equal(expected.begin(), expected.end(), start.begin()), "another start");
  } catch (const Error& error) {
    FURROW_CHECK(error.code() == ErrorCode::kDataLoss && !whole, "a start refused, the whole not");
  }
  return 0;
}
