// Any bytes that begin as a compressed file come out alike in pieces of any size, or are refused with
// Error{data_loss}.
#include <algorithm>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/data/decompress.h"

namespace {

constexpr size_t kMost = size_t{1} << 22;  // of what comes out: few bytes are a lot of zeros

// Up to kMost bytes; false: refused.
bool expand(std::span<const std::byte> file, size_t piece, std::vector<std::byte>& all) {
  using namespace furrow;
  size_t at = 0;
  try {
    const data::ReadNext read = data::decompressed(data::compression_of(file), [&](std::span<std::byte> out) {
      const size_t count = std::min(out.size(), file.size() - at);
      std::ranges::copy(file.subspan(at, count), out.begin());
      at += count;
      return count;
    });
    std::vector<std::byte> out(piece);
    for (size_t got = piece; got == piece && all.size() < kMost;) {
      got = read(out);
      all.insert(all.end(), out.begin(), out.begin() + static_cast<long>(got));
    }
    return true;
  } catch (const Error& error) {
    FURROW_CHECK(error.code() == ErrorCode::kDataLoss, "an error of another code");
    return false;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = std::as_bytes(std::span(data, size));
  std::vector<std::byte> small, large;
  const bool first = expand(file, 1009, small), second = expand(file, 65536, large);
  if (small.size() >= kMost || large.size() >= kMost) return 0;
  FURROW_CHECK(first == second, "refused in pieces of one size alone");
  FURROW_CHECK(!first || small == large, "other bytes");
  return 0;
}
