// manifest.json: what a checkpoint holds, as text.
#include <fmt/format.h>

#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/base/hash.h"
#include "furrow/base/text.h"
#include "furrow/storage/boxes.h"
#include "furrow/storage/checkpoint.h"
#include "furrow/storage/checkpoint_files.h"
#include "furrow/storage/json.h"

namespace furrow::storage {
namespace {

constexpr std::string_view kFormat = "furrow-checkpoint";
constexpr int64_t kVersion = 1;

[[noreturn]] void damaged(const std::string& message) { throw Error(ErrorCode::kDataLoss, message); }

void write_shape(JsonWriter& json, std::string_view key, const Shape& shape) {
  json.key(key).begin_array();
  for (const int64_t dim : shape) json.value(dim);
  json.end_array();
}

void write_tensor(JsonWriter& json, const LogicalTensor& tensor) {
  json.begin_object().field("name", tensor.name).field("dtype", std::string(to_string(tensor.dtype)));
  write_shape(json, "shape", tensor.shape);
  json.key("pieces").begin_array();
  for (const Piece& piece : tensor.pieces) {
    json.begin_object().field("file", piece.file).field("entry", piece.entry);
    write_shape(json, "offset", piece.offset);
    write_shape(json, "extent", piece.extent);
    json.field("xxh3", to_hex(piece.checksum)).end_object();
  }
  json.end_array().end_object();
}

// A plain name beside the manifest, nothing that leads elsewhere.
void check_file_name(const std::string& name) {
  const bool plain =
      name.find('/') == std::string::npos && name.find('\0') == std::string::npos && !name.starts_with('.');
  if (!plain || !name.ends_with(".safetensors"))
    damaged(fmt::format("piece file {} is no file name", json_quote(name)));
}

Piece read_piece(const Json& json) {
  Piece piece{.file = json.at("file").string(),
              .entry = json.at("entry").string(),
              .offset = json.at("offset").integers(),
              .extent = json.at("extent").integers()};
  check_file_name(piece.file);
  if (!parse_hex(json.at("xxh3").string(), piece.checksum))
    damaged("a checksum is not 16 hexadecimal digits");
  return piece;
}

// Number of elements, refused where it overflows or a dim is negative.
int64_t volume(const Shape& shape) {
  int64_t count = 1;
  for (const int64_t dim : shape) {
    if (dim < 0 || __builtin_mul_overflow(count, dim, &count))
      damaged(fmt::format("impossible shape {}", to_string(shape)));
  }
  return count;
}

void check_piece(const LogicalTensor& tensor, const Piece& piece) {
  const size_t dims = tensor.shape.size();
  if (piece.offset.size() != dims || piece.extent.size() != dims)
    damaged("a piece has another number of dims");
  for (size_t d = 0; d < dims; ++d) {
    const int64_t offset = piece.offset[d], extent = piece.extent[d];
    const bool inside =
        offset >= 0 && extent >= 0 && offset <= tensor.shape[d] && extent <= tensor.shape[d] - offset;
    if (!inside) {
      damaged(fmt::format("a piece at {} of {} reaches beyond shape {}", to_string(piece.offset),
                          to_string(piece.extent), to_string(tensor.shape)));
    }
  }
}

DType read_dtype(const std::string& name) {
  try {
    return parse_dtype(name);
  } catch (const Error& error) {
    damaged(error.message());
  }
}

LogicalTensor read_tensor(const Json& json) {
  LogicalTensor tensor{.name = json.at("name").string(),
                       .dtype = read_dtype(json.at("dtype").string()),
                       .shape = json.at("shape").integers(),
                       .pieces = {}};
  try {
    for (const Json& piece : json.at("pieces").list()) tensor.pieces.push_back(read_piece(piece));
  } catch (const Error& error) {
    throw error.with_context(fmt::format("tensor '{}'", tensor.name));
  }
  return tensor;
}

void check_version(const Json& root) {
  if (root.at("format").string() != kFormat) damaged("not the manifest of a checkpoint");
  const int64_t version = root.at("version").integer();
  if (version > kVersion) {
    throw Error(ErrorCode::kUnimplemented,
                fmt::format("the checkpoint has version {}, this furrow reads up to {}: use a newer furrow",
                            version, kVersion));
  }
  if (version < 1) damaged(fmt::format("version {} never existed", version));
}

}  // namespace

void check_coverage(const LogicalTensor& tensor) try {
  constexpr size_t kMostPieces = 65'536;
  if (tensor.pieces.size() > kMostPieces) damaged("too many pieces");
  int64_t covered = 0;
  for (const Piece& piece : tensor.pieces) {
    check_piece(tensor, piece);
    const int64_t elements = volume(piece.extent);
    if (__builtin_add_overflow(covered, elements, &covered)) damaged("pieces overlap");
  }
  if (covered != volume(tensor.shape)) {
    damaged(fmt::format("pieces cover {} of {} elements", covered, volume(tensor.shape)));
  }
  for (size_t i = 0; i < tensor.pieces.size() && covered > 0; ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (overlap({tensor.pieces[i].offset, tensor.pieces[i].extent},
                  {tensor.pieces[j].offset, tensor.pieces[j].extent})) {
        damaged("pieces overlap");
      }
    }
  }
} catch (const Error& error) {
  throw error.with_context(fmt::format("tensor '{}'", tensor.name));
}

std::string pieces_to_json(const std::vector<LogicalTensor>& tensors) {
  JsonWriter json(0);
  json.begin_object().key("tensors").begin_array();
  for (const LogicalTensor& tensor : tensors) write_tensor(json, tensor);
  json.end_array().end_object();
  return json.text();
}

std::vector<LogicalTensor> parse_pieces(std::string_view text) {
  const Json root = parse_json(text);
  std::vector<LogicalTensor> tensors;
  for (const Json& tensor : root.at("tensors").list()) {
    tensors.push_back(read_tensor(tensor));
    for (const Piece& piece : tensors.back().pieces) check_piece(tensors.back(), piece);
  }
  return tensors;
}

std::string to_json(const Manifest& manifest) {
  JsonWriter json(1);
  json.begin_object().field("format", std::string(kFormat)).field("version", kVersion);
  json.field("step", manifest.step)
      .field("data_position", manifest.data_position)
      .field("seed", manifest.seed);
  json.field("threads", manifest.threads).field("instruction_set", manifest.instruction_set);
  json.field("library_build", manifest.library_build);
  json.key("recipe").begin_object();
  for (const auto& [key, value] : manifest.recipe) json.field(key, value);
  json.end_object();
  json.field("config", manifest.config).field("state", manifest.state);
  json.key("tensors").begin_array();
  for (const LogicalTensor& tensor : manifest.tensors) write_tensor(json, tensor);
  json.end_array().end_object();
  return json.text() + "\n";
}

Manifest parse_manifest(std::string_view text) {
  const Json root = parse_json(text);
  check_version(root);
  Manifest manifest;
  manifest.step = root.at("step").integer();
  manifest.data_position = root.at("data_position").integer();
  if (manifest.step < 0 || manifest.data_position < 0) damaged("step and data_position cannot be negative");
  manifest.seed = root.at("seed").unsigned_integer();
  manifest.threads = root.at("threads").integer();
  manifest.instruction_set = root.at("instruction_set").string();
  manifest.library_build = root.at("library_build").string();
  for (const auto& [key, value] : root.at("recipe").object())
    manifest.recipe.emplace_back(key, value.string());
  std::sort(manifest.recipe.begin(), manifest.recipe.end());
  manifest.config = root.at("config").string();
  manifest.state = root.at("state").string();
  for (const Json& tensor : root.at("tensors").list()) manifest.tensors.push_back(read_tensor(tensor));
  for (const LogicalTensor& tensor : manifest.tensors) check_coverage(tensor);
  const auto by_name = [](const LogicalTensor& a, const LogicalTensor& b) { return a.name < b.name; };
  std::sort(manifest.tensors.begin(), manifest.tensors.end(), by_name);
  for (size_t i = 1; i < manifest.tensors.size(); ++i) {
    if (manifest.tensors[i].name == manifest.tensors[i - 1].name) {
      damaged(fmt::format("tensor '{}' stands there twice", manifest.tensors[i].name));
    }
  }
  return manifest;
}

}  // namespace furrow::storage
