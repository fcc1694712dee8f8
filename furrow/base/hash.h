// XXH3 checksums (xxHash 0.8): of files and pieces, against accidents, not against an adversary.
// Functions are pure and thread safe.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace furrow {

struct Hash128 {
  uint64_t high = 0;
  uint64_t low = 0;
  friend auto operator<=>(const Hash128&, const Hash128&) = default;
};

uint64_t xxh3_64(std::span<const std::byte> bytes);
uint64_t xxh3_64(std::string_view text);
Hash128 xxh3_128(std::span<const std::byte> bytes);
Hash128 xxh3_128(std::string_view text);

std::string to_hex(uint64_t hash);                      // 16 digits, lower case
std::string to_hex(Hash128 hash);                       // 32 digits, high half first
bool parse_hex(std::string_view text, uint64_t& hash);  // false unless exactly 16 hexadecimal digits

// The same in pieces.
class Xxh3Stream {
 public:
  Xxh3Stream();
  ~Xxh3Stream();
  Xxh3Stream(const Xxh3Stream&) = delete;
  Xxh3Stream& operator=(const Xxh3Stream&) = delete;
  void update(std::span<const std::byte> bytes);
  void update(std::string_view text);
  uint64_t digest_64() const;
  Hash128 digest_128() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace furrow
