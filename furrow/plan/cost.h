// What instructions take: of a unit by FLOPs and bytes, or as measured (plan/profile.h).
//
// A table, plan/cost_table.cc, says of every operation what kind of work it is: a new operation is a row.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/plan/cluster.h"
#include "furrow/plan/flat_layout.h"
#include "furrow/plan/model_spec.h"
#include "furrow/plan/program.h"

namespace furrow::plan {

struct ProfileSection;

enum class Work : uint8_t {
  kForward,  // of a unit on a microbatch; recompute too
  kBackwardInput,
  kBackwardWeight,
  kLoss,   // loss or metrics of the last unit's output
  kBatch,  // read, decode, copy a batch
  kFlat,   // elementwise over flat buffers: add, step, measure, snapshot; by bytes read and written
  kCopy,   // between a device and its host, by bytes
  kCommunication,
  kNothing,  // a few scalars
};
Work work_of(Op op);

// Who does the work where a device computes behind the rank's own thread, which tells it what to do.  On a
// CPU the thread does all of it.
enum class Place : uint8_t {
  kThread,   // the thread alone
  kDevice,   // the device, once it is free
  kAwaited,  // the device, and the thread waits until it is done
};
Place place_of(Op op);
Movement movement_of(UnitCollective::Op op);
std::string_view inside_name(UnitCollective::Op op);  // MovementCall::operation of one inside a unit

// Of one unit, one microbatch.
struct UnitWork {
  const Unit* unit = nullptr;
  Work work = Work::kForward;
  int64_t samples = 0;
  bool input_gradient = true;  // kBackwardInput of a unit with nothing to train below has only its local work
};

// Thread safe; immutable.
class Costs {
 public:
  virtual ~Costs() = default;
  virtual const Cluster& cluster() const = 0;
  virtual std::string source() const = 0;  // "analytic", "profiled"
  virtual double unit_seconds(const UnitWork& work) const = 0;
  virtual double flat_seconds(Op op, int64_t bytes) const = 0;  // bytes read and written
  virtual double batch_seconds(int64_t bytes) const = 0;        // of the batch, which a loader has ready
  virtual double loss_seconds(int64_t bytes) const = 0;         // of the last unit's output
  virtual double overhead_seconds() const = 0;  // of every instruction, included in the others already
  // Of a device that computes behind the rank's own thread, what that thread takes to tell it of the work;
  // the seconds above are then the device's alone.  None: the thread does the work.  `op`: "step", "add",
  // "loss".
  virtual std::optional<double> launch_seconds(const UnitWork& /*work*/) const { return std::nullopt; }
  virtual std::optional<double> launch_seconds(std::string_view /*op*/, int64_t /*bytes*/) const {
    return std::nullopt;
  }
  // Scratch memory of a rank besides the values of a program: of its kernels, which reserve a block for each
  // of its threads (0: as many as the device has), and of its communication; of one that does not multiply,
  // such as a stage of a table alone, of its communication.
  virtual int64_t workspace_bytes(bool multiplies = true, int threads = 0) const = 0;
  virtual std::vector<Leg> legs(const MovementCall& call) const = 0;
};

// Roofline: the longer of FLOPs at the device's peak times its stated efficiency, and of bytes (input,
// output, saved, parameters) at the rate of its memory.  The peak is that of the type that the unit computes
// in; `compute` instead of float32.
std::unique_ptr<Costs> analytic_costs(Cluster cluster, DType compute = DType::kF32);

// Measured where the section has it (by kind and attributes, interpolated over samples), in the proportion of
// measured neighbours to analytic where it has the kind in other sizes, analytic otherwise.
std::unique_ptr<Costs> profiled_costs(Cluster cluster, const ProfileSection& section,
                                      DType compute = DType::kF32);

// On the wire between a device and its host, and of a step by the host, which its devices share.
double host_copy_seconds(const Costs& costs, int64_t bytes);
double host_step_seconds(const Costs& costs, int64_t bytes);  // bytes read and written

// What a communication instruction moves, as every member of its group knows it.
struct Moved {
  MovementCall call;  // without its ranks: `members`
  std::vector<int> members;
  int64_t self_bytes = 0;      // payload that the program's rank receives
  double mean_bytes = 0;       // ... and a member of the group in the mean
  int64_t landing_bytes = 0;   // flat bytes that the rank's own thread adds up once it has arrived
  bool waits_to_land = false;  // something is left to do on that thread
};

// The two lanes of an instruction that does not fly.
struct Lanes {
  double thread_s = 0;   // the rank's own thread: all of it, or telling the device
  double device_s = 0;   // the device, behind the thread
  bool awaited = false;  // the thread goes on once the device is done
};

// The instructions of one program.
class ProgramCosts {
 public:
  // REQUIRES: all arguments outlive it; a verified program.  `represents`: how many ranks of the world the
  // program stands for.
  ProgramCosts(const Costs& costs, const ModelSpec& spec, const Program& program, int represents);

  // Work of the rank's own thread; of a copy, of the device's.  REQUIRES: no communication.
  double seconds(const Instruction& instruction) const;
  // The same by who does it.  REQUIRES: neither communication nor a copy.
  Lanes lanes(const Instruction& instruction) const;
  // REQUIRES: communication.
  Moved moved(const Instruction& instruction) const;
  // What work of the rank's own thread moves over the tensor axis on its way, in order (plan/tensor_cut.h).
  std::vector<Moved> inside(const Instruction& instruction) const;

  // What the instruction does to a unit; REQUIRES: its work is that of a unit.
  UnitWork unit_work(const Instruction& instruction) const;
  // A step whose optimizer state is the host's, which makes it.
  bool steps_on_host(const Instruction& instruction) const;
  // Bytes by which kBatch, kLoss and kFlat are costed.
  int64_t work_bytes(const Instruction& instruction) const;

 private:
  // Gradient nodes that the members of a group bring to an exchange.
  struct Nodes {
    std::vector<int64_t> by_member;
    int64_t all = 0, most = 0;
    size_t self = 0;
    bool plain = false;
  };

  std::optional<double> launch_seconds(const Instruction& instruction) const;
  int64_t bytes_of(const Value& value) const;
  int64_t flat_bytes(const Instruction& instruction) const;
  const Nodes& nodes_of(const Instruction& instruction) const;
  Moved exchange(const Instruction& instruction) const;
  Moved transfer(const Instruction& instruction) const;
  Moved gather(const Instruction& instruction) const;
  Moved sums(const Instruction& instruction) const;
  int sharers(const std::vector<int>& members) const;

  const Costs& costs_;
  const ModelSpec& spec_;
  const Program& program_;
  FlatLayout flat_;
  int represents_;
  mutable std::map<std::array<int32_t, 3>, Nodes> nodes_;  // by axis and range: not thread safe
};

}  // namespace furrow::plan
