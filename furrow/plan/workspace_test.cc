#include "furrow/plan/workspace.h"

#include <gtest/gtest.h>

#include "furrow/plan/compile.h"
#include "furrow/plan/flat_layout.h"
#include "furrow/plan/quote.h"
#include "furrow/plan/tensor_cut.h"
#include "furrow/plan/testing/specs.h"

namespace furrow::plan {
namespace {

Program program_of(const ModelSpec& spec, int rank, size_t microbatches) {
  TrainOptions options;
  options.microbatch_sizes.assign(microbatches, 1);
  options.ranks.rank = rank;
  options.ranks.deterministic = Deterministic::kStrict;
  return compile_train(spec, Layout({1, 3, 1, 1, 1, 1}, 3), options);
}

// Three ranks with three microbatches each bring two nodes each: every slice of four is received by its
// owner.
TEST(ExchangeStaging, IsTheSlicesOfTheOthersNodes) {
  const ModelSpec spec = testing::chain(1, 64);
  int64_t bytes = 0;
  for (int rank = 0; rank < 3; ++rank) {
    const Program program = program_of(spec, rank, 9);
    const int64_t own = exchange_staging_bytes(program, spec);
    bytes += own;
    const Quote quoted = quote(program, spec);
    int64_t item = 0;
    for (const MemoryItem& each : quoted.memory) {
      if (each.name == "other, nodes of other ranks on their way") item += each.bytes;
    }
    EXPECT_EQ(item, own);
    EXPECT_GE(quoted.peak_bytes[static_cast<size_t>(MemoryKind::kOther)], own);
  }
  EXPECT_EQ(bytes, 4 * 4 * flat_layout(spec).units[0].elements);
}

TEST(ExchangeStaging, IsNoneWhereOneNodeARankTravels) {
  const ModelSpec spec = testing::chain(2, 64);
  EXPECT_EQ(exchange_staging_bytes(program_of(spec, 0, 6), spec), 0);
  EXPECT_EQ(exchange_staging_bytes(compile_train(spec, Layout(), {{1, 1, 1}, {}, {}}), spec), 0);
}

TEST(AxisWorkspace, IsABlockOrWhatARankGives) {
  const ModelSpec whole = testing::cut_chain(2), part = tensor_cut(whole, 2);
  EXPECT_EQ(axis_workspace_bytes(whole, 1), 0);
  EXPECT_EQ(axis_workspace_bytes(part, 1), 1 << 20);
  EXPECT_EQ(axis_workspace_bytes(part, 100'000), 100'000 * 64 * 4 / 2);
}

}  // namespace
}  // namespace furrow::plan
