// Reading checkpoints.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/hash.h"
#include "furrow/base/log.h"
#include "furrow/base/names.h"
#include "furrow/storage/boxes.h"
#include "furrow/storage/checkpoint.h"
#include "furrow/storage/checkpoint_files.h"

namespace furrow::storage {
namespace {

constexpr uint64_t kMaxManifest = 1 << 30;

Manifest read_manifest(const std::string& folder) {
  const std::string record_path = folder + "/" + std::string(kCommitFile);
  if (!path_exists(record_path)) {
    throw Error(
        ErrorCode::kNotFound,
        fmt::format("{} is no checkpoint, or its save was interrupted: it has no {}", folder, kCommitFile));
  }
  const std::string text = read_file(folder + "/" + std::string(kManifestFile), kMaxManifest);
  if (read_file(record_path, kMaxManifest) != commit_record(text)) {
    throw Error(ErrorCode::kDataLoss,
                fmt::format("{} and {} do not belong together", kManifestFile, kCommitFile));
  }
  return parse_manifest(text);
}

}  // namespace

std::string commit_record(std::string_view manifest) {
  return fmt::format("furrow-commit 1\nmanifest xxh3 {}\n", to_hex(xxh3_64(manifest)));
}

struct CheckpointReader::State {
  std::string folder;
  Manifest manifest;
  std::map<std::string, SafetensorsFile> files;            // opened so far
  std::set<std::pair<std::string, std::string>> verified;  // file and entry

  const SafetensorsFile& file(const std::string& name) {
    const auto found = files.find(name);
    if (found != files.end()) return found->second;
    return files.emplace(name, SafetensorsFile(folder + "/" + name)).first->second;
  }

  // The bytes of a piece, checked the first time.
  std::span<const std::byte> piece_bytes(const LogicalTensor& tensor, const Piece& piece) {
    const SafetensorsFile& source = file(piece.file);
    const TensorInfo* entry = source.find(piece.entry);
    if (entry == nullptr || entry->dtype != tensor.dtype || entry->shape != piece.extent) {
      throw Error(ErrorCode::kDataLoss,
                  fmt::format("{}: entry '{}' is missing or of another shape", source.path(), piece.entry));
    }
    const auto bytes = source.bytes(*entry);
    const auto key = std::pair(piece.file, piece.entry);
    if (!verified.contains(key)) {
      if (xxh3_64(bytes) != piece.checksum) {
        throw Error(ErrorCode::kDataLoss,
                    fmt::format("{}: checksum of tensor '{}' differs: the file is damaged", source.path(),
                                tensor.name));
      }
      verified.insert(key);
    }
    return bytes;
  }

  // The elements of `box`, from every piece that overlaps it.
  void copy(const LogicalTensor& tensor, const Box& box, std::span<std::byte> out) {
    for (const Piece& piece : tensor.pieces) {
      const Box from{piece.offset, piece.extent};
      if (overlap(from, box))
        copy_overlap(from, piece_bytes(tensor, piece), box, out, dtype_size(tensor.dtype));
    }
  }
};

CheckpointReader::CheckpointReader(std::unique_ptr<State> state) : state_(std::move(state)) {}
CheckpointReader::CheckpointReader(CheckpointReader&&) noexcept = default;
CheckpointReader& CheckpointReader::operator=(CheckpointReader&&) noexcept = default;
CheckpointReader::~CheckpointReader() = default;

CheckpointReader CheckpointReader::open(const std::string& folder) {
  try {
    auto state = std::make_unique<State>();
    state->folder = folder;
    state->manifest = read_manifest(folder);
    return CheckpointReader(std::move(state));
  } catch (const Error& error) {
    throw error.with_context("checkpoint " + folder);
  }
}

const std::string& CheckpointReader::folder() const { return state_->folder; }
const Manifest& CheckpointReader::manifest() const { return state_->manifest; }

const LogicalTensor* CheckpointReader::find(std::string_view name) const {
  const auto& tensors = state_->manifest.tensors;
  const auto found =
      std::lower_bound(tensors.begin(), tensors.end(), name,
                       [](const LogicalTensor& tensor, std::string_view n) { return tensor.name < n; });
  return found != tensors.end() && found->name == name ? &*found : nullptr;
}

void CheckpointReader::verify() const {
  for (const LogicalTensor& tensor : state_->manifest.tensors) {
    for (const Piece& piece : tensor.pieces) state_->piece_bytes(tensor, piece);
  }
}

const LogicalTensor& CheckpointReader::expect(std::string_view name, DType dtype, const Shape& shape) const {
  const LogicalTensor* tensor = find(name);
  if (tensor == nullptr) {
    std::vector<std::string> known;
    for (const LogicalTensor& each : state_->manifest.tensors) known.push_back(each.name);
    throw Error(ErrorCode::kNotFound,
                fmt::format("checkpoint {}: {}", folder(), unknown_name_message("tensor", name, known)));
  }
  if (tensor->dtype != dtype || tensor->shape != shape) {
    throw Error(
        ErrorCode::kFailedPrecondition,
        fmt::format("checkpoint {}: tensor '{}' is {} {}, the model wants {} {}", folder(), name,
                    to_string(tensor->dtype), to_string(tensor->shape), to_string(dtype), to_string(shape)));
  }
  return *tensor;
}

void CheckpointReader::read(std::string_view name, const ArrayView& out) const {
  const LogicalTensor& tensor = expect(name, out.dtype, out.shape);
  state_->copy(tensor, whole_box(tensor.shape), out.bytes);
}

void CheckpointReader::read_range(std::string_view name, const Shape& shape, int64_t begin,
                                  const ArrayView& out) const {
  const LogicalTensor& tensor = expect(name, out.dtype, shape);
  std::span<std::byte> rest = out.bytes;
  for (const Box& box : boxes_of_range(shape, begin, begin + out.size())) {
    const size_t bytes = static_cast<size_t>(num_elements(box.extent)) * dtype_size(out.dtype);
    state_->copy(tensor, box, rest.first(bytes));
    rest = rest.subspan(bytes);
  }
}

void CheckpointReader::read_box(std::string_view name, const Shape& shape, const Shape& offset,
                                const ArrayView& out) const {
  const LogicalTensor& tensor = expect(name, out.dtype, shape);
  state_->copy(tensor, {offset, out.shape}, out.bytes);
}

std::optional<CheckpointReader> newest_valid(const std::string& folder,
                                             std::vector<DamagedCheckpoint>* damaged) {
  for (const CheckpointEntry& entry : list_checkpoints(folder)) {
    if (!entry.committed) continue;
    try {
      CheckpointReader reader = CheckpointReader::open(entry.folder);
      reader.verify();
      return reader;
    } catch (const Error& error) {
      if (damaged != nullptr) {
        damaged->push_back({entry.folder, error.what()});
      } else {
        log_warning(fmt::format("{} is damaged and passed over: {}", entry.folder, error.what()));
      }
    }
  }
  return std::nullopt;
}

}  // namespace furrow::storage
