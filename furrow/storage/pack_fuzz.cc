// The first byte picks the parser; any bytes behind it are refused with an Error or survive their own form.
// As a shard, they are read too: what is read equals its checksum.  Checksums keep a fuzzer out: the same is
// read with right ones, and a shard of such is its records.
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "furrow/base/error.h"
#include "furrow/storage/pack.h"
#include "furrow/storage/pack_shard.h"

namespace {

using namespace furrow;
using namespace furrow::storage;

void as_manifest(std::string_view text) {
  const PackInfo info = parse_pack(text);
  FURROW_CHECK(parse_pack(to_json(info)) == info, "another pack");
}

void as_shard(std::string_view bytes) {
  namespace fs = std::filesystem;
  static const fs::path folder =
      fs::temp_directory_path() / ("furrow-pack-fuzz-" + std::to_string(::getpid()));
  fs::create_directories(folder);
  std::ofstream(folder / "a.shard", std::ios::binary).write(bytes.data(), static_cast<long>(bytes.size()));
  const ShardHeader header = parse_shard_header(std::as_bytes(std::span(bytes)));
  const PackShard shard = inspect_shard((folder / "a.shard").string(), header.record_bytes,
                                        static_cast<int64_t>(header.first_record));
  PackInfo info{.kind = "idx", .layout = "samples"};
  info.fields = {{"x", DType::kU8, {static_cast<int64_t>(header.record_bytes)}}};
  info.splits = {{"train", {shard}}};
  const auto records = std::as_bytes(std::span(bytes)).subspan(kShardHeaderBytes, header.payload_bytes());
  const auto check = [&](const PackReader& reader, int64_t first, int64_t count) {
    std::vector<std::byte> scratch(static_cast<size_t>(count) * header.record_bytes);
    const auto read = reader.read(first, count, scratch);
    const auto there = records.subspan(static_cast<size_t>(first) * header.record_bytes, scratch.size());
    FURROW_CHECK(std::ranges::equal(read, there), "records that are not those of the file");
  };
  for (const PackAccess access : {PackAccess::kMapped, PackAccess::kStreamed}) {
    const PackReader reader(folder.string(), info, info.splits[0], access);
    check(reader, 0, 1);
    check(reader, reader.size() - 1, 1);
    check(reader, reader.size() / 3, reader.size() - reader.size() / 3);
  }
  verify_shard(folder.string(), info.record_bytes(), shard, static_cast<int64_t>(header.first_record));
}

// Of the text as this furrow writes it: with any other spelling the digest still differs.
std::string mended_manifest(std::string text) {
  constexpr std::string_view kKey = "\"digest\": \"";
  constexpr size_t kDigits = 32;
  const size_t at = text.find(kKey) + kKey.size();
  if (at < kKey.size() || text.size() - at < kDigits) return text;
  std::string without = text;
  without.erase(at, kDigits);
  return text.replace(at, kDigits, to_hex(xxh3_128(without)));
}

template <class T>
void store(std::string& bytes, size_t at, const T& value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

// As long as its header asks for.  Error where that is no header.
std::string mended_shard(std::string bytes) {
  constexpr size_t kTableChecksum = 40, kChecked = 56, kMostBytes = 1 << 18;
  const auto mend_header = [&] {
    store(bytes, kChecked, xxh3_64(std::string_view(bytes).substr(0, kChecked)));
  };
  bytes.resize(std::max(bytes.size(), kShardHeaderBytes));
  mend_header();
  const ShardHeader header = parse_shard_header(std::as_bytes(std::span(bytes)));
  if (header.payload_bytes() > kMostBytes) throw Error(ErrorCode::kDataLoss, "too large");
  bytes.resize(kShardHeaderBytes + header.payload_bytes());
  bytes.resize(header.table_offset());
  std::string table;
  for (size_t begin = 0; begin < header.payload_bytes(); begin += header.block_bytes) {
    const size_t length = std::min(header.block_bytes, header.payload_bytes() - begin);
    const uint64_t checksum = xxh3_64(std::string_view(bytes).substr(kShardHeaderBytes + begin, length));
    table.append(reinterpret_cast<const char*>(&checksum), sizeof checksum);
  }
  store(bytes, kTableChecksum, xxh3_64(table));
  mend_header();
  return bytes + table;
}

void mended(bool manifest, std::string_view bytes) {
  if (manifest) return as_manifest(mended_manifest(std::string(bytes)));
  const std::string shard = mended_shard(std::string(bytes));
  try {
    as_shard(shard);
  } catch (const Error& error) {
    const bool first = parse_shard_header(std::as_bytes(std::span(shard))).first_record == 0;
    FURROW_CHECK(!first, error.what());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  const bool manifest = data[0] == 'm';
  for (const bool right : {false, true}) {
    try {
      if (right) {
        mended(manifest, rest);
      } else {
        manifest ? as_manifest(rest) : as_shard(rest);
      }
    } catch (const Error& error) {
      FURROW_CHECK(error.code() != ErrorCode::kInternal, error.what());
    }
  }
  return 0;
}
