#include "furrow/data/decompress.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <string_view>
#include <utility>

#include "furrow/data/gzip.h"
#include "furrow/data/table_file.h"

namespace furrow::data {
namespace {

bool begins_with(std::span<const std::byte> start, std::string_view magic) {
  return start.size() >= magic.size() && std::memcmp(start.data(), magic.data(), magic.size()) == 0;
}

}  // namespace

Compression compression_of(std::span<const std::byte> start) {
  if (is_gzip(start)) return Compression::kGzip;
  if (begins_with(start, "\x28\xb5\x2f\xfd")) return Compression::kZstd;
  // "BZh", the size of its blocks, and the digits of pi that begin one: text may begin with the first three.
  const bool bzip2 = begins_with(start, "BZh") && start.size() >= kMagicBytes &&
                     begins_with(start.subspan(4), "\x31\x41\x59\x26\x53\x59");
  return bzip2 ? Compression::kBzip2 : Compression::kNone;
}

ReadNext decompressed(Compression compression, ReadNext file) {
  if (compression == Compression::kNone) return file;
  if (compression == Compression::kGzip) {
    const auto stream = std::make_shared<GunzipStream>(std::move(file));
    return [stream](std::span<std::byte> out) { return stream->read(out); };
  }
  return open_expander(compression == Compression::kZstd ? "zstd" : "bz2", std::move(file));
}

}  // namespace furrow::data
