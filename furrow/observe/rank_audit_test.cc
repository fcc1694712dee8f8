#include "furrow/observe/rank_audit.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "furrow/base/error.h"
#include "furrow/observe/summary.h"

namespace furrow::observe {
namespace {

Summary on_ranks() {
  Summary summary;
  summary.name = std::string("a");  // g++ 12 warns of an overlap otherwise
  summary.status = "finished";
  RankAudit audit;
  audit.ranks = 2;
  audit.layout = "dp_replicate 2";
  audit.backend = "mpi";
  audit.sums = "added on the device";
  audit.deterministic = "on: every share is an aligned block";
  audit.steps = 10;
  audit.bytes = {{"reduce_scatter", 30, 10 * 1024, 10 * 1000}, {"barrier", 1, 0, 0}};
  audit.bubble = 0.1875;
  audit.exposed_communication = 0.125;
  audit.straggler_wait = 0.0625;
  audit.comm_to_compute = 0.25;
  audit.operations_per_step = 40;
  audit.operation_latency_us = 2.5;
  audit.step_seconds = 0.01;
  audit.rank_samples_per_second = {100.5, 99};
  audit.scaling_efficiency = 0.975;
  audit.weak_scaling_efficiency = 0.982;
  summary.audit = audit;
  return summary;
}

TEST(RankAudit, IsPartOfTheSummary) {
  const std::string text = to_json(on_ranks());
  const Summary back = parse_summary(text);
  EXPECT_EQ(to_json(back), text);
  ASSERT_TRUE(back.audit.has_value());
  EXPECT_EQ(back.audit->bytes.at(0).wire_bytes, 10240);
  EXPECT_EQ(back.audit->rank_samples_per_second, (std::vector<double>{100.5, 99}));
  EXPECT_EQ(back.audit->straggler_wait, 0.0625);
  EXPECT_EQ(back.audit->scaling_efficiency, 0.975);
  EXPECT_EQ(back.audit->weak_scaling_efficiency, 0.982);
  EXPECT_DOUBLE_EQ(back.audit->latency_overhead(), 0.01);
  Summary other = on_ranks();
  other.audit->bytes[0].bound_bytes += 1;
  EXPECT_NE(to_json(other), text);
}

TEST(RankAudit, OfOneRankIsItsLayoutAlone) {
  Summary alone = on_ranks();
  alone.audit->ranks = 1;
  const std::string text = to_json(alone);
  for (const char* key : {"ranks", "layout", "deterministic"})
    EXPECT_NE(text.find(fmt::format("\"{}\"", key)), std::string::npos) << key;
  for (const char* key :
       {"backend", "gradient_sums", "bytes", "exposed_communication", "rank_samples_per_second"})
    EXPECT_EQ(text.find(fmt::format("\"{}\"", key)), std::string::npos) << key;
  EXPECT_EQ(to_table(alone).find("rank"), std::string::npos);
  const Summary back = parse_summary(text);
  ASSERT_TRUE(back.audit.has_value());
  EXPECT_EQ(back.audit->ranks, 1);
  EXPECT_EQ(to_json(back), text);
}

// The first step of a process does not count: a run of one, or a resume of a finished one, has measured
// nothing.
TEST(RankAudit, OfNoStepHasNoFigures) {
  Summary short_one = on_ranks();
  short_one.samples_per_second = 0;
  short_one.audit->steps = 0;
  const std::string text = to_json(short_one), table = to_table(short_one);
  for (const char* key : {"bytes", "exposed_communication", "latency_overhead", "rank_samples_per_second"})
    EXPECT_EQ(text.find(fmt::format("\"{}\"", key)), std::string::npos) << key;
  for (const char* row :
       {"samples per second", "step time", "samples/s per rank", "waited for ranks", "latency"})
    EXPECT_EQ(table.find(row), std::string::npos) << row << table;
  EXPECT_NE(table.find("audit                 of no step"), std::string::npos) << table;
  EXPECT_EQ(to_json(parse_summary(text)), text);
  EXPECT_NE(to_table(on_ranks()).find("samples/s per rank"), std::string::npos) << "control";
}

TEST(RankAudit, IsAbsentInSummariesWithoutRanks) {
  Summary before = on_ranks();
  before.audit.reset();
  EXPECT_FALSE(parse_summary(to_json(before)).audit.has_value());
}

TEST(RankAudit, ShowsBytesOfAStepBesideTheBound) {
  const std::string table = to_table(on_ranks());
  for (const char* row :
       {"ranks                 2 (dp_replicate 2, over mpi)\n",
        "samples/s per rank    99 (rank 1) to 101, waiting left out\n",
        "scaling efficiency    97.5 % of 2 times one rank, same batch (strong)\n",
        "scaling efficiency    98.2 % of 2 times one rank, same batch a rank (weak)\n",
        "waited for ranks      12.5 % of the steps' time, 6.2 % for later ones\n", "comm / compute        0.250\n",
        "latency overhead      1.0 % of the steps' time (40 operations x 2.5 us)\n",
        "  reduce_scatter      1.0 KiB       1.024\n", "  barrier             0 B           -\n"}) {
    EXPECT_NE(table.find(row), std::string::npos) << row << table;
  }
}

TEST(RankAudit, DamageIsNamed) {
  std::string text = to_json(on_ranks());
  text.replace(text.find("\"ranks\": 2"), 10, "\"ranks\": \"\"");
  try {
    parse_summary(text);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kDataLoss);
    EXPECT_NE(error.message().find("`ranks`"), std::string::npos);
  }
}

}  // namespace
}  // namespace furrow::observe
