// Any bytes either decompress or are refused with Error{data_loss}; what decompresses does so again alike, in
// whole and as a stream.  Checksums keep a fuzzer out: the same holds with right ones.
#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/data/gzip.h"

namespace {

using namespace furrow;

// What a stream gives, in odd pieces.
std::vector<uint8_t> streamed(std::span<const std::byte> file) {
  size_t at = 0;
  data::GunzipStream stream([&](std::span<std::byte> out) {
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

void check(std::span<const std::byte> file) {
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
  if (file.empty()) return;
  try {
    const std::vector<uint8_t> all = streamed(file);
    if (whole) FURROW_CHECK(all == contents, "another stream");
  } catch (const Error& error) {
    FURROW_CHECK(error.code() == ErrorCode::kDataLoss, "an error of another code");
  }
}

// One member of a plain header, ten bytes, then `deflated`, whatever it is: cut behind its last block, with
// the checksum and the length of what it holds.  Empty: it ends within, or holds a lot.
std::vector<std::byte> member_of(std::span<const std::byte> deflated) {
  z_stream stream{};
  if (inflateInit2(&stream, -MAX_WBITS) != Z_OK) return {};
  std::vector<Bytef> held(size_t{1} << 18);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(deflated.data()));
  stream.avail_in = static_cast<uInt>(deflated.size());
  stream.next_out = held.data();
  stream.avail_out = static_cast<uInt>(held.size());
  const bool ended = inflate(&stream, Z_FINISH) == Z_STREAM_END;
  const auto length = static_cast<uint32_t>(stream.total_out);
  const auto checksum = static_cast<uint32_t>(crc32(0, held.data(), length));
  const size_t taken = stream.total_in;
  inflateEnd(&stream);
  if (!ended) return {};
  constexpr uint8_t kHeader[10] = {0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 3};
  std::vector<std::byte> file(sizeof kHeader + taken + 8);
  std::memcpy(file.data(), kHeader, sizeof kHeader);
  std::memcpy(file.data() + sizeof kHeader, deflated.data(), taken);
  std::memcpy(file.data() + sizeof kHeader + taken, &checksum, sizeof checksum);
  std::memcpy(file.data() + sizeof kHeader + taken + 4, &length, sizeof length);
  return file;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = std::as_bytes(std::span(data, size));
  check(file);
  if (size <= 10) return 0;
  std::vector<std::byte> member = member_of(file.subspan(10));
  if (member.empty()) return 0;
  check(member);
  member.insert(member.end(), file.begin(), file.end());  // and another, or something else
  check(member);
  return 0;
}
