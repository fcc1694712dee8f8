// Writing checkpoints, listing and pruning them.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <iterator>

#include "furrow/base/error.h"
#include "furrow/base/failpoint.h"
#include "furrow/base/file.h"
#include "furrow/base/hash.h"
#include "furrow/storage/boxes.h"
#include "furrow/storage/checkpoint.h"
#include "furrow/storage/checkpoint_files.h"

namespace furrow::storage {
namespace {

namespace fs = std::filesystem;

std::string box_text(const Shape& offset, const Shape& extent) {
  return to_string(offset) + "+" + to_string(extent);
}

// The step of "step-00000100", -1 for any other name.
int64_t step_of(const std::string& name) {
  constexpr std::string_view kPrefix = "step-";
  if (!name.starts_with(kPrefix)) return -1;
  int64_t step = -1;
  const char* end = name.data() + name.size();
  const auto [rest, status] = std::from_chars(name.data() + kPrefix.size(), end, step);
  const bool whole = status == std::errc{} && rest == end;
  return whole && step >= 0 && step_folder_name(step) == name ? step : -1;
}

bool is_stale_name(const std::string& name) {
  return name.starts_with("step-") && step_of(name) < 0 && name.find('.') != std::string::npos;
}

void remove_checkpoint(const std::string& folder) {
  const std::string record = folder + "/" + std::string(kCommitFile);
  if (path_exists(record)) {
    remove_all(record);
    sync_directory(folder);
  }
  FURROW_FAILPOINT("checkpoint.during_prune");
  remove_all(folder);
}

// The file, and what it holds by tensor.
std::vector<LogicalTensor> write_file(const std::string& folder, const std::string& file,
                                      std::span<const CheckpointPiece> pieces) {
  std::vector<NamedArray> arrays;
  std::vector<LogicalTensor> tensors;
  for (const CheckpointPiece& piece : pieces) {
    const bool whole = piece.global_shape.empty();
    const Shape offset = whole ? Shape(piece.view.shape.size(), 0) : piece.offset;
    const bool box = !whole && piece.global_shape != piece.view.shape;
    const std::string entry = box ? piece.name + " " + box_text(offset, piece.view.shape) : piece.name;
    arrays.push_back({entry, piece.view});
    tensors.push_back({.name = piece.name,
                       .dtype = piece.view.dtype,
                       .shape = whole ? piece.view.shape : piece.global_shape,
                       .pieces = {{file, entry, offset, piece.view.shape, xxh3_64(piece.view.bytes)}}});
  }
  FURROW_FAILPOINT("checkpoint.before_piece");
  write_safetensors(folder + "/" + file, arrays);
  FURROW_FAILPOINT("checkpoint.after_piece");
  return tensors;
}

// Durable by the commit: training may be waiting, and a disk takes longer to sync than a state to copy.
void create_working(const std::string& working) {
  std::error_code error;
  fs::create_directory(working, error);
  if (error) throw errno_error(error.value(), "create folder", working);
}

std::string working_name(const std::string& folder, int64_t step, const std::string& tag) {
  return folder + "/" + step_folder_name(step) + "." + tag;
}

}  // namespace

std::vector<CheckpointPiece> pieces_of_range(const std::string& name, const Shape& shape, int64_t begin,
                                             const ArrayView& elements) {
  std::vector<CheckpointPiece> pieces;
  size_t at = 0;
  for (const Box& box : boxes_of_range(shape, begin, begin + elements.size())) {
    const size_t bytes = static_cast<size_t>(num_elements(box.extent)) * dtype_size(elements.dtype);
    pieces.push_back(
        {.name = name,
         .view = {elements.dtype, box.extent, elements.bytes.subspan(at, bytes), elements.device},
         .global_shape = shape,
         .offset = box.offset});
    at += bytes;
  }
  return pieces;
}

std::string write_pieces(const std::string& working_folder, const std::string& file,
                         std::span<const CheckpointPiece> pieces) {
  return pieces_to_json(write_file(working_folder, file, pieces));
}

std::string make_working_folder(const std::string& folder, int64_t step, const std::string& tag) {
  make_directories(folder);
  FURROW_FAILPOINT("checkpoint.begin");
  const std::string working = working_name(folder, step, tag);
  create_working(working);
  return working;
}

std::string step_folder_name(int64_t step) { return fmt::format("step-{:08}", step); }

const std::vector<std::string>& checkpoint_failpoints() {
  static const std::vector<std::string> names = {
      "checkpoint.begin",          "checkpoint.before_piece",    "checkpoint.after_piece",
      "checkpoint.before_adopt",   "checkpoint.before_manifest", "checkpoint.before_commit",
      "checkpoint.before_replace", "checkpoint.after_commit",    "checkpoint.before_prune",
      "checkpoint.during_prune",   "checkpoint.after_prune"};
  return names;
}

CheckpointWriter::CheckpointWriter(const std::string& folder, int64_t step)
    : target_(folder + "/" + step_folder_name(step)), step_(step) {
  FURROW_CHECK(step >= 0, "a checkpoint of a negative step");
  make_directories(folder);
  working_ = path_exists(target_ + "/" + std::string(kCommitFile)) ? target_ + ".new" : target_;
  FURROW_FAILPOINT("checkpoint.begin");
  if (path_exists(working_)) remove_all(working_);
  create_working(working_);
}

CheckpointWriter::CheckpointWriter(const std::string& folder, int64_t step, const std::string& tag)
    : target_(folder + "/" + step_folder_name(step)),
      working_(working_name(folder, step, tag)),
      step_(step) {}

CheckpointWriter::~CheckpointWriter() {
  if (committed_) return;
  try {
    remove_all(working_);
  } catch (const Error&) {
    // The folder has no commit record: it does not count, and the next prune removes it.
  }
}

void CheckpointWriter::write(const std::string& file, std::span<const CheckpointPiece> pieces) {
  for (LogicalTensor& tensor : write_file(working_, file, pieces)) add(std::move(tensor));
}

void CheckpointWriter::write(const std::string& file, std::span<const NamedArray> tensors) {
  std::vector<CheckpointPiece> pieces;
  for (const NamedArray& tensor : tensors) pieces.push_back({.name = tensor.name, .view = tensor.view});
  write(file, pieces);
}

void CheckpointWriter::adopt(std::string_view pieces) {
  FURROW_FAILPOINT("checkpoint.before_adopt");
  for (LogicalTensor& tensor : parse_pieces(pieces)) add(std::move(tensor));
}

void CheckpointWriter::add(LogicalTensor&& more) {
  LogicalTensor& tensor = tensors_[more.name];
  if (tensor.pieces.empty()) {
    tensor = std::move(more);
    return;
  }
  if (tensor.shape != more.shape || tensor.dtype != more.dtype) {
    throw Error(ErrorCode::kDataLoss, fmt::format("tensor '{}' is {} {} to one rank and {} {} to another",
                                                  more.name, to_string(tensor.dtype), to_string(tensor.shape),
                                                  to_string(more.dtype), to_string(more.shape)));
  }
  std::ranges::move(more.pieces, std::back_inserter(tensor.pieces));
}

void CheckpointWriter::commit(CheckpointInfo info) {
  FURROW_CHECK(!committed_, "a checkpoint is committed once");
  Manifest manifest;
  static_cast<CheckpointInfo&>(manifest) = std::move(info);
  manifest.step = step_;
  for (auto& [name, tensor] : tensors_) manifest.tensors.push_back(std::move(tensor));
  for (const LogicalTensor& tensor : manifest.tensors) check_coverage(tensor);
  const std::string text = to_json(manifest);
  FURROW_FAILPOINT("checkpoint.before_manifest");
  sync_directory(parent_directory(working_));
  write_file_atomic(working_ + "/" + std::string(kManifestFile), text);
  FURROW_FAILPOINT("checkpoint.before_commit");
  write_file_atomic(working_ + "/" + std::string(kCommitFile), commit_record(text));
  FURROW_FAILPOINT("checkpoint.before_replace");
  if (working_ != target_) replace_directory(working_, target_);
  committed_ = true;
  FURROW_FAILPOINT("checkpoint.after_commit");
}

std::vector<CheckpointEntry> list_checkpoints(const std::string& folder) {
  std::vector<CheckpointEntry> entries;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const int64_t step = step_of(entry.path().filename().string());
    if (step < 0) continue;
    const std::string path = folder + "/" + step_folder_name(step);
    entries.push_back(
        {.step = step, .folder = path, .committed = path_exists(path + "/" + std::string(kCommitFile))});
  }
  if (error && error != std::errc::no_such_file_or_directory)
    throw errno_error(error.value(), "list", folder);
  std::sort(entries.begin(), entries.end(),
            [](const CheckpointEntry& a, const CheckpointEntry& b) { return a.step > b.step; });
  return entries;
}

void prune(const std::string& folder, int64_t keep_latest_k) {
  FURROW_FAILPOINT("checkpoint.before_prune");
  int64_t kept = 0;
  for (const CheckpointEntry& entry : list_checkpoints(folder)) {
    if (entry.committed && (keep_latest_k <= 0 || kept < keep_latest_k)) {
      ++kept;
    } else {
      remove_checkpoint(entry.folder);
    }
  }
  std::vector<std::string> stale;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (is_stale_name(entry.path().filename().string())) stale.push_back(entry.path().string());
  }
  for (const std::string& path : stale) remove_all(path);
  FURROW_FAILPOINT("checkpoint.after_prune");
}

}  // namespace furrow::storage
