// What a run's steps are predicted to take and to hold, from its programs, its machine and its profile.
// Torch-free.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "furrow/base/memory.h"
#include "furrow/comm/link.h"
#include "furrow/comm/transport.h"
#include "furrow/config/config.h"
#include "furrow/observe/prediction.h"
#include "furrow/observe/timeline_chart.h"
#include "furrow/observe/trace.h"
#include "furrow/plan/compile.h"
#include "furrow/plan/cost.h"
#include "furrow/plan/model_spec.h"
#include "furrow/plan/profile.h"
#include "furrow/plan/quote.h"
#include "furrow/plan/simulate.h"
#include "furrow/train/rank_context.h"

namespace furrow::train {

// The file that `furrow profile` writes: FURROW_PROFILE, else furrow/profile in the user's configuration
// folder.
std::string profile_file();

// The machine that ranks run on.
struct Machine {
  int cores = 1;  // of a host, that its ranks use together
  int ranks = 1;  // of a host
  int hosts = 1;
  int64_t inline_bytes = 16 * 1024;  // communication up to this size is the work of the rank's own thread
  comm::LinkSpec throttle = {};
  plan::ProfiledDevice device = {};  // without a name: any of its type
};

Machine machine_of(const RankContext& rank, const config::Config& config);

// This machine with `ranks` ranks, as `furrow train --nproc` starts them: each on its share of the cores, or
// on a device of this [training] device.
Machine local_machine(int ranks, const config::Comm& comm, const std::string& device = "cpu");

// As measured where there is a profile, else of a CPU analytic.  An unreadable profile: Error{data_loss} with
// its name; a device of which there is none: Error{failed_precondition}, which says how to measure it.
std::unique_ptr<plan::Costs> machine_costs(const Machine& machine, const std::string& profile_path);

// Those of plan::simulated_ranks.
std::vector<plan::Program> programs_of_world(const plan::ModelSpec& spec, const plan::Layout& layout,
                                             plan::TrainOptions options);

inline constexpr std::string_view kDeviceSums = "slices of other ranks, added on the device";

// What lives besides the values of a step.
struct Resident {
  int64_t data_bytes = 0;       // of the opened data set
  int64_t data_peak_bytes = 0;  // while it was opened
  int prefetch = 0;             // batches that the loader keeps ready
  int validation_batches = 0;   // beside them, while the model is validated
  int64_t best_bytes = 0;       // copies of the best model
  int64_t snapshot_bytes = 0;   // of a save behind training
  int64_t workspace_bytes = 0;  // plan::Costs::workspace_bytes
  int64_t sums_bytes = 0;       // plan::device_sums_bytes, of the name kDeviceSums
  int64_t passing_bytes = 0;    // of a parameter in float32 at the start: rounded, or on its way to a device
};

// The device of a type that the profile has; else the type alone.  Error{data_loss}: as above.
plan::ProfiledDevice profiled_device(const std::string& type, const std::string& profile_path);

// What of planned memory lies where a device's does: of one with memory of its own all but data and
// checkpoints, and, with `offload`, but the optimizer's; else all of it, the host's.
int64_t bytes_on(const plan::ProfiledDevice& device, const std::array<int64_t, kMemoryKinds>& by_kind,
                 bool offload);

// Error{resource_exhausted}: more is planned than the device has, or, without memory of its own, the host.
void check_fits(int64_t planned_bytes, const plan::ProfiledDevice& device);

// Does the program compute a unit with FLOPs?  A table is looked up.
bool multiplies(const plan::Program& program, const plan::ModelSpec& spec);

// What a rank is to hold: peaks by kind that verify() reports of the program, with what is resident.
struct PlannedMemory {
  std::array<int64_t, kMemoryKinds> bytes{};
  std::vector<plan::MemoryItem> items;  // the parts of it that have a name
  plan::MemoryFormula formula;
};
PlannedMemory planned_memory(const plan::Program& program, const plan::ModelSpec& spec,
                             const Resident& resident);

// A kind of it that is not empty, as the header of a run and `furrow plan` print it.
struct MemoryLine {
  MemoryKind kind = MemoryKind::kOther;
  int64_t bytes = 0;
  std::optional<double> formula;  // of parameters, gradients and optimizer
  std::string items;              // "final 1.6 MiB, nodes and exchanges 2.4 MiB"; empty where it is one
};
std::vector<MemoryLine> memory_lines(const PlannedMemory& planned);

observe::StepFigures figures_of(const plan::Simulation& simulation);  // all but memory

// The lane of an instruction in traces: "compute", "copy", "comm", "to 1", "from 1".
std::string lane_of(const plan::Instruction& instruction);

// The simulated timeline of one program, on lanes "predicted compute" and so on, as if it began at
// `begin_ns`.
std::vector<observe::TraceEvent> trace_of(const plan::Simulation& simulation,
                                          const std::vector<plan::Program>& programs, int32_t program,
                                          int64_t begin_ns);

// What the program held over time, by its simulation with memory.
std::vector<observe::MemoryMoment> memory_of(const plan::Simulation& simulation, int32_t program,
                                             int64_t begin_ns);

}  // namespace furrow::train
