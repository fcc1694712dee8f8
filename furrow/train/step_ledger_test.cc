#include "furrow/train/step_ledger.h"

#include <gtest/gtest.h>

#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "tests/testing/run_ranks.h"

namespace furrow::train {
namespace {

constexpr int64_t kMs = 1'000'000;

RankContext context_of(comm::Communicator& communicator) {
  RankContext rank;
  rank.rank = communicator.rank();
  rank.communicator = &communicator;
  return rank;
}

// The audit of rank 0, after checking that the others have the same; `steps` is what a rank does.
template <class Steps>
observe::RankAudit audit_of(int ranks, const Steps& steps) {
  std::mutex mutex;
  std::vector<observe::RankAudit> audits(static_cast<size_t>(ranks));
  testing::run_ranks(ranks,
                     [&](comm::Communicator& communicator) {
                       const RankContext rank = context_of(communicator);
                       StepLedger ledger;
                       ledger.begin_steps(rank);
                       steps(communicator, ledger);
                       ledger.end_steps(rank);
                       const observe::RankAudit audit = ledger.audit(rank);
                       const std::lock_guard lock(mutex);
                       audits[static_cast<size_t>(rank.rank)] = audit;
                     },
                     {.timeout_ms = testing::kPatienceMs});
  for (const observe::RankAudit& audit : audits) {
    EXPECT_EQ(audit.bytes.size(), audits[0].bytes.size());
    EXPECT_EQ(audit.rank_samples_per_second, audits[0].rank_samples_per_second);
    EXPECT_EQ(audit.operations_per_step, audits[0].operations_per_step);
  }
  return audits[0];
}

// Rank 0 is what the first stage of a pipeline is whose weights are frozen: it sends, and hears of nothing.
TEST(StepLedger, CountsWhatRankZeroTakesNoPartIn) {
  std::mutex mutex;
  StepLedger::Bytes all;
  const observe::RankAudit audit = audit_of(3, [&](comm::Communicator& communicator, StepLedger& ledger) {
    std::vector<float> whole(4096), half(2048);
    for (int step = 0; step < 2; ++step) {
      if (communicator.rank() == 0) communicator.world().send<float>(whole, 1, "act");
      if (communicator.rank() == 1) communicator.world().recv<float>(whole, 0, "act");
      if (communicator.rank() == 0) continue;
      comm::Group stage = communicator.group({1, 2}, {.name = "stage"});
      stage.reduce_scatter<float>(whole, half, comm::Reduction::kSum, {}, "reduce_grads");
    }
    for (int step = 0; step < 2; ++step) ledger.add_step({}, {}, kMs, 1);
    const StepLedger::Bytes own = ledger.bytes(context_of(communicator));
    const std::lock_guard lock(mutex);
    all.wire += own.wire;
    all.bound += own.bound;
  });
  std::map<std::string, observe::CollectiveAudit> rows;
  int64_t wire = 0, bound = 0;
  for (const observe::CollectiveAudit& row : audit.bytes) {
    rows[row.name] = row;
    wire += row.wire_bytes;
    bound += row.bound_bytes;
  }
  ASSERT_TRUE(rows.contains("recv") && rows.contains("reduce_scatter"));
  EXPECT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows["recv"].bound_bytes, 2 * 4 * 4096);
  EXPECT_EQ(rows["reduce_scatter"].bound_bytes, 2 * 4 * 4096) << "half of it on each of two ranks, twice";
  EXPECT_EQ(rows["reduce_scatter"].calls, 2);
  EXPECT_EQ(wire, all.wire);
  EXPECT_EQ(bound, all.bound);
  EXPECT_EQ(audit.operations_per_step, 2) << "of rank 1, which receives and reduces";
}

// Both steps last as long as the slower rank: the other one waits.
TEST(StepLedger, ASlowRankShows) {
  const observe::RankAudit audit = audit_of(2, [](comm::Communicator& communicator, StepLedger& ledger) {
    const int64_t waited_ns = communicator.rank() == 0 ? 60 * kMs : 20 * kMs;
    const int64_t samples = communicator.rank() == 0 ? 4 : 3;  // of the step's seven
    for (int step = 0; step < 5; ++step) ledger.add_step({waited_ns, waited_ns}, {}, 100 * kMs, samples);
  });
  ASSERT_EQ(audit.rank_samples_per_second.size(), 2U);
  EXPECT_DOUBLE_EQ(audit.rank_samples_per_second[0], 4 / 0.04);
  EXPECT_DOUBLE_EQ(audit.rank_samples_per_second[1], 3 / 0.08);
  EXPECT_DOUBLE_EQ(audit.exposed_communication, 0.4);
  EXPECT_DOUBLE_EQ(audit.step_seconds, 0.1);
}

// Ranks that come last in turns are no different in what they wait in all, so each operation is judged by
// itself: of 10 and 20 ms, and of 30 and 5, somebody waited 10 and 25 ms for the other.
TEST(StepLedger, WaitingForALateRankIsToldFromWhatOperationsTake) {
  const auto wait_of = [](std::vector<int64_t> of_zero, std::vector<int64_t> of_one) {
    const observe::RankAudit audit = audit_of(2, [&](comm::Communicator& communicator, StepLedger& ledger) {
      CommTimes times;
      times.waits = communicator.rank() == 0 ? of_zero : of_one;
      for (const int64_t wait_ns : times.waits) times.exposed_ns += wait_ns;
      for (int step = 0; step < 5; ++step) ledger.add_step(times, {}, 100 * kMs, 1);
    });
    return audit.straggler_wait;
  };
  EXPECT_EQ(wait_of({10 * kMs, 30 * kMs}, {20 * kMs, 5 * kMs}), 0.175);
  EXPECT_EQ(wait_of({40 * kMs}, {25 * kMs}), 0.075) << "control: one operation of as much";
  EXPECT_EQ(wait_of({10 * kMs, 30 * kMs}, {10 * kMs, 30 * kMs}), 0.0) << "nobody was late";
  EXPECT_EQ(wait_of({10 * kMs, 30 * kMs}, {20 * kMs}), std::nullopt) << "other operations, as in a pipeline";
  EXPECT_EQ(wait_of({}, {}), std::nullopt);
}

// As many operations on each rank, of which one sends what the other receives.
TEST(StepLedger, WaitsOfAPipelineAreNotCompared) {
  testing::run_ranks(2,
                     [](comm::Communicator& communicator) {
                       RankContext rank = context_of(communicator);
                       rank.lanes[{1 - rank.rank, true}] = communicator.world();
                       CommTimes times;
                       times.waits = {(1 + rank.rank) * kMs};
                       StepLedger ledger;
                       ledger.begin_steps(rank);
                       ledger.add_step(times, {}, 10 * kMs, 1);
                       ledger.end_steps(rank);
                       EXPECT_EQ(ledger.audit(rank).straggler_wait, std::nullopt);
                       rank.lanes.clear();
                       EXPECT_EQ(ledger.audit(rank).straggler_wait, 0.05) << "control";
                     },
                     {.timeout_ms = testing::kPatienceMs});
}

}  // namespace
}  // namespace furrow::train
