// pack.json: what a pack holds, as text.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/storage/json.h"
#include "furrow/storage/pack.h"

namespace furrow::storage {
namespace {

constexpr std::string_view kFormat = "furrow-pack";
constexpr int64_t kVersion = 2;
constexpr int64_t kMaxRecordBytes = int64_t{1} << 40;

[[noreturn]] void damaged(const std::string& message) { throw Error(ErrorCode::kDataLoss, message); }

void write_strings(JsonWriter& json, std::string_view key, const std::map<std::string, std::string>& values) {
  json.key(key).begin_object();
  for (const auto& [name, value] : values) json.field(name, value);
  json.end_object();
}

void write_fields(JsonWriter& json, const std::vector<PackField>& fields) {
  json.key("fields").begin_array();
  for (const PackField& field : fields) {
    json.begin_object().field("name", field.name).field("dtype", std::string(to_string(field.dtype)));
    json.key("shape").begin_array();
    for (const int64_t dim : field.shape) json.value(dim);
    json.end_array().end_object();
  }
  json.end_array();
}

void write_splits(JsonWriter& json, const std::vector<PackSplit>& splits) {
  json.key("splits").begin_array();
  for (const PackSplit& split : splits) {
    json.begin_object().field("name", split.name).key("shards").begin_array();
    for (const PackShard& shard : split.shards) {
      json.begin_object().field("file", shard.file).field("records", shard.records);
      json.field("xxh3", to_hex(shard.checksum)).end_object();
    }
    json.end_array();
    if (!split.fields.empty()) write_fields(json, split.fields);
    json.end_object();
  }
  json.end_array();
}

void write_parts(JsonWriter& json, const std::vector<PackPart>& parts) {
  json.key("parts").begin_array();
  for (const PackPart& part : parts) {
    json.begin_object().field("name", part.name).field("weight", part.weight);
    json.field("layout", part.layout).end_object();
  }
  json.end_array();
}

// The lowest that has all of it, so that an earlier furrow reads what it can.
int64_t version_of(const PackInfo& info) { return info.parts.empty() ? 1 : kVersion; }

// `digest` is that of the text with an empty digest.
std::string text_with(const PackInfo& info, const std::string& digest) {
  JsonWriter json(2);
  json.begin_object().field("format", std::string(kFormat)).field("version", version_of(info));
  json.field("digest", digest).field("kind", info.kind).field("layout", info.layout);
  write_fields(json, info.fields);
  write_splits(json, info.splits);
  if (!info.parts.empty()) write_parts(json, info.parts);
  write_strings(json, "preprocessing", info.preprocessing);
  write_strings(json, "lineage", info.lineage);
  return json.end_object().text() + "\n";
}

std::map<std::string, std::string> read_strings(const Json& json) {
  std::map<std::string, std::string> values;
  for (const auto& [name, value] : json.object()) values[name] = value.string();
  return values;
}

PackField read_field(const Json& json) {
  PackField field{.name = json.at("name").string(), .shape = json.at("shape").integers()};
  const std::string& dtype = json.at("dtype").string();
  try {
    field.dtype = parse_dtype(dtype);
  } catch (const Error&) {
    damaged(fmt::format("unknown dtype {}", json_quote(dtype)));
  }
  int64_t bytes = static_cast<int64_t>(dtype_size(field.dtype));
  for (const int64_t dim : field.shape) {
    const bool fits = dim >= 1 && !__builtin_mul_overflow(bytes, dim, &bytes) && bytes <= kMaxRecordBytes;
    if (!fits) damaged(fmt::format("impossible shape {}", to_string(field.shape)));
  }
  return field;
}

PackShard read_shard(const Json& json) {
  PackShard shard{.file = json.at("file").string(), .records = json.at("records").integer()};
  const bool plain = shard.file.find('/') == std::string::npos &&
                     shard.file.find('\0') == std::string::npos && !shard.file.starts_with('.') &&
                     shard.file.ends_with(".shard");
  if (!plain) damaged(fmt::format("shard {} is no file name", json_quote(shard.file)));
  if (shard.records < 1) damaged(fmt::format("shard {} has {} records", shard.file, shard.records));
  if (!parse_hex(json.at("xxh3").string(), shard.checksum)) {
    damaged("a checksum is not 16 hexadecimal digits");
  }
  return shard;
}

PackSplit read_split(const Json& json) {
  PackSplit split{.name = json.at("name").string()};
  int64_t records = 0;
  for (const Json& shard : json.at("shards").list()) {
    split.shards.push_back(read_shard(shard));
    if (__builtin_add_overflow(records, split.shards.back().records, &records)) damaged("too many records");
  }
  if (split.shards.empty()) damaged(fmt::format("split {} has no shards", json_quote(split.name)));
  if (const Json* const fields = json.find("fields")) {
    for (const Json& field : fields->list()) split.fields.push_back(read_field(field));
  }
  return split;
}

PackPart read_part(const Json& json) {
  PackPart part{json.at("name").string(), json.at("weight").number(), json.at("layout").string()};
  if (!std::isfinite(part.weight) || part.weight <= 0)
    damaged(fmt::format("part {} has no weight above 0", json_quote(part.name)));
  return part;
}

void check(const PackInfo& info) {
  if (info.fields.empty()) damaged("a record has no fields");
  std::set<std::string> names, files, parts;
  for (const PackPart& part : info.parts) {
    if (!parts.insert(part.name).second) damaged(fmt::format("part {} twice", json_quote(part.name)));
  }
  for (const PackSplit& split : info.splits) {
    if (!names.insert(split.name).second) damaged(fmt::format("split {} twice", json_quote(split.name)));
    for (const PackShard& shard : split.shards) {
      if (!files.insert(shard.file).second) damaged(fmt::format("shard {} twice", shard.file));
    }
  }
}

}  // namespace

int64_t PackSplit::records() const {
  int64_t count = 0;
  for (const PackShard& shard : shards) count += shard.records;
  return count;
}

namespace {

size_t bytes_of(const std::vector<PackField>& fields) {
  size_t bytes = 0;
  for (const PackField& field : fields) {
    bytes += static_cast<size_t>(num_elements(field.shape)) * dtype_size(field.dtype);
  }
  return bytes;
}

}  // namespace

size_t PackInfo::record_bytes() const { return bytes_of(fields); }

size_t PackInfo::record_bytes(const PackSplit& split) const {
  return bytes_of(split.fields.empty() ? fields : split.fields);
}

const PackSplit* PackInfo::find(std::string_view split) const {
  const auto found =
      std::ranges::find_if(splits, [split](const PackSplit& other) { return other.name == split; });
  return found == splits.end() ? nullptr : &*found;
}

std::string to_json(const PackInfo& info) { return text_with(info, to_hex(xxh3_128(text_with(info, "")))); }

PackInfo parse_pack(std::string_view text) {
  const Json json = parse_json(text);
  if (json.at("format").string() != kFormat) damaged("this is no description of a pack");
  if (const int64_t version = json.at("version").integer(); version > kVersion) {
    throw Error(ErrorCode::kUnimplemented,
                fmt::format("the pack is of version {}, this furrow reads up to {}: use a newer one", version,
                            kVersion));
  }
  PackInfo info{.kind = json.at("kind").string(), .layout = json.at("layout").string()};
  for (const Json& field : json.at("fields").list()) info.fields.push_back(read_field(field));
  for (const Json& split : json.at("splits").list()) info.splits.push_back(read_split(split));
  if (const Json* const parts = json.find("parts")) {
    for (const Json& part : parts->list()) info.parts.push_back(read_part(part));
  }
  info.preprocessing = read_strings(json.at("preprocessing"));
  info.lineage = read_strings(json.at("lineage"));
  check(info);
  if (json.at("digest").string() != to_hex(xxh3_128(text_with(info, "")))) {
    damaged("its digest differs: the file is damaged or was edited, pack the data again");
  }
  return info;
}

PackInfo read_pack(const std::string& folder) {
  const std::string path = folder + "/" + std::string(kPackFile);
  if (!path_exists(path)) {
    throw Error(ErrorCode::kNotFound,
                fmt::format("{} holds no {}: make one with `furrow data pack SOURCE --out {}`", folder,
                            kPackFile, folder));
  }
  constexpr uint64_t kMaxBytes = uint64_t{1} << 30;
  try {
    return parse_pack(read_file(path, kMaxBytes));
  } catch (const Error& error) {
    throw error.with_context(path);
  }
}

void write_pack(const std::string& folder, const PackInfo& info) {
  write_file_atomic(folder + "/" + std::string(kPackFile), to_json(info));
}

}  // namespace furrow::storage
