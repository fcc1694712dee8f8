// Any bytes as a manifest: refused, or every tensor that it describes reads from files of its pieces, whole,
// in ranges and in boxes, as it was cut.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>

#include "furrow/base/error.h"
#include "furrow/base/hash.h"
#include "furrow/storage/boxes.h"
#include "furrow/storage/checkpoint.h"
#include "furrow/storage/checkpoint_files.h"

namespace {

using namespace furrow;
using namespace furrow::storage;
using Bytes = std::vector<std::byte>;

// What is not written as files.
bool is_too_large(const Manifest& manifest) {
  constexpr size_t kMostPieces = 64, kMostDims = 8, kMostName = 100;
  constexpr int64_t kMostElements = 4096;
  size_t pieces = 0;
  for (const LogicalTensor& tensor : manifest.tensors) {
    pieces += tensor.pieces.size();
    const bool large = pieces > kMostPieces || tensor.shape.size() > kMostDims ||
                       std::ranges::any_of(tensor.shape, [](int64_t dim) { return dim > kMostElements; }) ||
                       num_elements(tensor.shape) > kMostElements;
    const auto named = [](const Piece& piece) { return piece.file.size() > kMostName; };
    if (large || std::ranges::any_of(tensor.pieces, named)) return true;
  }
  return false;
}

// The bytes of an element tell it from its neighbours.
Bytes contents(const LogicalTensor& tensor) {
  Bytes bytes(static_cast<size_t>(num_elements(tensor.shape)) * dtype_size(tensor.dtype));
  for (size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<std::byte>((i + tensor.name.size()) * 2654435761u >> 13);
  return bytes;
}

// The elements of a box of `whole`, one at a time.
Bytes cut(const LogicalTensor& tensor, const Bytes& whole, const Box& box) {
  const size_t element = dtype_size(tensor.dtype);
  Bytes out;
  for (int64_t i = 0; i < num_elements(box.extent); ++i) {
    int64_t rest = i, at = 0, stride = 1;
    for (size_t d = box.extent.size(); d-- > 0;) {
      at += (box.offset[d] + rest % box.extent[d]) * stride;
      rest /= box.extent[d];
      stride *= tensor.shape[d];
    }
    const auto from = whole.begin() + at * static_cast<int64_t>(element);
    out.insert(out.end(), from, from + static_cast<int64_t>(element));
  }
  return out;
}

struct File {
  std::vector<TensorInfo> entries;
  std::map<std::string, Bytes> bytes;
};

void write(const std::filesystem::path& path, std::string_view text) {
  std::ofstream(path, std::ios::binary).write(text.data(), static_cast<long>(text.size()));
}

void write(const std::filesystem::path& path, File& file) {
  std::string text = safetensors_header(file.entries, {});
  for (const TensorInfo& entry : file.entries) {
    const Bytes& bytes = file.bytes.at(entry.name);
    text.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  write(path, text);
}

// False: two pieces have one place.  Gives pieces their checksums.
bool write_checkpoint(const std::filesystem::path& folder, Manifest& manifest) {
  std::map<std::string, File> files;
  for (LogicalTensor& tensor : manifest.tensors) {
    const Bytes whole = contents(tensor);
    for (Piece& piece : tensor.pieces) {
      File& file = files[piece.file];
      Bytes bytes = cut(tensor, whole, {piece.offset, piece.extent});
      piece.checksum = xxh3_64(std::span<const std::byte>(bytes));
      if (piece.entry == "__metadata__" || !file.bytes.emplace(piece.entry, std::move(bytes)).second)
        return false;
      file.entries.push_back({.name = piece.entry, .dtype = tensor.dtype, .shape = piece.extent});
    }
  }
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  for (auto& [name, file] : files) write(folder / name, file);
  const std::string text = to_json(manifest);
  write(folder / kManifestFile, text);
  write(folder / kCommitFile, commit_record(text));
  return true;
}

void check(const CheckpointReader& reader, const LogicalTensor& tensor) {
  const Bytes whole = contents(tensor);
  const auto element = static_cast<int64_t>(dtype_size(tensor.dtype));
  const int64_t elements = num_elements(tensor.shape);
  const Array all(tensor.dtype, tensor.shape);
  reader.read(tensor.name, all.view());
  FURROW_CHECK(std::ranges::equal(all.bytes(), whole), "another tensor");
  for (const auto& [begin, end] :
       {std::pair(elements / 3, elements), std::pair(elements / 5, elements / 2)}) {
    const Array range(tensor.dtype, {end - begin});
    reader.read_range(tensor.name, tensor.shape, begin, range.view());
    FURROW_CHECK(std::ranges::equal(range.bytes(),
                                    std::span(whole).subspan(static_cast<size_t>(begin * element),
                                                             static_cast<size_t>((end - begin) * element))),
                 "another range");
  }
  Box middle = whole_box(tensor.shape);
  for (size_t d = 0; d < tensor.shape.size(); ++d) {
    middle.offset[d] = tensor.shape[d] / 3;
    middle.extent[d] = tensor.shape[d] - middle.offset[d] - tensor.shape[d] / 4;
  }
  const Array box(tensor.dtype, middle.extent);
  reader.read_box(tensor.name, tensor.shape, middle.offset, box.view());
  FURROW_CHECK(std::ranges::equal(box.bytes(), cut(tensor, whole, middle)), "another box");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / fmt::format("furrow-checkpoint-fuzz-{}", ::getpid());
  Manifest manifest;
  try {
    manifest = parse_manifest({reinterpret_cast<const char*>(data), size});
  } catch (const Error& error) {
    FURROW_CHECK(error.code() != ErrorCode::kInternal, error.what());
    return 0;
  }
  if (is_too_large(manifest) || !write_checkpoint(folder, manifest)) return 0;
  const CheckpointReader reader = CheckpointReader::open(folder.string());
  reader.verify();
  for (const LogicalTensor& tensor : manifest.tensors) check(reader, tensor);
  return 0;
}
