// Measured costs of one machine: `furrow profile` writes them, the planner and every run read them.
// docs/formats/profile.md.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/plan/cluster.h"
#include "furrow/plan/cost.h"
#include "furrow/plan/model_spec.h"

namespace furrow::plan {

// One unit, one kind of work, one number of samples.
struct UnitSample {
  std::string kind;  // work_kind()
  std::string key;   // work_key()
  Work work = Work::kForward;
  int64_t samples = 0;  // of the microbatch
  double flops = 0;     // of all samples, as roofline_of()
  double bytes = 0;     // the same
  double seconds = 0;
  double launch_s = 0;  // of the thread that tells a device of it, which `seconds` are of; 0: of no device
  friend bool operator==(const UnitSample&, const UnitSample&) = default;
};

// A step of parameters by the host's kernels, where a device computes and its optimizer's state is on the
// host.
inline constexpr std::string_view kHostStep = "host_step";

// Work by bytes: "step", "add", ... over flat buffers, "load" of a batch, "loss" of the last unit's output.
struct FlatSample {
  std::string op;
  int64_t bytes = 0;
  double seconds = 0;
  double launch_s = 0;  // as of a unit
  friend bool operator==(const FlatSample&, const FlatSample&) = default;
};

// Seconds from when the last rank has come to it.
struct MovementSample {
  std::string name;  // of an operation as steps run it, "gather_params"; else movement_name(): nothing but it
  int ranks = 0;
  int64_t bytes = 0;  // S
  double seconds = 0;
  friend bool operator==(const MovementSample&, const MovementSample&) = default;
};

// What computed: [training] device.
struct ProfiledDevice {
  std::string type = "cpu";  // "cuda", "composed"
  std::string name = {};     // "NVIDIA H100 80GB HBM3"; of a CPU that of the machine
  int64_t memory_bytes = 0;  // of its own; 0: the host's
  friend bool operator==(const ProfiledDevice&, const ProfiledDevice&) = default;
};

// With so many ranks at work at the same time, which share memory and caches, each with so many threads.
struct ProfileSection {
  int ranks = 1;
  int threads = 1;
  double overhead_s = 0;  // of an instruction that does nothing
  std::vector<UnitSample> units;
  std::vector<FlatSample> flats;
  std::vector<MovementSample> movements;
  int64_t workspace_bytes = 0;  // Costs::workspace_bytes
  ProfiledDevice device = {};
  friend bool operator==(const ProfileSection&, const ProfileSection&) = default;
};

struct Profile {
  std::string machine;  // processor and cores, for people
  std::string build;    // of the library that computed
  std::vector<ProfileSection> sections;
  friend bool operator==(const Profile&, const Profile&) = default;

  // Measured on such a device (without a name: on any of the type) with so many ranks, else with the nearest
  // number above, else below; null: there is none.
  const ProfileSection* section(int ranks, const ProfiledDevice& device = {}) const;
};

// A device of its own memory as the section has it: the highest rates that were reached, so that other sizes
// take the proportion of their neighbours.
DeviceSpec measured_device(const ProfileSection& section);

// What makes two units cost the same: kind, attributes, borders and shapes of parameters, not names.  One
// word.
std::string unit_key(const Unit& unit);
std::string work_key(const UnitWork& work);  // the same; marked where backward_input makes no gradient
// "linear"; "linear.bfloat16" where it computes in less, "linear.tp2" where two ranks share it.
std::string work_kind(const Unit& unit);

// Puts what `newer` has measured into `into`, in place of what it measured of the same before.
void merge_profile(const Profile& newer, Profile* into);

// parse_profile(to_text(p)) == p.  Error{data_loss}: not a profile, or of a later version; names the line.
std::string to_text(const Profile& profile);
Profile parse_profile(std::string_view text);

}  // namespace furrow::plan
