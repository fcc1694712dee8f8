// Pipeline schedules as data: which action each rank of the pipeline performs next.  No clock, no costs: a
// schedule is an order, and what waits for what follows from it.
//
// A stage is a run of units; a turn is one of the microbatches that the data coordinate of the rank has,
// counted from 0.  Forward of a stage needs forward of the stage before it, backward needs its own forward
// and backward of the stage behind it.  Values; all functions are pure and thread safe.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace furrow::plan {

// A turn is backward whole (kBackward), or in two: gradients of inputs first, of weights later.
enum class Phase : uint8_t { kForward, kBackward, kBackwardInput, kBackwardWeight };
inline constexpr std::array<std::string_view, 4> kPhaseLetters = {"F", "B", "I", "W"};  // as in PyTorch's CSV

struct Action {
  Phase phase = Phase::kForward;
  int32_t stage = 0;
  int32_t turn = 0;
  friend auto operator<=>(const Action&, const Action&) = default;
};

std::string to_text(const Action& action);  // "2F0": forward of stage 2, turn 0

struct Schedule {
  std::string name;
  int32_t ranks = 1;   // pipeline_parallel_degree
  int32_t stages = 1;  // all ranks together
  int32_t turns = 1;
  std::vector<int32_t> rank_of_stage;        // pp coordinate
  std::vector<std::vector<Action>> actions;  // by pp coordinate, in order of execution
  friend bool operator==(const Schedule&, const Schedule&) = default;
};

// Every stage forward once and backward once (B, or I and W) per turn, on the rank that has the stage, and no
// action waits for itself: executed in order, each as soon as what it needs is done, no rank stays stuck.
// Error{invalid_argument} names the action, or the whole cycle.
void validate(const Schedule& schedule);

// Most turns that each rank holds activations of: from F to B, or to W where backward is in two (saved
// activations may go earlier, at I; what the weights need stays).  Stages count each.  REQUIRES: a valid
// schedule.
std::vector<int32_t> most_in_flight(const Schedule& schedule);

// ---- the table

struct ScheduleShape {
  int32_t ranks = 1;
  int32_t stages_per_rank = 1;
  int32_t turns = 1;
  friend bool operator==(const ScheduleShape&, const ScheduleShape&) = default;
};

struct ScheduleRow {
  std::string_view name;                               // PyTorch's, where it has one
  int32_t default_stages_per_rank;                     // where the config says nothing
  std::string_view domain;                             // the shapes it takes, for people: "1 stage a rank"
  std::string (*refuses)(const ScheduleShape& shape);  // "" inside the domain, else the reason and the remedy
  Schedule (*make)(const ScheduleShape& shape);        // REQUIRES: refuses(shape) == ""
};

std::span<const ScheduleRow> schedules();

// Error{invalid_argument}: unknown, with the known ones.
const ScheduleRow& find_schedule(std::string_view name);

// Error{invalid_argument}: unknown name, a shape outside the domain of the row, or of any schedule (each
// number at least 1, at most kMostActions forward actions).
Schedule make_schedule(std::string_view name, const ScheduleShape& shape);
Schedule make_schedule(const ScheduleRow& row, const ScheduleShape& shape);

inline constexpr int64_t kMostActions = int64_t{1} << 22;

}  // namespace furrow::plan
