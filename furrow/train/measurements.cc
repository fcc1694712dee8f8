#include "furrow/train/measurements.h"

#include <algorithm>

#include "furrow/plan/program.h"
#include "furrow/plan/roofline.h"
#include "furrow/train/median.h"

namespace furrow::train {
namespace {

constexpr double kLeastLaunch = 1e-9;  // of what a device does; 0 is of no device

std::string name_of(plan::Op op) { return std::string(plan::op_info(op).name); }

}  // namespace

double Measurements::Measured::seconds() const { return median(device.empty() ? thread : device); }

// What is awaited lasts on the device until the thread has it: telling is what it takes longer alone.
double Measurements::Measured::launch_s() const {
  if (device.empty()) return 0;
  const double alone = median(thread);
  return std::max(kLeastLaunch, place == plan::Place::kAwaited ? alone - seconds() : alone);
}

Measurements::Measured& Measurements::of_unit(const plan::UnitWork& done) {
  const plan::Roofline roofline = plan::roofline_of(done);
  Unit& unit = units_[{plan::work_kind(*done.unit), plan::work_key(done), done.work, done.samples}];
  unit.flops = roofline.flops;
  unit.bytes = roofline.bytes;
  return unit.measured;
}

// Null: nothing is kept of it.
Measurements::Measured* Measurements::of_buffer(const plan::ProgramCosts& rows,
                                                const plan::Instruction& instruction) {
  const plan::Work work = plan::work_of(instruction.op);
  // Of a part of the classes it is other work, and a small share of a step.
  if (work == plan::Work::kLoss && !rows.inside(instruction).empty()) return nullptr;
  if (work == plan::Work::kNothing) {
    const bool launched = behind_ && plan::place_of(instruction.op) != plan::Place::kThread;
    return launched ? &flats_[{name_of(instruction.op), 0}] : nullptr;
  }
  const bool host = rows.steps_on_host(instruction);
  return &flats_[{host ? std::string(plan::kHostStep) : name_of(instruction.op),
                  rows.work_bytes(instruction)}];
}

Measurements::Measured* Measurements::of(const plan::ProgramCosts& rows,
                                         const plan::Instruction& instruction) {
  Measured* measured = nullptr;
  switch (plan::work_of(instruction.op)) {
    case plan::Work::kCommunication:
    case plan::Work::kCopy:
      return nullptr;
    case plan::Work::kForward:
    case plan::Work::kBackwardInput:
    case plan::Work::kBackwardWeight:
      measured = &of_unit(rows.unit_work(instruction));
      break;
    default:
      measured = of_buffer(rows, instruction);
  }
  if (measured != nullptr) measured->place = plan::place_of(instruction.op);
  return measured;
}

void Measurements::add(const plan::ProgramCosts& rows, const plan::Instruction& instruction, double seconds) {
  const plan::Work work = plan::work_of(instruction.op);
  if (work == plan::Work::kCopy) {
    add_movement(name_of(instruction.op), 1, rows.work_bytes(instruction), seconds);
  } else if (Measured* const measured = of(rows, instruction)) {
    measured->thread.push_back(seconds);
  } else if (work == plan::Work::kNothing) {
    overheads_.push_back(seconds);
  }
}

void Measurements::add_of_device(const plan::ProgramCosts& rows, const plan::Instruction& instruction,
                                 double seconds) {
  if (plan::place_of(instruction.op) == plan::Place::kThread || rows.steps_on_host(instruction)) return;
  if (Measured* const measured = of(rows, instruction)) measured->device.push_back(seconds);
}

void Measurements::add_movement(const plan::Moved& moved, double seconds) {
  const plan::MovementCall& call = moved.call;
  add_movement(call.operation, static_cast<int>(moved.members.size()), call.bytes / call.messages,
               seconds / static_cast<double>(call.messages));
}

void Measurements::add_movement(std::string_view name, int ranks, int64_t bytes, double seconds) {
  moves_[{std::string(name), ranks, bytes}].push_back(seconds);
}

void Measurements::give(plan::ProfileSection* section) const {
  if (!overheads_.empty()) section->overhead_s = median(overheads_);
  for (const auto& [key, unit] : units_) {
    const auto& [kind, name, work, samples] = key;
    if (unit.measured.thread.empty()) continue;
    section->units.push_back({kind, name, work, samples, unit.flops, unit.bytes, unit.measured.seconds(),
                              unit.measured.launch_s()});
  }
  for (const auto& [key, measured] : flats_) {
    if (!measured.thread.empty())
      section->flats.push_back({key.first, key.second, measured.seconds(), measured.launch_s()});
  }
  for (const auto& [key, seconds] : moves_) {
    const auto& [name, ranks, bytes] = key;
    section->movements.push_back({name, ranks, bytes, median(seconds)});
  }
}

}  // namespace furrow::train
