// A program while it is made.  Internal to plan: generators append to it, passes rewrite it, in the order
// that compile.cc shows.  Of a step with phases it is one phase after the other.
//
// Ranks of a shard group communicate after every turn, and one of them may be without a microbatch in the
// last one.  Its draft has the instructions of that turn all the same, as ghosts: passes see the same list on
// every rank of the group, so communication has the same order there.  finish() drops the ghosts.
#pragma once

#include <string>
#include <vector>

#include "furrow/plan/compile.h"
#include "furrow/plan/unit_facts.h"

namespace furrow::plan {

struct DraftInstruction {
  Instruction instruction;
  int32_t turn = -1;                 // which of the rank's microbatches, counted from 0; -1: none
  std::vector<Value> releases = {};  // sent before, known to have arrived once this runs
  bool ghost = false;  // of a turn in which the rank has no microbatch: microbatch -1, values without meaning
};

struct Draft {
  // REQUIRES: a spec that outlives the draft.  Error{invalid_argument}: a bad spec.
  Draft(const ModelSpec& spec, const Placement& placement, std::string name, std::vector<int64_t> sizes,
        StateForms states);

  const ModelSpec& spec;
  ModelFacts facts;
  Program program;  // header, inputs and outputs; instructions come from `list` at the end
  std::vector<DraftInstruction> list;
  int32_t phase = 0;                       // which generators and passes work on
  int32_t turns = 0;                       // of the rank, with ghosts
  std::vector<int32_t> gathers = {};       // by unit: how many there are in the phases so far
  std::vector<Value> unacknowledged = {};  // sent, and kept until all ranks meet

  const Placement& placement() const { return program.placement; }
  int32_t units() const { return static_cast<int32_t>(spec.units.size()); }
  int32_t microbatches() const { return static_cast<int32_t>(program.microbatch_sizes.size()); }

  Instruction& emit(Op op, int32_t unit = -1);
  Instruction& emit_comm(Op op, int32_t unit, GroupAxis axis);

  // Whether units have optimizer state, masters counted; of a unit without any it is empty.
  bool has_state() const { return !program.states.empty() || facts.flat.has_masters(); }

  // Whether the program trains with loss scales, one a phase.
  bool scales_loss() const { return facts.scales_loss && program.name == "train"; }

  // loss_scale of every phase where the program has it, and params(u,version), state(u,version) and
  // stats(u,version) of every unit that has them, as this rank holds them; of parameters of another rank's
  // unit that one of its units ties, params alone; version 0 of what the program never writes: frozen
  // parameters, and statistics but for training.
  std::vector<Value> kept(int32_t version, bool with_state) const;

  // What is stepped with, cut to a part.  REQUIRES: the unit steps.
  Value final_of(int32_t unit, Part part) const;
};

// Generators.
// load, forward, loss, backward, send, recv
void generate_training(const PipelineOptions& pipeline, const std::vector<bool>& recompute, Draft* draft);
void generate_evaluation(const PipelineOptions& pipeline,
                         Draft* draft);  // load, forward, evaluate, send, recv; "predict": no evaluate
void generate_measure(bool gradients, Draft* draft);  // measure, and reduce_scalar where there are ranks
void generate_step(Draft* draft);                     // add_tied, measure, clip, step of the phase's units
void generate_swaps(Draft* draft);                    // swap_average
void generate_snapshots(Draft* draft);

// Passes.
void gather_statistics(Draft* draft);                   // over the data ranks, after the last forward
void add_and_reduce(Draft* draft);                      // gradients: along the tree, over the ranks
void gather_parameters(Reshard reshard, Draft* draft);  // ZeRO-3: gathered parameters in place of whole ones
void prefetch_gathers(int units, Draft* draft);         // ZeRO-3: gathers ahead of their first use
void round_gradients(Draft* draft);                     // gradients of 16 bits: round and widen

}  // namespace furrow::plan
