#include "furrow/base/hash.h"

#ifdef FURROW_XXHASH_DISPATCH
#define XXH_STATIC_LINKING_ONLY  // the state as a value
#include <xxh_x86dispatch.h>     // takes the widest vectors of the processor that it runs on
#else
#define XXH_INLINE_ALL
#include <xxhash.h>
#endif

#include <charconv>

namespace furrow {
namespace {

Hash128 from_xxh(XXH128_hash_t hash) { return {hash.high64, hash.low64}; }

}  // namespace

uint64_t xxh3_64(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }
uint64_t xxh3_64(std::string_view text) { return XXH3_64bits(text.data(), text.size()); }
Hash128 xxh3_128(std::span<const std::byte> bytes) {
  return from_xxh(XXH3_128bits(bytes.data(), bytes.size()));
}
Hash128 xxh3_128(std::string_view text) { return from_xxh(XXH3_128bits(text.data(), text.size())); }

std::string to_hex(uint64_t hash) {
  std::string text(16, '0');
  for (size_t i = 0; i < 16; ++i) text[15 - i] = "0123456789abcdef"[hash >> (4 * i) & 15];
  return text;
}

std::string to_hex(Hash128 hash) { return to_hex(hash.high) + to_hex(hash.low); }

bool parse_hex(std::string_view text, uint64_t& hash) {
  if (text.size() != 16) return false;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), hash, 16);
  return status == std::errc{} && end == text.data() + text.size();
}

struct Xxh3Stream::State {
  XXH3_state_t both;  // the 64-bit and the 128-bit digest share one state
};

Xxh3Stream::Xxh3Stream() : state_(std::make_unique<State>()) { XXH3_128bits_reset(&state_->both); }
Xxh3Stream::~Xxh3Stream() = default;
void Xxh3Stream::update(std::span<const std::byte> bytes) {
  XXH3_128bits_update(&state_->both, bytes.data(), bytes.size());
}
void Xxh3Stream::update(std::string_view text) { update(std::as_bytes(std::span(text))); }
uint64_t Xxh3Stream::digest_64() const { return XXH3_64bits_digest(&state_->both); }
Hash128 Xxh3Stream::digest_128() const { return from_xxh(XXH3_128bits_digest(&state_->both)); }

}  // namespace furrow
