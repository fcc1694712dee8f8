// The first byte picks the parser; any bytes behind it are refused with an Error or survive their own form.
// As a shard, they are read too: what is read equals its checksum.
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
  for (const PackAccess access : {PackAccess::kMapped, PackAccess::kStreamed}) {
    const PackReader reader(folder.string(), info, info.splits[0], access);
    std::vector<std::byte> scratch(header.record_bytes);
    reader.read(0, 1, scratch);
    reader.read(reader.size() - 1, 1, scratch);
  }
  verify_shard(folder.string(), info.record_bytes(), shard, static_cast<int64_t>(header.first_record));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    data[0] == 'm' ? as_manifest(rest) : as_shard(rest);
  } catch (const Error& error) {
    FURROW_CHECK(error.code() != ErrorCode::kInternal, "an invariant, not an error of the file");
  }
  return 0;
}
