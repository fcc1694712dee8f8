// Measured costs of one machine: `furrow profile` writes them, the planner reads them.
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
  std::string kind;  // of the unit
  std::string key;   // its attributes and border shapes: unit_key()
  Work work = Work::kForward;
  int64_t samples = 0;  // of the microbatch
  double flops = 0;     // of all samples
  double bytes = 0;     // roofline bytes of all samples, parameters once
  double seconds = 0;   // median
};

struct FlatSample {
  std::string op;  // "step", "add", "measure"
  int64_t bytes = 0;
  double seconds = 0;
};

struct MovementSample {
  Movement movement = Movement::kAllGather;
  int ranks = 0;
  int64_t bytes = 0;  // S
  double seconds = 0;
};

struct Profile {
  std::string machine;  // name of the processor, cores
  std::string build;    // of the library that computed
  int threads = 1;      // of a rank
  int ranks = 1;        // that computed at the same time, as ranks of a step do
  double overhead_s = 0;
  double load_s_per_byte = 0;
  std::vector<UnitSample> units;
  std::vector<FlatSample> flats;
  std::vector<MovementSample> movements;
};

// What makes two units cost the same: attributes, borders and shapes of parameters, not names.
std::string unit_key(const Unit& unit);

// parse_profile(to_json(p)) == p in every figure.  Error{data_loss}: no profile, or of a later version.
std::string to_json(const Profile& profile);
Profile parse_profile(std::string_view text);

}  // namespace furrow::plan
