// What instructions take: of a unit by FLOPs and bytes, or as measured (plan/profile.h).
//
// A table, plan/cost_table.cc, says of every operation what kind of work it is: a new operation is a row.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "furrow/plan/cluster.h"
#include "furrow/plan/flat_layout.h"
#include "furrow/plan/model_spec.h"
#include "furrow/plan/program.h"

namespace furrow::plan {

struct Profile;

enum class Work : uint8_t {
  kForward,  // of a unit on a microbatch; recompute too
  kBackwardInput,
  kBackwardWeight,
  kLoss,   // loss or metrics of the last unit's output
  kBatch,  // read, decode, copy a batch
  kFlat,   // elementwise over flat buffers: add, step, measure, snapshot; by bytes read and written
  kCommunication,
  kNothing,  // a few scalars
};
Work work_of(Op op);

// Of one unit, one microbatch.
struct UnitWork {
  const Unit* unit = nullptr;
  Work work = Work::kForward;
  int64_t samples = 0;
  bool input_gradient = true;  // kBackwardInput of a unit with nothing to train below has only its local work
  int tensor_degree = 1;
};

// Thread safe; immutable.
class Costs {
 public:
  virtual ~Costs() = default;
  virtual const Cluster& cluster() const = 0;
  virtual std::string source() const = 0;  // "analytic", "profiled"
  virtual double unit_seconds(const UnitWork& work) const = 0;
  virtual double flat_seconds(Op op, int64_t bytes) const = 0;                     // bytes read and written
  virtual double batch_seconds(const ModelSpec& spec, int64_t samples) const = 0;  // of `load`
  virtual double loss_seconds(const ModelSpec& spec, int64_t samples) const = 0;
  virtual double overhead_seconds() const = 0;  // of every instruction, besides
  virtual std::vector<Leg> legs(const MovementCall& call) const = 0;
};

// Roofline: the longer of FLOPs at the device's peak of `compute` times its stated efficiency, and of bytes
// (input, output, saved, parameters) at the rate of its memory.
std::unique_ptr<Costs> analytic_costs(Cluster cluster, DType compute = DType::kF32);

// Measured where the profile has it (by kind and attributes, interpolated over samples; other sizes of the
// same kind by their FLOPs and bytes), analytic otherwise, in the profile's proportion.
std::unique_ptr<Costs> profiled_costs(Cluster cluster, Profile profile, DType compute = DType::kF32);

// Instructions of programs of one model, for the simulator and the planner.
class ProgramCosts {
 public:
  // REQUIRES: `costs` and `spec` outlive it; a validated spec.
  ProgramCosts(const Costs& costs, const ModelSpec& spec);

  // On compute or copy; REQUIRES: no communication.
  double seconds(const Program& program, const Instruction& instruction) const;
  // Of a communication instruction, for the program's rank.
  std::vector<Leg> legs(const Program& program, const Instruction& instruction) const;
  // Payload that the program's rank receives.
  int64_t received_bytes(const Program& program, const Instruction& instruction) const;

 private:
  const Costs& costs_;
  const ModelSpec& spec_;
  FlatLayout flat_;
};

}  // namespace furrow::plan
