// Which algorithm carries out an operation where one is asked for, and what it moves.
#include "furrow/comm/algorithm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "furrow/base/log.h"
#include "furrow/comm/communicator.h"
#include "tests/testing/run_ranks.h"

namespace furrow::comm {
namespace {

using ::furrow::testing::ran_by;
using ::furrow::testing::run_ranks;
using ::testing::ElementsAre;

TEST(Algorithm, FloatingSumsOfACanonicalGroupIgnoreARing) {
  run_ranks(3,
            [](Communicator& communicator) {
              Group strict = communicator.group({0, 1, 2});
              Group loose = communicator.group({0, 1, 2}, {.canonical = false});
              EXPECT_EQ(communicator.would_run({.kind = CollectiveKind::kAllReduce}, strict), "direct");
              EXPECT_EQ(communicator.would_run({.kind = CollectiveKind::kAllReduce}, loose), "ring");
              EXPECT_EQ(communicator.would_run(
                            {.kind = CollectiveKind::kAllReduce, .reduction = Reduction::kMax}, strict),
                        "ring");
              EXPECT_EQ(
                  communicator.would_run({.kind = CollectiveKind::kAllReduce, .dtype = DType::kI64}, strict),
                  "ring");
              EXPECT_EQ(communicator.would_run({.kind = CollectiveKind::kAllGather}, strict), "ring");
            },
            {.algorithm = "ring"});
}

TEST(Algorithm, IsChosenAnewForWhateverDiffersFromTheLastOperation) {
  run_ranks(3, [](Communicator& communicator) {
    const auto up_to = [](int64_t bytes, const char* small, const char* other) {
      AlgorithmTable table;
      table.set(CollectiveKind::kAllReduce, Wires::kMemory, 3,
                {{CollectiveKind::kAllReduce, Wires::kMemory, 3, bytes, algorithm_index(small)},
                 {CollectiveKind::kAllReduce, Wires::kMemory, 3, INT64_MAX, algorithm_index(other)}});
      return table;
    };
    const auto last_sum_by = [&] { return ran_by(communicator, "world", CollectiveKind::kAllReduce); };
    Group world = communicator.world();
    std::vector<float> floats(2), more(100);
    std::vector<int32_t> integers(2);
    communicator.set_algorithms(up_to(64, "ring", "tree"));
    for (int i = 0; i < 2; ++i) {
      world.all_reduce(std::span(floats));
      EXPECT_EQ(last_sum_by(), "tree") << "the ring's order shows";
      world.all_reduce(std::span(floats), Reduction::kMax);
      EXPECT_EQ(last_sum_by(), "ring");
      world.all_reduce(std::span(more), Reduction::kMax);
      EXPECT_EQ(last_sum_by(), "tree");
      world.all_reduce(std::span(integers));
      EXPECT_EQ(last_sum_by(), "ring");
    }
    communicator.set_algorithms(up_to(64, "flat", "tree"));
    world.all_reduce(std::span(integers));
    EXPECT_EQ(last_sum_by(), "flat");
  });
}

// Halving is at the bound for powers of two; elsewhere the lower rank of a pair receives the other's
// whole buffer too.
TEST(Algorithm, HalvingMovesNoMoreThanTheBoundForAPowerOfTwo) {
  for (const int ranks : {2, 4, 8, 6}) {
    run_ranks(ranks,
              [&](Communicator& communicator) {
                const auto n = static_cast<size_t>(ranks);
                std::vector<float> whole(1024 * n, 1), slice(1024);
                Group world = communicator.world();
                world.reduce_scatter(std::span<const float>(whole), std::span(slice));
                world.all_gather(std::span<const float>(slice), std::span(whole));
                world.all_reduce(std::span(whole));
                EXPECT_EQ(communicator.ledger().rows().size(), 3U);
                int64_t wire = 0, bound = 0;
                for (const LedgerRow& row : communicator.ledger().rows()) {
                  EXPECT_EQ(algorithm_rows()[static_cast<size_t>(row.algorithm)].name, "doubling");
                  wire += row.wire_bytes;
                  bound += row.bound_bytes;
                }
                if (ranks == 6) {
                  EXPECT_EQ(wire > bound, communicator.rank() == 0 || communicator.rank() == 2)
                      << communicator.rank();
                } else {
                  EXPECT_EQ(wire, bound);
                }
              },
              {.algorithm = "doubling"});
  }
}

// What the log says while `body` runs.
std::vector<std::string> logged(const std::function<void()>& body) {
  std::vector<std::string> lines;
  set_log_writer([&](std::string_view line) { lines.emplace_back(line); });
  body();
  set_log_writer({});
  return lines;
}

TEST(Algorithm, ThatIsAskedForAndNotTakenIsSaidOnce) {
  const auto sums_by = [](const std::string& algorithm, int ranks, bool canonical) {
    return logged([&] {
      run_ranks(ranks,
                [&](Communicator& communicator) {
                  std::vector<int> all(static_cast<size_t>(ranks));
                  std::iota(all.begin(), all.end(), 0);
                  Group group = communicator.group(all, {.name = "sums", .canonical = canonical});
                  std::vector<float> x(100);
                  for (int i = 0; i < 3; ++i) group.all_reduce(std::span(x));
                  group.broadcast(std::span(x), 0);
                },
                {.algorithm = algorithm});
    });
  };
  EXPECT_THAT(sums_by("ring", 3, true),
              ElementsAre("warning: comm.algorithm = ring does not carry out all_reduce in group sums of 3 "
                          "ranks: it adds in another order than the canonical one, which results keep; "
                          "direct does\n"));
  EXPECT_THAT(
      sums_by("hierarchical_ring", 2, false),
      ElementsAre("warning: comm.algorithm = hierarchical_ring does not carry out all_reduce in group "
                  "sums of 2 ranks: it needs two hosts or more that hold several ranks each, all as "
                  "many; direct does\n"));
  EXPECT_THAT(sums_by("direct", 1, true), ElementsAre("warning: comm.algorithm = direct has no effect: one "
                                                      "rank has nobody to exchange anything with\n"));
  EXPECT_THAT(sums_by("ring", 3, false), ElementsAre());
  EXPECT_THAT(sums_by("flat", 3, true), ElementsAre());
  EXPECT_THAT(sums_by("", 1, true), ElementsAre());
}

}  // namespace
}  // namespace furrow::comm
