// Discrete-event simulation of programs by the executor's rules: what a step takes before it runs.
//
// An instruction starts when its stream is free, the values that it reads are there, and communication that
// touches its slots has landed (train/executor: one thread walks the list and waits only there).
// Communication goes on beside, one after the other on a rank, transfers of pipelines on a lane of their own
// for each peer and direction, copies between a device and its host on another; what runs at the same time on
// the same wires shares them evenly.
//
// Of a device that computes behind the thread (Costs::launch_seconds) an instruction takes both: the device
// begins once it is free, and is done no sooner than the thread has told it the last of it; the thread goes
// on as soon as it has told, but waits where it reads a result.  What flies follows what the device was told
// before.  A step then begins as in the middle of a run, behind what the step before it has left to the
// device.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "furrow/base/memory.h"
#include "furrow/plan/cost.h"
#include "furrow/plan/program.h"

namespace furrow::plan {

// When an instruction ran.
struct SimulatedSpan {
  int32_t program = 0;      // index in the list that was simulated
  int32_t instruction = 0;  // index in the program
  double start_s = 0;
  double end_s = 0;
  bool launch = false;  // of the thread, where the device has a span of its own for the instruction
};

// Bytes that live on a rank after an instruction, by MemoryKind: verify()'s figures over time.
struct MemoryPoint {
  double time_s = 0;
  int32_t instruction = 0;
  std::array<int64_t, kMemoryKinds> bytes{};
};

struct SimulatedRank {
  int rank = 0;          // of the world
  double end_s = 0;      // of its last instruction
  double compute_s = 0;  // its compute stream was at work: the device, where one is behind the thread
  double exposed_s = 0;  // ... or waited for communication
  double copying_s = 0;  // ... or for copies between the device and its host
  double bubble = 0;  // 1 - compute within [first forward, last weight gradient] over that time, of all ranks
  int64_t received_bytes = 0;
  std::array<int64_t, kMemoryKinds> peak_bytes{};  // as verify()
  int64_t peak_total_bytes = 0;  // most that lives at once, all kinds but what is on the host
};

struct ResourceUse {
  std::string name;  // "host 0 network"
  int64_t bytes = 0;
  double busy_s = 0;
};

struct Simulation {
  double step_s = 0;  // until the last rank has ended
  double bubble = 0;  // 1 - computing / (ranks x makespan), first forward to last weight gradient
  double exposed_communication = 0;              // share of step_s in which a rank only waited, mean
  double exposed_copies = 0;                     // ... for copies between its device and the host
  int64_t wire_bytes = 0;                        // received by all ranks of the world
  double cost = 0, spot_cost = 0;                // of a step; 0 where the cluster has no price
  std::vector<SimulatedRank> ranks;              // as the programs
  std::vector<ResourceUse> resources;            // of the simulated ranks
  std::vector<SimulatedSpan> spans;              // only if asked for; by start
  std::vector<std::vector<MemoryPoint>> memory;  // by program, only if asked for
};

struct SimulateOptions {
  bool timeline = false;
  bool memory = false;
};

// The ranks whose programs are simulated: all of a small world, which need not do the same at the same time
// and meet on wires; of a larger one those of one data coordinate, one a stage, in the order of stages.
std::vector<int> simulated_ranks(const Layout& layout);

// `programs`: of all ranks of a world, or of representatives that differ in pp alone, one a stage: data ranks
// do the same at the same time, so a group is there when its representative is.  Error{failed_precondition}
// when nothing can go on, with the instructions that wait (verify_world finds that before).
// REQUIRES: programs of one world that verify() accepts, of one model.
Simulation simulate(std::span<const Program> programs, const ModelSpec& spec, const Costs& costs,
                    const SimulateOptions& options = {});

}  // namespace furrow::plan
