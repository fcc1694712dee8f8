#include <algorithm>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/plan/buckets.h"
#include "furrow/plan/live_memory.h"
#include "furrow/plan/simulator.h"
#include "furrow/plan/value_index.h"

namespace furrow::plan::simulation {
namespace {

class Loader {
 public:
  Loader(const Program& program, const ModelSpec& spec, const Costs& costs, int represents)
      : program_(program),
        spec_(spec),
        costs_(costs),
        rows_(costs, spec, program, represents),
        memory_(program, spec,
                [this](const Value& value) -> const Slot& { return program_.slots[slot_of(value)]; }) {
    for (const SlotAssignment& assignment : program.assignments) {
      homes_.add(assignment.value);
      slots_.push_back(assignment.slot);
    }
  }

  LoadedProgram load() {
    LoadedProgram loaded;
    loaded.program = &program_;
    const std::vector<int32_t> ends = run_ends(flat_layout(spec_), program_);
    for (size_t i = 0; i < ends.size(); ++i)
      loaded.steps.push_back(step(program_.instructions[i], ends[i] == static_cast<int32_t>(i)));
    loaded.persistent = memory_.persistent();
    loaded.host_optimizer = flat_layout(spec_).offloads();
    return loaded;
  }

 private:
  int32_t slot_of(const Value& value) const {
    const int32_t found = homes_.find(value);
    FURROW_CHECK(found >= 0, "a value without a slot");
    return slots_[found];
  }

  // `last`: of the instructions of its collective, which it starts.
  Step step(const Instruction& instruction, bool last) {
    Step step;
    step.instruction = &instruction;
    const Work work = work_of(instruction.op);
    step.flies = work == Work::kCommunication || work == Work::kCopy;
    touch(instruction);
    if (last) step.touches = std::exchange(touches_, {});
    const LiveMemory::Change change = memory_.apply(instruction);
    step.written = change.written;
    step.dropped = change.dropped;
    if (work == Work::kCopy) {
      copy(instruction, &step);
    } else if (step.flies) {
      add(rows_.moved(instruction));
      step.flies = last;
      if (last) communicate(instruction, std::exchange(moved_, {}), &step);
    } else {
      const Lanes lanes = rows_.lanes(instruction);
      step.seconds = lanes.thread_s;
      step.device_s = lanes.device_s;
      step.awaited = lanes.awaited;
      communicate_inside(instruction, &step);
    }
    return step;
  }

  // Ranks of a tensor axis do the same at the same time: nobody waits for another, and their wires are shared
  // with their like alone.
  void communicate_inside(const Instruction& instruction, Step* step) const {
    for (Moved& moved : rows_.inside(instruction)) {
      moved.call.ranks = moved.members;
      step->inside_s += seconds_of(costs_.legs(moved.call));
      step->self_bytes += moved.self_bytes;
      step->mean_bytes += moved.mean_bytes;
    }
    step->seconds += step->inside_s;
    step->awaited |= step->inside_s > 0 && step->device_s > 0;
  }

  // By the device itself, on a wire that it shares with nobody.
  void copy(const Instruction& instruction, Step* step) {
    const int rank = program_.placement.rank;
    step->legs = {{-1, rows_.seconds(instruction), rows_.work_bytes(instruction)}};
    step->lane.copies = true;
    step->key = {GroupAxis::kNone, rank, -1, 0};
    step->key.sequence = sequence_[step->key]++;
    step->members = {rank};
  }

  void touch(const Instruction& instruction) {
    for (const auto* values : {&instruction.reads, &instruction.writes}) {
      for (const Value& value : *values) {
        const int32_t slot = slot_of(value);
        if (std::ranges::find(touches_, slot) == touches_.end()) touches_.push_back(slot);
      }
    }
  }

  // One more instruction of the collective, which brings its bytes and no round of its own.
  void add(Moved moved) {
    moved.call.bytes += moved_.call.bytes;
    moved.self_bytes += moved_.self_bytes;
    moved.mean_bytes += moved_.mean_bytes;
    moved.landing_bytes += moved_.landing_bytes;
    moved_ = std::move(moved);
  }

  void communicate(const Instruction& instruction, Moved moved, Step* step) {
    if (moved.members.size() < 2) {  // nothing comes of this round yet
      step->flies = false;
      return;
    }
    moved.call.ranks = moved.members;
    step->legs = costs_.legs(moved.call);
    step->self_bytes = moved.self_bytes;
    step->mean_bytes = moved.mean_bytes;
    step->waits_to_land = moved.waits_to_land;
    if (moved.landing_bytes > 0) step->seconds = costs_.flat_seconds(Op::kAdd, moved.landing_bytes);
    step->key = {instruction.axis, moved.members.front(), -1, 0};
    if (op_info(instruction.op).has_peer) {
      step->lane = {instruction.peer, instruction.op == Op::kRecv};
      step->key.receiver = moved.members.back();
    } else {
      step->inlined = runs_inline(moved);
    }
    step->key.sequence = sequence_[step->key]++;
    step->members = std::move(moved.members);
  }

  // A transfer may wait long for its other end, so that only collectives do.
  bool runs_inline(const Moved& moved) const {
    const Cluster& cluster = costs_.cluster();
    const int host = cluster.host_of(program_.placement.rank);
    const bool inside =
        std::ranges::all_of(moved.members, [&](int member) { return cluster.host_of(member) == host; });
    return (inside && cluster.inline_inside) || moved.call.bytes <= cluster.inline_bytes;
  }

  const Program& program_;
  const ModelSpec& spec_;
  const Costs& costs_;
  const ProgramCosts rows_;
  LiveMemory memory_;
  ValueIndex homes_;
  std::vector<int32_t> slots_;
  std::map<FlowKey, int> sequence_;
  std::vector<int32_t> touches_;  // of the collective so far
  Moved moved_;                   // the same
};

}  // namespace

LoadedProgram load_program(const Program& program, const ModelSpec& spec, const Costs& costs,
                           int represents) {
  return Loader(program, spec, costs, represents).load();
}

}  // namespace furrow::plan::simulation
