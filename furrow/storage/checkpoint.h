// Checkpoints: a folder per step, whole or absent.
//
//   checkpoints/step-00000100/model.safetensors ...   pieces of logical tensors, written by whoever owns them
//                             manifest.json           what they are, their checksums, and everything else to
//                             go on COMMIT                  renamed into place last; without it the folder
//                             does not count
//
//   CheckpointWriter writer("runs/a/checkpoints", 100);
//   writer.write("model.safetensors", tensors);
//   writer.commit(info);
//   prune("runs/a/checkpoints", 3);
//   auto reader = newest_valid("runs/a/checkpoints");    // std::nullopt when there is none
//   reader->read("conv1.weight", view);
//
// Several ranks write one checkpoint into a folder that each of them can name and make; one of them has the
// CheckpointWriter.  What they wrote comes to it as text and is adopted before the commit.
//
//   const std::string working = make_working_folder("runs/a/checkpoints", 100, tag);         // every rank
//   std::string list = write_pieces(working, "model-rank-00003.safetensors", pieces);
//
//   CheckpointWriter writer("runs/a/checkpoints", 100, tag);                                 // the committer
//   writer.adopt(list);
//   writer.commit(info);
//
// docs/formats/checkpoint.md describes the bytes.  One writer per folder of checkpoints at a time.  Objects
// belong to one thread at a time.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "furrow/base/array.h"
#include "furrow/storage/safetensors.h"

namespace furrow::storage {

// A box of a logical tensor and where its bytes are.
struct Piece {
  std::string file;       // in the folder of the checkpoint
  std::string entry;      // name in that safetensors file
  Shape offset;           // first element of the box, per dim
  Shape extent;           // its size, per dim
  uint64_t checksum = 0;  // XXH3-64 of the bytes
};

struct LogicalTensor {
  std::string name;  // "conv1.weight", "optimizer.exp_avg/conv1.weight"
  DType dtype = DType::kF32;
  Shape shape;                // global
  std::vector<Piece> pieces;  // cover the tensor without overlap
};

// Everything but the tensors that a run needs to go on.
struct CheckpointInfo {
  int64_t step = 0;           // steps finished; set by the writer
  int64_t data_position = 0;  // global samples consumed
  uint64_t seed = 0;          // the key of every random number
  int64_t threads = 1;        // of each rank
  std::string instruction_set;
  std::string library_build;                                // "furrow 0.1.0 (commit), libtorch 2.13.0"
  std::string config;                                       // resolved, TOML
  std::string state;                                        // of the training session, free text
  std::vector<std::pair<std::string, std::string>> recipe;  // sorted by name
};

struct Manifest : CheckpointInfo {
  std::vector<LogicalTensor> tensors;  // sorted by name
};

std::string to_json(const Manifest& manifest);
// Error{data_loss}: not a manifest, pieces that do not cover their tensor; {unimplemented}: written by a
// later version.
Manifest parse_manifest(std::string_view json);

// A whole tensor, or the box of a larger one.
struct CheckpointPiece {
  std::string name;
  ArrayView view;           // the box's elements; read during write() only
  Shape global_shape = {};  // empty: the view is the whole tensor
  Shape offset = {};
};

// The pieces of the flat elements [begin, begin + elements) of a row-major tensor, as boxes that view
// `elements`, which is one-dimensional.  At most 2 dims - 1 of them.
std::vector<CheckpointPiece> pieces_of_range(const std::string& name, const Shape& shape, int64_t begin,
                                             const ArrayView& elements);

// Writes one file of pieces into the working folder of a save, durably, and returns what it holds, as JSON.
// `file` is of nobody else and ends in ".safetensors".
std::string write_pieces(const std::string& working_folder, const std::string& file,
                         std::span<const CheckpointPiece> pieces);

// Makes and returns the folder that the ranks of a save write into, unless another of them has.  `tag`: the
// same on all of them, of a-z, 0-9 and '-', and of this save of this job alone.
std::string make_working_folder(const std::string& folder, int64_t step, const std::string& tag);

class CheckpointWriter {
 public:
  // Makes <folder>/step-NNNNNNNN, in place of an uncommitted one.  A committed one of this step is replaced
  // at commit.
  CheckpointWriter(const std::string& folder, int64_t step);
  // Of what ranks write into their working folder of this tag; does nothing before its commit.
  CheckpointWriter(const std::string& folder, int64_t step, const std::string& tag);
  ~CheckpointWriter();  // without commit: removes what was written
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  // Writes one file of pieces, durably.  `file` ends in ".safetensors".
  void write(const std::string& file, std::span<const CheckpointPiece> pieces);
  void write(const std::string& file, std::span<const NamedArray> tensors);  // whole ones

  // What another rank's write_pieces() returned.  Error{data_loss}: no such list, or it contradicts another.
  void adopt(std::string_view pieces);

  // Manifest, then the commit record.  On return the checkpoint is durable.  Error{data_loss} when the pieces
  // do not cover their tensors: nothing is committed then.  REQUIRES: called once.
  void commit(CheckpointInfo info);

  const std::string& folder() const { return target_; }
  const std::string& working_folder() const { return working_; }  // where pieces go until the commit

 private:
  void add(LogicalTensor&& more);

  std::string target_;   // where it will be
  std::string working_;  // where it is being written
  int64_t step_;
  std::map<std::string, LogicalTensor> tensors_;
  bool committed_ = false;
};

class CheckpointReader {
 public:
  // Checks the commit record and the manifest.  Error{not_found}: no such folder or not committed;
  // {data_loss}.
  static CheckpointReader open(const std::string& folder);
  CheckpointReader(CheckpointReader&&) noexcept;
  CheckpointReader& operator=(CheckpointReader&&) noexcept;
  ~CheckpointReader();

  const std::string& folder() const;
  const Manifest& manifest() const;
  const LogicalTensor* find(std::string_view name) const;  // null when absent

  // Checks every byte of every piece.  Error{data_loss} names file and tensor.
  void verify() const;

  // Assembles a tensor into `out`; pieces that were not verified yet are, first.  Error{not_found} names the
  // nearest; {failed_precondition}: other dtype or shape; {data_loss}.
  void read(std::string_view name, const ArrayView& out) const;

  // Flat elements [begin, begin + out.size()) of a tensor of this shape; only pieces that overlap are opened.
  // `out` is one-dimensional.  Errors as above.
  void read_range(std::string_view name, const Shape& shape, int64_t begin, const ArrayView& out) const;

  // The box at `offset` of a tensor of this shape; `out` has the box's shape.  Errors as above.
  void read_box(std::string_view name, const Shape& shape, const Shape& offset, const ArrayView& out) const;

 private:
  struct State;
  const LogicalTensor& expect(std::string_view name, DType dtype, const Shape& shape) const;
  explicit CheckpointReader(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

struct CheckpointEntry {
  int64_t step = 0;
  std::string folder;
  bool committed = false;  // false: a save that was interrupted
};

std::vector<CheckpointEntry> list_checkpoints(
    const std::string& folder);  // newest first; empty when there is no folder

struct DamagedCheckpoint {
  std::string folder;
  std::string reason;
};

// The newest one that verifies wholly.  Damaged ones on the way are put into `damaged`, or logged as warnings
// when null.
std::optional<CheckpointReader> newest_valid(const std::string& folder,
                                             std::vector<DamagedCheckpoint>* damaged = nullptr);

// Removes all but the newest `keep_latest_k` committed ones (0 keeps all) and what interrupted saves left.
// The commit record of each goes first, so that a crash never leaves half a checkpoint that looks whole. Call
// it after the newest one's commit() returned.
void prune(const std::string& folder, int64_t keep_latest_k);

// The names of the failpoints around every durable step of a save and of pruning.
const std::vector<std::string>& checkpoint_failpoints();

std::string step_folder_name(int64_t step);  // "step-00000100"

}  // namespace furrow::storage
