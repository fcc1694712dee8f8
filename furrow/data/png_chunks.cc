#include "furrow/data/png_chunks.h"

#include <fmt/format.h>
#include <libdeflate.h>

#include <string>
#include <string_view>

#include "furrow/base/error.h"

namespace furrow::data {
namespace {

constexpr size_t kSignature = 8, kFrame = 12;  // a length, a name of four letters and a checksum

[[noreturn]] void damaged(const std::string& why) {
  throw Error(ErrorCode::kDataLoss, fmt::format("the image is damaged: {}", why));
}

uint32_t big_endian(const uint8_t* at) {
  return uint32_t{at[0]} << 24 | uint32_t{at[1]} << 16 | uint32_t{at[2]} << 8 | uint32_t{at[3]};
}

// Of any bytes, for a message.
std::string letters(std::string_view name) {
  std::string shown;
  for (const char c : name) shown += c >= ' ' && c <= '~' ? c : '?';
  return shown;
}

bool is_kept(std::string_view name) { return (name[0] & 0x20) == 0 || name == "tRNS"; }

}  // namespace

std::vector<uint8_t> without_metadata(std::span<const uint8_t> png) {
  FURROW_CHECK(png.size() >= kSignature, "no signature");
  std::vector<uint8_t> kept(png.begin(), png.begin() + kSignature);
  kept.reserve(png.size());
  for (std::span<const uint8_t> rest = png.subspan(kSignature);;) {
    if (rest.size() < kFrame) damaged("it ends before its IEND");
    const size_t length = big_endian(rest.data());
    const std::string_view name(reinterpret_cast<const char*>(rest.data()) + 4, 4);
    if (length > rest.size() - kFrame) damaged(fmt::format("it ends within its chunk {}", letters(name)));
    const auto chunk = rest.first(length + kFrame);
    if (libdeflate_crc32(0, chunk.data() + 4, length + 4) != big_endian(chunk.data() + 8 + length))
      damaged(fmt::format("its chunk {} differs from its checksum", letters(name)));
    if (is_kept(name)) kept.insert(kept.end(), chunk.begin(), chunk.end());
    if (name == "IEND") return kept;
    rest = rest.subspan(chunk.size());
  }
}

}  // namespace furrow::data
