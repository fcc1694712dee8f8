// The unit on a data connection of the tcp transport: a header of 120 bytes, then up to kLargestFrame bytes
// of a message. docs/formats/comm-wire.md describes it.  Values; functions are pure and thread safe.
//
// Checksums are XXH3 with 64 bits: three times as fast as CRC-32C where a core has to keep up with memory
// (comm_bench).  They guard against accidents; the handshake (comm/handshake.h) against strangers.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "furrow/comm/transport.h"

namespace furrow::comm {

inline constexpr uint32_t kFrameMagic = 0x31775246;  // "FRw1"
inline constexpr uint32_t kLargestFrame = 1 << 20;
inline constexpr uint64_t kLargestMessage = uint64_t{1} << 46;

struct FrameHeader {
  uint32_t magic = kFrameMagic;
  uint32_t bytes = 0;         // of this frame's payload
  uint64_t message = 0;       // number in its pair, direction and channel
  uint64_t total = 0;         // bytes of the whole message
  uint64_t offset = 0;        // of this frame's payload in it
  int64_t departed_ns = 0;    // with an emulated link (comm/link.h): unix time; else 0
  uint64_t payload_hash = 0;  // XXH3 of the payload
  uint64_t header_hash = 0;   // XXH3 of the whole header, with 0 in this place
  Envelope envelope;
};
static_assert(sizeof(FrameHeader) == 120);
using FrameHeaderBytes = std::array<std::byte, sizeof(FrameHeader)>;

FrameHeaderBytes to_bytes(FrameHeader header);                                          // sets header_hash
FrameHeader parse_frame_header(std::span<const std::byte, sizeof(FrameHeader)> bytes);  // Error{data_loss}
uint64_t hash_payload(std::span<const std::byte> payload);

}  // namespace furrow::comm
