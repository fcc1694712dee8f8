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

// What devices receive before they add: of the largest reduction the slices of all others, in pieces.
TEST(DeviceSums, IsTheOthersSlicesWhereNcclMustNotAdd) {
  ModelSpec spec = testing::chain(1, 64);
  const int64_t elements = flat_layout(spec).units[0].elements;
  const auto of_all = [&](int ranks) {
    int64_t bytes = 0;
    for (int rank = 0; rank < ranks; ++rank) {
      TrainOptions options;
      options.microbatch_sizes.assign(static_cast<size_t>(2 * ranks), 1);
      options.ranks.rank = rank;
      bytes += device_sums_bytes(compile_train(spec, Layout({1, ranks, 1, 1, 1, 1}, ranks), options), spec);
    }
    return bytes;
  };
  EXPECT_EQ(of_all(4), 3 * 4 * elements);
  EXPECT_EQ(of_all(2), 0) << "of two terms there is one order";
  EXPECT_EQ(of_all(1), 0);
  EXPECT_EQ(device_sums_bytes(program_of(spec, 0, 9), spec), 0) << "nodes are the program's";
  spec.reduce = DType::kBF16;
  EXPECT_EQ(of_all(2), 2 * elements) << "NCCL rounds 16 bits in its own way";
  const ModelSpec large = testing::chain(1, 4096);  // 64 MiB
  const int64_t piece = (int64_t{32} << 20) / 4 / 3;
  EXPECT_EQ(device_sums_bytes(program_of(large, 0, 6), large), 2 * piece * 4);
}

TEST(AxisWorkspace, IsABlockOrWhatARankGives) {
  const ModelSpec whole = testing::cut_chain(2), part = tensor_cut(whole, 2);
  EXPECT_EQ(axis_workspace_bytes(whole, 1), 0);
  EXPECT_EQ(axis_workspace_bytes(part, 1), 1 << 20);
  EXPECT_EQ(axis_workspace_bytes(part, 100'000), 100'000 * 64 * 4 / 2);
}

}  // namespace
}  // namespace furrow::plan
