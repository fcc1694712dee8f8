// Saves and restores a run: parameters, optimizer state, the best model so far, RunState, recipe.
//
// save() returns once the state is copied (async) or durable (sync).  One save at a time: the next one
// finishes the one under way.  Errors of a background save are thrown by the next save(), by advance() or by
// finish().
//
// In a world of several ranks each writes its piece of every flat buffer, rank 0 commits once all are
// durable, and an error of any rank is thrown on every rank and leaves no commit.  All ranks construct it and
// call save(), advance() and finish() at the same points; nothing else of a save communicates.  An
// asynchronous save waits for no disk, but for that of a save before it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "furrow/config/config.h"
#include "furrow/train/model_state_torch.h"
#include "furrow/train/rank_context.h"
#include "furrow/train/run_state.h"

namespace furrow::train {

struct CheckpointPlace {
  std::string folder;                // of checkpoints; every rank sees the same one
  std::vector<plan::Slice> written;  // of each unit's flat buffers: this rank's pieces; empty: all
  bool statistics = true;            // this rank writes them; exactly one does
  bool replicated = true;            // it writes what the tensor axis does not cut; else it leaves that out
};

class Checkpointer {
 public:
  Checkpointer(const config::Config& config, CheckpointPlace place, const RankContext& rank);
  ~Checkpointer();  // waits for the files; an error that nobody asked for is logged

  bool async() const;

  // Of each copy that the snapshots of a save take: of everything, or, where it is not asynchronous, of
  // parameters that are not float32 alone.
  std::vector<int64_t> copy_bytes(const ModelState& model) const;

  // Where saves are asynchronous: memory for the snapshots of the first one is written behind the caller, so
  // that it holds training no longer than the next ones, which find that of the save before.
  void prepare(const ModelState& model);

  // `snapshots` by unit, of what CheckpointPlace::written says; `best` by unit, of what is resident, or
  // empty.  In an asynchronous save nobody may write to them any more.
  void save(const ModelState& model, const RunState& state, std::vector<UnitState> snapshots,
            std::vector<UnitState> best);
  // Nothing of this rank is under way: its files are durable, or failed.  Cheap; no communication.
  bool written() const;
  // Starts the commit of a save that is written() on every rank: the caller has asked all of them.
  void advance();
  // The save under way, if any, is committed on return, and its memory, or what prepare() made, is free.
  void finish();

  struct Restored {
    RunState state;
    std::vector<UnitState> best;  // empty when there was none
  };
  // From the newest valid checkpoint (or [checkpoint] load_step), whatever layout saved it; nothing when
  // there is none.  Rank 0 chooses and checks every byte, the others what they read.  Damaged ones are named
  // on the log and passed over.  Error{failed_precondition}: another recipe under `strict`; Error{data_loss}:
  // all damaged.
  std::optional<Restored> restore(ModelState& model) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace furrow::train
