// Schedules against the theory of their papers: bubble in unit costs (F = I = W = 1, so B = 2), and turns in
// flight.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "furrow/plan/schedule.h"
#include "furrow/plan/schedule_times.h"

namespace furrow::plan {
namespace {

double bubble(std::string_view name, ScheduleShape shape) {
  return time_schedule(make_schedule(name, shape)).bubble;
}

double to_four_digits(double value) { return std::round(value * 1e4) / 1e4; }

TEST(ScheduleTheory, PublishedBubbles) {
  EXPECT_EQ(to_four_digits(bubble("GPipe", {4, 1, 8})), .2727);
  EXPECT_EQ(to_four_digits(bubble("1F1B", {4, 1, 8})), .2727);
  EXPECT_EQ(to_four_digits(bubble("Interleaved1F1B", {4, 2, 8})), .1579);
  EXPECT_EQ(to_four_digits(bubble("ZBH1", {4, 1, 8})), .1111);
  EXPECT_EQ(to_four_digits(bubble("1F1B", {8, 1, 24})), .2258);
  EXPECT_EQ(to_four_digits(bubble("Interleaved1F1B", {8, 2, 24})), .1273);
  EXPECT_EQ(to_four_digits(bubble("ZBH1", {8, 1, 24})), .0886);
}

// Where nothing but the shape delays a rank the bound is the makespan: a hop down, a hop up.
TEST(ScheduleTheory, TheLeastMakespanIsReached) {
  for (const ScheduleShape shape :
       {ScheduleShape{1, 1, 5}, ScheduleShape{4, 1, 8}, ScheduleShape{8, 1, 24}}) {
    for (const std::string_view name : {"GPipe", "1F1B", "ZBH1"}) {
      const Schedule schedule = make_schedule(name, shape);
      const std::vector<StageTimes> stages(static_cast<size_t>(schedule.stages));
      EXPECT_EQ(least_makespan(schedule.rank_of_stage, name != "ZBH1", shape.turns, {stages, 0}),
                time_schedule(schedule).makespan)
          << name;
    }
  }
}

// The formula in the head of each generator's file: p - 1 idle units of a rank beside `work` v m others.
struct Theory {
  std::string_view name;
  int32_t stages_per_rank;
  int work;  // of a stage and turn, in the time that a hop costs
  int32_t (*least_turns)(int32_t ranks);
};

int32_t one(int32_t /*p*/) { return 1; }
int32_t full_pipe(int32_t p) { return p; }
int32_t full_v(int32_t p) { return 2 * p - 1; }
int32_t full_pairs(int32_t p) { return 2 * p; }

constexpr Theory kTheory[] = {
    {"GPipe", 1, 1, &one},
    {"1F1B", 1, 1, &one},
    {"Interleaved1F1B", 1, 1, &one},
    {"Interleaved1F1B", 2, 1, &full_pipe},
    {"Interleaved1F1B", 3, 1, &full_pipe},
    {"LoopedBFS", 1, 1, &one},
    {"LoopedBFS", 2, 1, &full_pipe},
    {"LoopedBFS", 3, 1, &full_pipe},
    {"ZBH1", 1, 3, &full_pipe},
    {"InterleavedZeroBubble", 1, 3, &full_pipe},
    {"InterleavedZeroBubble", 2, 3, &full_pipe},
    {"InterleavedZeroBubble", 3, 3, &full_pipe},
    {"ZBVZeroBubble", 2, 3, &full_v},
    {"DualPipeV", 2, 3, &full_pairs},
};

TEST(ScheduleTheory, BubbleOverTheWholeDomain) {
  for (const Theory& row : kTheory) {
    for (int32_t p = 1; p <= 8; ++p) {
      for (int32_t m = row.least_turns(p); m <= 32; ++m) {
        const double idle = p - 1;
        EXPECT_NEAR(bubble(row.name, {p, row.stages_per_rank, m}),
                    idle / (row.work * row.stages_per_rank * m + idle), 1e-12)
            << row.name << " p " << p << " v " << row.stages_per_rank << " m " << m;
      }
    }
  }
}

// With few turns nothing fills the pipe, but no schedule is worse than one turn after the other.
TEST(ScheduleTheory, FewTurns) {
  for (const ScheduleRow& row : schedules()) {
    for (int32_t p = 1; p <= 8; ++p) {
      for (int32_t m = 1; m <= p; ++m) {
        const int32_t v = row.default_stages_per_rank;
        const ScheduleTimes times = time_schedule(make_schedule(row, {p, v, m}));
        EXPECT_LE(times.makespan, 3 * p * v * m) << row.name << " p " << p << " m " << m;
        EXPECT_GE(times.makespan, 3 * v * m);
      }
    }
  }
}

// No rank of ZB-V waits once it has begun: its weights end with no gap.
TEST(ScheduleTheory, ZeroBubbleWithinARank) {
  for (int32_t p = 1; p <= 8; ++p) {
    for (int32_t m = 2 * p - 1; m <= 32; ++m) {
      const ScheduleTimes times = time_schedule(make_schedule("ZBVZeroBubble", {p, 2, m}));
      for (int32_t rank = 0; rank < p; ++rank) {
        EXPECT_EQ(times.last[rank] - times.first[rank], times.busy[rank]) << "p " << p << " m " << m;
      }
    }
  }
}

// (p - 1) (F&B + B - 3 W) idle units of a rank are the account of DualPipe's authors.
TEST(ScheduleTheory, DualPipeVIsNoWorseThanItsAccount) {
  for (const StageTimes& times : {StageTimes{1, 1, 1}, StageTimes{1, 1, .5}, StageTimes{2, 2, 1}}) {
    const double whole = times.backward_input + times.backward_weight;
    const double idle = times.forward + 2 * whole - 3 * times.backward_weight;
    for (int32_t p = 1; p <= 8; ++p) {
      for (int32_t m = 2 * p; m <= 32; m += 3) {
        const ScheduleTimes measured = time_schedule(make_schedule("DualPipeV", {p, 2, m}), {{times}});
        EXPECT_LE(measured.makespan, 2 * m * (times.forward + whole) + (p - 1) * idle + 1e-9)
            << "p " << p << " m " << m;
      }
    }
  }
}

std::vector<int32_t> in_flight(std::string_view name, ScheduleShape shape) {
  return most_in_flight(make_schedule(name, shape));
}

TEST(ScheduleTheory, TurnsInFlight) {
  for (int32_t p = 1; p <= 8; ++p) {
    for (int32_t m = 1; m <= 32; ++m) {
      for (int32_t rank = 0; rank < p; ++rank) {
        EXPECT_EQ(in_flight("GPipe", {p, 1, m})[rank], m);
        EXPECT_EQ(in_flight("LoopedBFS", {p, 3, m})[rank], 3 * m);
        EXPECT_EQ(in_flight("1F1B", {p, 1, m})[rank], std::min(m, p - rank));
        EXPECT_LE(in_flight("ZBH1", {p, 1, m})[rank], std::min(m, p));
        EXPECT_LE(in_flight("ZBVZeroBubble", {p, 2, m})[rank], std::min(2 * m, 2 * p));
        EXPECT_LE(in_flight("DualPipeV", {p, 2, m})[rank], std::min(2 * m, 2 * p + 1));
      }
    }
    for (int32_t m = 2 * p; m <= 32; m += p) {  // multiples: the bounds are reached
      for (int32_t rank = 0; rank < p; ++rank) {
        EXPECT_EQ(in_flight("ZBH1", {p, 1, m})[rank], p);
        EXPECT_EQ(in_flight("InterleavedZeroBubble", {p, 2, m})[rank], 2 * p);
        EXPECT_EQ(in_flight("Interleaved1F1B", {p, 2, m})[rank], p + 2 * (p - rank) - 1);
        EXPECT_EQ(in_flight("Interleaved1F1B", {p, 3, m})[rank], 2 * p + 2 * (p - rank) - 1);
        EXPECT_EQ(in_flight("ZBVZeroBubble", {p, 2, m})[rank], 2 * p);
        EXPECT_EQ(in_flight("DualPipeV", {p, 2, m})[rank], 2 * p + 1);
      }
    }
  }
}

TEST(ScheduleTheory, TransfersTakeTheirTime) {
  const Schedule schedule = make_schedule("GPipe", {2, 1, 1});
  const ScheduleTimes times = time_schedule(schedule, {{{1, 2, 3}, {4, 5, 6}}, .5});
  // F 1, transfer .5, F 4, B 11, transfer .5, B 5
  EXPECT_DOUBLE_EQ(times.makespan, 22);
  EXPECT_DOUBLE_EQ(times.busy[0], 6);
  EXPECT_DOUBLE_EQ(times.busy[1], 15);
  EXPECT_DOUBLE_EQ(times.first[1], 1.5);
}

}  // namespace
}  // namespace furrow::plan
