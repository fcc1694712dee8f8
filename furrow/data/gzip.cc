#include "furrow/data/gzip.h"

#include <fmt/format.h>
#include <libdeflate.h>
#include <zlib.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>

#include "furrow/base/error.h"

namespace furrow::data {
namespace {

constexpr size_t kSmallestMember = 18;  // header 10, trailer 8
constexpr size_t kLargestRatio = 1032;  // of deflate: 258 bytes from 2 bits
constexpr size_t kLeastGrowth = size_t{2} << 20;

struct FreeDecompressor {
  void operator()(libdeflate_decompressor* each) const { libdeflate_free_decompressor(each); }
};
using Decompressor = std::unique_ptr<libdeflate_decompressor, FreeDecompressor>;

// Length of the last member as its trailer states it (modulo 2^32): exact for the usual file of one member.
size_t stated_size(std::span<const std::byte> file) {
  uint32_t size = 0;
  for (size_t i = 0; i < 4; ++i) size |= std::to_integer<uint32_t>(file[file.size() - 4 + i]) << (8 * i);
  return size;
}

[[noreturn]] void damaged(const char* what, size_t offset) {
  throw Error(ErrorCode::kDataLoss,
              fmt::format("{} (gzip member at byte {}): the file is damaged, fetch it again", what, offset));
}

// RFC 1952, 2.3: a header may carry the low half of its own CRC-32, which libdeflate skips.  REQUIRES: a
// member that libdeflate has accepted, so that its header is whole.
bool header_checksum_differs(std::span<const std::byte> member) {
  constexpr unsigned kHeaderCrc = 2, kExtra = 4, kName = 8, kComment = 16;
  const auto byte = [&](size_t i) { return std::to_integer<unsigned>(member[i]); };
  const unsigned flags = byte(3);
  if ((flags & kHeaderCrc) == 0) return false;
  size_t end = 10;
  if ((flags & kExtra) != 0) end += 2 + byte(end) + 256 * byte(end + 1);
  for (const unsigned text : {kName, kComment}) {
    if ((flags & text) == 0) continue;
    while (member[end] != std::byte{0}) ++end;
    ++end;
  }
  return (libdeflate_crc32(0, member.data(), end) & 0xFFFF) != byte(end) + 256 * byte(end + 1);
}

// Doubles the buffer, within what `limit` allows; false when it is there already.
bool grow(CountedBuffer& buffer, size_t used, size_t limit) {
  if (buffer.size() >= limit) return false;
  CountedBuffer larger(std::min(limit, std::max(buffer.size() * 2, kLeastGrowth)), MemoryKind::kData);
  std::memcpy(larger.data(), buffer.data(), used);
  buffer = std::move(larger);
  return true;
}

}  // namespace

bool is_gzip(std::span<const std::byte> file) {
  return file.size() >= 2 && file[0] == std::byte{0x1F} && file[1] == std::byte{0x8B};
}

Bytes gunzip(std::span<const std::byte> file) {
  if (file.size() < kSmallestMember) damaged("truncated gzip data", 0);
  const size_t limit = file.size() * kLargestRatio;
  // One byte more than stated: an empty result still has somewhere to go.
  CountedBuffer buffer(std::min(limit, stated_size(file) + 1), MemoryKind::kData);
  const Decompressor decompressor(libdeflate_alloc_decompressor());
  if (decompressor == nullptr) throw Error(ErrorCode::kResourceExhausted, "no memory for a decompressor");

  size_t read = 0, written = 0;
  while (read < file.size()) {
    if (!is_gzip(file.subspan(read))) damaged("bytes behind the end of gzip data", read);
    size_t member_read = 0, member_written = 0;
    const libdeflate_result result = libdeflate_gzip_decompress_ex(
        decompressor.get(), file.data() + read, file.size() - read, buffer.data() + written,
        buffer.size() - written, &member_read, &member_written);
    if (result == LIBDEFLATE_INSUFFICIENT_SPACE && grow(buffer, written, limit)) continue;
    if (result != LIBDEFLATE_SUCCESS) damaged("truncated gzip data, or its checksum differs", read);
    if (header_checksum_differs(file.subspan(read, member_read))) damaged("damaged gzip header", read);
    read += member_read;
    written += member_written;
  }
  const std::span<const std::byte> contents(buffer.data(), written);
  return {std::move(buffer), contents};
}

namespace {

void begin_gzip(z_stream* stream) {
  constexpr int kGzipWrapper = 16;
  if (inflateInit2(stream, MAX_WBITS + kGzipWrapper) != Z_OK)
    throw Error(ErrorCode::kResourceExhausted, "no memory for a decompressor");
}

}  // namespace

std::vector<uint8_t> gunzip_prefix(std::span<const std::byte> start, size_t length) {
  std::vector<uint8_t> out(length);
  z_stream stream{};
  begin_gzip(&stream);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(start.data()));
  stream.avail_in = static_cast<uInt>(start.size());
  stream.next_out = out.data();
  stream.avail_out = static_cast<uInt>(length);
  const int result = inflate(&stream, Z_SYNC_FLUSH);
  out.resize(length - stream.avail_out);
  inflateEnd(&stream);
  // Z_BUF_ERROR: the output is full, or the input ends.
  if (result != Z_OK && result != Z_STREAM_END && result != Z_BUF_ERROR) damaged("damaged gzip data", 0);
  return out;
}

struct GunzipStream::State {
  ReadFile read_file;
  std::vector<std::byte> memory = std::vector<std::byte>(size_t{1} << 17);
  z_stream stream{};
  bool ended = false;      // nothing of the file is left but what is in `stream`
  bool in_member = false;  // else the next byte begins one, or the file is over
  size_t taken = 0;        // bytes of the file that came
  size_t member = 0;       // where the member begins

  ~State() { inflateEnd(&stream); }

  // False: the file is over.
  bool refill() {
    if (stream.avail_in > 0) return true;
    if (ended) return false;
    const size_t got = read_file(memory);
    ended = got < memory.size();
    taken += got;
    stream.next_in = reinterpret_cast<Bytef*>(memory.data());
    stream.avail_in = static_cast<uInt>(got);
    return got > 0;
  }

  // False: there is none.
  bool begin_member() {
    if (!refill()) return false;
    member = taken - stream.avail_in;
    if (*stream.next_in != 0x1F) damaged("bytes behind the end of gzip data", member);
    inflateReset(&stream);
    in_member = true;
    return true;
  }
};

GunzipStream::GunzipStream(ReadFile read_file) : state_(std::make_unique<State>()) {
  state_->read_file = std::move(read_file);
  begin_gzip(&state_->stream);
}

GunzipStream::~GunzipStream() = default;

size_t GunzipStream::read(std::span<std::byte> out) {
  constexpr size_t kMostAtOnce = size_t{1} << 30;  // counts of zlib have 32 bits
  State& state = *state_;
  size_t done = 0;
  while (done < out.size()) {
    if (!state.in_member && !state.begin_member()) break;
    state.refill();  // without more, what is left inside may still come
    const size_t room = std::min(out.size() - done, kMostAtOnce);
    state.stream.next_out = reinterpret_cast<Bytef*>(out.data() + done);
    state.stream.avail_out = static_cast<uInt>(room);
    const int result = inflate(&state.stream, Z_NO_FLUSH);
    done += room - state.stream.avail_out;
    if (result == Z_BUF_ERROR) damaged("truncated gzip data", state.member);
    if (result != Z_OK && result != Z_STREAM_END)
      damaged("damaged gzip data, or its checksum differs", state.member);
    state.in_member = result != Z_STREAM_END;
  }
  return done;
}

}  // namespace furrow::data
