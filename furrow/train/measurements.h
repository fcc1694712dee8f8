// What `furrow profile` has measured, put together by what it is of: a section of a profile.  Torch-free.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "furrow/plan/cost.h"
#include "furrow/plan/profile.h"

namespace furrow::train {

// Of one machine, or one device of it.  One thread.
class Measurements {
 public:
  // `behind`: a device does the work behind the rank's own thread, and both are measured.
  explicit Measurements(bool behind) : behind_(behind) {}

  // What the rank's thread took for an instruction; `rows`: of its program.  REQUIRES: no communication.
  void add(const plan::ProgramCosts& rows, const plan::Instruction& instruction, double seconds);
  // What the device took for it.  Nothing is kept of what the thread, or the host, does.
  void add_of_device(const plan::ProgramCosts& rows, const plan::Instruction& instruction, double seconds);

  void add_movement(const plan::Moved& moved, double seconds);
  void add_movement(std::string_view name, int ranks, int64_t bytes, double seconds);

  // Medians: units, buffers, movements and the overhead.
  void give(plan::ProfileSection* section) const;

 private:
  // What was measured of one thing: on the rank's thread, alone; and on the device behind it.
  struct Measured {
    std::vector<double> thread, device;
    plan::Place place = plan::Place::kThread;

    double seconds() const;
    double launch_s() const;
  };
  struct Unit {
    double flops = 0, bytes = 0;
    Measured measured;
  };

  Measured* of(const plan::ProgramCosts& rows, const plan::Instruction& instruction);
  Measured& of_unit(const plan::UnitWork& done);
  Measured* of_buffer(const plan::ProgramCosts& rows, const plan::Instruction& instruction);

  const bool behind_;
  std::map<std::tuple<std::string, std::string, plan::Work, int64_t>, Unit> units_;  // kind, key, samples
  std::map<std::pair<std::string, int64_t>, Measured> flats_;                        // operation, bytes
  std::vector<double> overheads_;
  std::map<std::tuple<std::string, int, int64_t>, std::vector<double>> moves_;  // name, ranks, bytes
};

}  // namespace furrow::train
