// What the training steps of this process sent and waited for, apart from validations, saves and tests.
// Torch-free.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "furrow/comm/communicator.h"
#include "furrow/observe/rank_audit.h"
#include "furrow/train/rank_context.h"

namespace furrow::train {

// Of the time of a run of a program.
struct CommTimes {
  int64_t exposed_ns = 0;  // the program's thread waited for communication
  int64_t busy_ns = 0;     // communication was under way, waiting for peers included
  // What exposed_ns is made of: each operation's part, in the order in which they were started; then what
  // collectives inside units waited.
  std::vector<int64_t> waits = {};
};

// Of forwards, recomputations and both halves of backward in a run of a program.
struct ComputeTimes {
  int64_t begin_ns = 0;      // of the first, Clock::monotonic_ns; 0: there was none
  int64_t end_ns = 0;        // of the last
  int64_t computing_ns = 0;  // inside them
};

// Sums of up to so many bytes are small: latency decides what they take, and over three ranks and more they
// go in one round, which moves more bytes than the bound (comm/algorithms/table.cc).
inline constexpr int64_t kSmallSum = 2048;

class StepLedger {
 public:
  struct Bytes {
    int64_t calls = 0, wire = 0, bound = 0;
  };

  void begin_steps(const RankContext& rank);  // what follows is steps; forgets what else was sent
  void end_steps(const RankContext& rank);    // what follows is not
  // `samples`: of this rank's microbatches.
  void add_step(const CommTimes& times, const ComputeTimes& compute, int64_t duration_ns, int64_t samples);

  Bytes bytes(const RankContext& rank) const;  // of this rank in the steps so far

  // The figures of all ranks, on all ranks; every rank calls it.
  observe::RankAudit audit(const RankContext& rank) const;

 private:
  std::array<Bytes, comm::kCollectiveKinds + 1> bytes_{};  // by kind, then of small sums
  CommTimes times_;
  double bubble(const RankContext& rank) const;                         // every rank calls it
  std::optional<double> straggler_wait(const RankContext& rank) const;  // the same
  int64_t steps_ = 0, duration_ns_ = 0, samples_ = 0;
  std::vector<ComputeTimes> compute_;  // of the first kBubbleSteps steps
  std::vector<int64_t> waits_;         // CommTimes::waits of the first steps, as many as kMostWaits hold
  int64_t waiting_steps_ns_ = 0;       // that those steps took
};

}  // namespace furrow::train
