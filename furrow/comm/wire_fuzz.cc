// Any bytes are messages to the store, or frames, or neither; what parses survives its own bytes, and nothing
// that is merely claimed is allocated.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "furrow/base/error.h"
#include "furrow/comm/frame.h"
#include "furrow/comm/store_messages.h"

namespace {

using namespace furrow::comm;

void read_as_store_messages(std::string_view bytes) {
  StoreInbox inbox;
  const size_t half = bytes.size() / 2;  // in two pieces, as the network may cut it
  for (const std::string_view piece : {bytes.substr(0, half), bytes.substr(half)}) {
    inbox.append(piece);
    while (const auto message = inbox.next()) {
      if (!(parse_store_message(std::string_view(to_bytes(*message)).substr(4)) == *message)) std::abort();
    }
  }
}

void read_as_frames(std::span<const std::byte> bytes) {
  while (bytes.size() >= sizeof(FrameHeader)) {
    const FrameHeader header = parse_frame_header(bytes.first<sizeof(FrameHeader)>());
    if (header.offset + header.bytes > header.total) std::abort();
    if (!std::ranges::equal(to_bytes(header), bytes.first(sizeof(FrameHeader)))) std::abort();
    (void)describe(header.envelope);
    bytes = bytes.subspan(std::min(bytes.size(), sizeof(FrameHeader) + size_t{header.bytes}));
  }
}

// The checksum keeps a fuzzer out; behind it the same rules hold.
void read_with_a_right_checksum(std::span<const std::byte> bytes) {
  if (bytes.size() < sizeof(FrameHeader)) return;
  FrameHeader header;
  std::memcpy(&header, bytes.data(), sizeof header);
  header.magic = kFrameMagic;
  const FrameHeaderBytes right = to_bytes(header);
  read_as_frames(right);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  for (const auto& attempt : {+[](std::span<const std::byte> b) {
                                read_as_store_messages({reinterpret_cast<const char*>(b.data()), b.size()});
                              },
                              &read_as_frames, &read_with_a_right_checksum}) {
    try {
      attempt(bytes);
    } catch (const furrow::Error& error) {
      if (error.code() != furrow::ErrorCode::kDataLoss) std::abort();
    }
  }
  return 0;
}
