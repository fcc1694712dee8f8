#include "furrow/comm/frame.h"

#include <fmt/format.h>

#include <bit>
#include <cstddef>
#include <cstring>

#include "furrow/base/error.h"
#include "furrow/base/hash.h"

namespace furrow::comm {
namespace {

static_assert(std::endian::native == std::endian::little, "headers go over the wire as they lie in memory");

constexpr size_t kHashAt = offsetof(FrameHeader, header_hash);

uint64_t hash_header(std::span<const std::byte, sizeof(FrameHeader)> bytes) {
  FrameHeaderBytes copy;
  std::memcpy(copy.data(), bytes.data(), copy.size());
  std::memset(copy.data() + kHashAt, 0, sizeof(uint64_t));
  return xxh3_64(copy);
}

[[noreturn]] void refuse(const char* what) {
  throw Error(ErrorCode::kDataLoss,
              fmt::format("a frame {}: the network or another program damaged it", what));
}

}  // namespace

FrameHeaderBytes to_bytes(FrameHeader header) {
  header.header_hash = 0;
  FrameHeaderBytes bytes;
  std::memcpy(bytes.data(), &header, sizeof header);
  const uint64_t hash = xxh3_64(bytes);
  std::memcpy(bytes.data() + kHashAt, &hash, sizeof hash);
  return bytes;
}

FrameHeader parse_frame_header(std::span<const std::byte, sizeof(FrameHeader)> bytes) {
  FrameHeader header;
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != kFrameMagic) refuse("does not start as one");
  if (header.header_hash != hash_header(bytes)) refuse("has a header whose checksum differs");
  if (header.bytes > kLargestFrame || header.total > kLargestMessage || header.offset > header.total ||
      header.bytes > header.total - header.offset || (header.bytes == 0 && header.total != 0)) {
    refuse("states sizes that do not fit each other");
  }
  return header;
}

uint64_t hash_payload(std::span<const std::byte> payload) { return xxh3_64(payload); }

}  // namespace furrow::comm
