// The inside of simulate(): programs with everything looked up (simulated_program.cc), and communication
// under way (simulated_flows.cc).
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <span>
#include <vector>

#include "furrow/plan/cost.h"
#include "furrow/plan/program.h"
#include "furrow/plan/simulate.h"

namespace furrow::plan::simulation {

// What runs in which order on a rank: collectives one after the other on lane {-1, false}; transfers on one
// lane for each peer and direction; copies between the device and its host on one.
struct Lane {
  int peer = -1;
  bool receives = false;
  bool copies = false;
  friend auto operator<=>(const Lane&, const Lane&) = default;
};

// Which communication of several programs is one: the n-th of a group, or from one rank to another.  The
// groups of an axis have no rank in common.  A rank's copies are those of a group of its own.
struct FlowKey {
  GroupAxis axis = GroupAxis::kNone;
  int first = 0;      // member; who sends
  int receiver = -1;  // of a transfer
  int sequence = 0;
  friend auto operator<=>(const FlowKey&, const FlowKey&) = default;
};

// An instruction with its slots, time and bytes looked up.
struct Step {
  const Instruction* instruction = nullptr;
  bool flies = false;          // goes on beside the thread that starts it: communication, and copies
  bool inlined = false;        // the thread that starts it carries it out
  bool waits_to_land = false;  // communication after it on its slots waits too
  double seconds = 0;          // of the rank's own thread; of what flies: once it has landed
  double device_s = 0;         // of a device that computes behind the thread
  bool awaited = false;        // the thread goes on once the device is done
  std::vector<int32_t> touches;
  Lane lane;
  FlowKey key;
  std::vector<int> members;
  std::vector<Leg> legs;
  int64_t self_bytes = 0;
  double mean_bytes = 0;
  double inside_s = 0;  // of `seconds`, what the thread communicates over the tensor axis
  std::array<int64_t, kMemoryKinds> written{}, dropped{};  // bytes of what is not persistent
};

struct LoadedProgram {
  const Program* program = nullptr;
  std::vector<Step> steps;
  std::array<int64_t, kMemoryKinds> persistent{};  // flat buffers, all the time
  bool host_optimizer = false;                     // what is the optimizer's lies in the host's memory
};

LoadedProgram load_program(const Program& program, const ModelSpec& spec, const Costs& costs, int represents);

// Communication of all ranks, and what else flies: each waits for its members and for its turn on their
// lanes, then walks its legs, sharing every resource evenly with what else is on it.
class Flows {
 public:
  // `ranks`: which rank of the world each program is.
  Flows(std::vector<int> ranks, size_t resources) : ranks_(std::move(ranks)), load_(resources, 0) {
    lanes_.resize(ranks_.size());
    use_.resize(resources);
  }

  // A rank has come to it; the flow's number.  May finish it at once.  `ready_s`: when what it moves is
  // there, where a device computes behind the rank's thread.
  int32_t arrive(int32_t program, const Step& step, double now, double ready_s = 0);
  bool done(int32_t flow) const { return flows_[flow].end_s >= 0; }
  bool idle(int32_t program, const Lane& lane) const;  // nothing is queued there
  double start_s(int32_t flow) const { return flows_[flow].start_s; }
  double end_s(int32_t flow) const { return flows_[flow].end_s; }

  double next_s(double now) const;  // when the next leg ends if nothing changes; infinity: none
  std::vector<int32_t> advance(double now, double then);  // flows that have ended at `then`

  struct Use {
    int64_t bytes = 0;
    double busy_s = 0;
  };
  const std::vector<Use>& use() const { return use_; }  // by resource

 private:
  struct Flow {
    std::vector<Leg> legs;
    size_t leg = 0;
    double left_s = 0;  // of the leg, alone
    double start_s = -1, end_s = -1;
    int missing = 0;
    double ready_s = 0;
    std::vector<std::pair<int32_t, Lane>> members;  // program, lane
  };

  int present(const std::vector<int>& members) const;
  void try_start(int32_t flow, double now);
  void begin_leg(int32_t flow, double now);
  void finish(int32_t flow, double now);
  double share(const Flow& flow) const;

  std::vector<int> ranks_;
  std::vector<int> load_;  // flows on a resource
  std::vector<Use> use_;
  std::vector<Flow> flows_;
  std::map<FlowKey, int32_t> open_;                         // that not all members have come to
  std::vector<std::map<Lane, std::deque<int32_t>>> lanes_;  // by program
  std::vector<int32_t> active_;
  std::vector<int32_t> held_;  // whose turn it is, and that wait for ready_s
  std::vector<int32_t> ended_;
};

}  // namespace furrow::plan::simulation
