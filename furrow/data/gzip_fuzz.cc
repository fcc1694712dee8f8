// Any bytes either decompress or are refused with Error{data_loss}; what decompresses does so again alike, in
// whole and as a stream.
#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/data/gzip.h"

namespace {

// What a stream gives, in odd pieces.
std::vector<uint8_t> streamed(std::span<const std::byte> file) {
  size_t at = 0;
  furrow::data::GunzipStream stream([&](std::span<std::byte> out) {
    const size_t bytes = std::min(out.size(), file.size() - at);
    std::ranges::copy(file.subspan(at, bytes), out.begin());
    at += bytes;
    return bytes;
  });
  std::vector<uint8_t> all, part(1009);
  for (size_t got = part.size(); got == part.size();) {
    got = stream.read(std::as_writable_bytes(std::span(part)));
    all.insert(all.end(), part.begin(), part.begin() + static_cast<long>(got));
  }
  return all;
}

}  // namespace

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
    const std::vector<uint8_t> start = data::gunzip_prefix(file, 36);
    const auto expected = std::span(contents).first(std::min(start.size(), contents.size()));
    if (whole) FURROW_CHECK(std::equal(expected.begin(), expected.end(), start.begin()), "another start");
  } catch (const Error& error) {
    FURROW_CHECK(error.code() == ErrorCode::kDataLoss && !whole, "a start refused, the whole not");
  }
  if (size == 0) return 0;
  try {
    const std::vector<uint8_t> all = streamed(file);
    if (whole) FURROW_CHECK(all == contents, "another stream");
  } catch (const Error& error) {
    FURROW_CHECK(error.code() == ErrorCode::kDataLoss, "an error of another code");
  }
  return 0;
}
