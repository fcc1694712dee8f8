// A reduce_scatter and the all_gather of what it makes, given in one list, beside the two given alone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "furrow/comm/algorithm.h"
#include "furrow/comm/communicator.h"
#include "furrow/comm/group.h"
#include "furrow/comm/stream.h"
#include "tests/testing/run_ranks.h"

namespace furrow::comm {
namespace {

using ::furrow::testing::run_ranks_with;
using ::testing::AllOf;
using ::testing::HasSubstr;

struct Pair {
  Collective reduce, gather;
};

Pair pair_of(std::span<float> in, std::span<float> own, std::span<float> all,
             const std::vector<int64_t>& counts, Reduction reduction = Reduction::kSum) {
  Pair pair;
  pair.reduce = {.kind = CollectiveKind::kReduceScatter,
                 .dtype = DType::kF32,
                 .reduction = reduction,
                 .in = std::as_bytes(in),
                 .out = std::as_writable_bytes(own),
                 .counts = counts,
                 .label = "reduce"};
  pair.gather = {.kind = CollectiveKind::kAllGather,
                 .dtype = DType::kF32,
                 .in = std::as_bytes(own),
                 .out = std::as_writable_bytes(all),
                 .counts = counts,
                 .label = "gather"};
  return pair;
}

// Numbers whose sums depend on the order of additions.
void fill(std::span<float> x, int rank) {
  for (size_t i = 0; i < x.size(); ++i)
    x[i] =
        (rank % 2 == 0 ? 1.0e7F : -1.0e7F) + 0.37F * static_cast<float>(i % 1009) + static_cast<float>(rank);
}

std::vector<int64_t> equal_counts(int n, int64_t each) {
  return std::vector<int64_t>(static_cast<size_t>(n), each);
}

// First rank nothing, then more and more.
std::vector<int64_t> rising_counts(int n, int64_t step) {
  std::vector<int64_t> counts(static_cast<size_t>(n));
  for (size_t r = 0; r < counts.size(); ++r) counts[r] = static_cast<int64_t>(r) * step;
  return counts;
}

int64_t sum_of(const std::vector<int64_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

class OnePass : public ::testing::TestWithParam<const char*> {
 protected:
  void run(int n, const testing::RankFunction& fn, CommunicatorOptions options = {}) {
    run_ranks_with(n, {.transport = GetParam(), .communicator = std::move(options)}, fn);
  }
};

// What the two give one after the other.
std::vector<float> one_by_one(Group& group, std::span<float> in, const std::vector<int64_t>& counts,
                              Reduction reduction) {
  std::vector<float> all(in.begin(), in.end());
  std::vector<float> own(static_cast<size_t>(counts[static_cast<size_t>(group.rank())]));
  const Pair pair = pair_of(all, own, all, counts, reduction);
  group.start(pair.reduce).wait();
  group.start(pair.gather).wait();
  return all;
}

std::vector<float> in_one_list(Communicator& communicator, std::span<const float> in,
                               const std::vector<int64_t>& counts, Reduction reduction, bool registered) {
  Group group = communicator.world();
  const Memory memory = registered ? communicator.allocate(in.size_bytes() + 4) : Memory();
  std::vector<float> plain(registered ? 0 : in.size());
  const std::span<float> all = registered ? memory.as<float>().first(in.size()) : std::span(plain);
  std::copy(in.begin(), in.end(), all.begin());
  const auto rank = static_cast<size_t>(communicator.rank());
  const int64_t begin = std::accumulate(counts.begin(), counts.begin() + communicator.rank(), int64_t{0});
  const std::span<float> own = all.subspan(static_cast<size_t>(begin), static_cast<size_t>(counts[rank]));
  const Pair pair = pair_of(all, own, all, counts, reduction);
  group.start({pair.reduce, pair.gather}).wait();
  return {all.begin(), all.end()};
}

TEST_P(OnePass, GivesTheBitsOfTheTwo) {
  for (const int n : {2, 3, 5, 8}) {
    run(n, [n](Communicator& communicator) {
      Group world = communicator.world();
      for (const auto& counts :
           {equal_counts(n, 1), equal_counts(n, 4099), rising_counts(n, 1), rising_counts(n, 5000)}) {
        std::vector<float> in(static_cast<size_t>(sum_of(counts)));
        fill(in, communicator.rank());
        for (const Reduction reduction : {Reduction::kSum, Reduction::kAvg, Reduction::kMax}) {
          const std::vector<float> expected = one_by_one(world, in, counts, reduction);
          for (const bool registered : {true, false}) {
            const std::vector<float> all = in_one_list(communicator, in, counts, reduction, registered);
            EXPECT_EQ(std::memcmp(all.data(), expected.data(), all.size() * 4), 0)
                << n << " ranks, " << all.size() << " elements, registered " << registered;
          }
        }
      }
    });
  }
}

TEST_P(OnePass, ResultsElsewhereThanTheTerms) {
  run(3, [](Communicator& communicator) {
    const std::vector<int64_t> counts = equal_counts(3, 3000);
    std::vector<float> in(9000), own(3000), all(9000, -1.0F);
    fill(in, communicator.rank());
    const std::vector<float> before = in;
    Group world = communicator.world();
    const std::vector<float> expected = one_by_one(world, in, counts, Reduction::kSum);
    const Pair pair = pair_of(in, own, all, counts);
    world.start({pair.reduce, pair.gather}).wait();
    EXPECT_EQ(all, expected);
    EXPECT_EQ(in, before);
    EXPECT_TRUE(std::equal(own.begin(), own.end(), expected.begin() + 3000 * communicator.rank()));
  });
}

TEST_P(OnePass, EachOfTheTwoHasItsBytesInTheLedger) {
  for (const int n : {2, 3, 4}) {
    run(n, [n](Communicator& communicator) {
      const std::vector<int64_t> counts = rising_counts(n, 4096);
      std::vector<float> in(static_cast<size_t>(sum_of(counts)), 1.0F);
      for (int i = 0; i < 3; ++i) in_one_list(communicator, in, counts, Reduction::kSum, i % 2 == 0);
      const auto rows = communicator.ledger().rows();
      ASSERT_EQ(rows.size(), 2U);
      for (const LedgerRow& row : rows) {
        EXPECT_EQ(row.calls, 3);
        EXPECT_EQ(row.payload_bytes, 3 * static_cast<int64_t>(in.size() * 4));
        EXPECT_EQ(row.wire_bytes, row.bound_bytes) << row.label;
        EXPECT_GT(row.busy_ns, 0);
      }
    });
  }
}

TEST_P(OnePass, AmongOthersOfAList) {
  run(2, [](Communicator& communicator) {
    Group world = communicator.world();
    const int peer = 1 - communicator.rank();
    const std::vector<int64_t> counts = equal_counts(2, 5000);
    std::vector<float> all(10'000), sent(5000, static_cast<float>(communicator.rank())), got(5000);
    std::fill(all.begin(), all.end(), 2.0F);
    const Pair pair =
        pair_of(all, std::span(all).subspan(communicator.rank() * size_t{5000}, 5000), all, counts);
    const Collective send{.kind = CollectiveKind::kSend,
                          .dtype = DType::kF32,
                          .in = std::as_bytes(std::span(sent)),
                          .root_or_peer = peer};
    const Collective recv{.kind = CollectiveKind::kRecv,
                          .dtype = DType::kF32,
                          .out = std::as_writable_bytes(std::span(got)),
                          .root_or_peer = peer};
    world.start({send, recv, pair.reduce, pair.gather, pair.reduce, pair.gather}).wait();
    EXPECT_EQ(std::count(all.begin(), all.end(), 8.0F), 10'000);
    EXPECT_EQ(std::count(got.begin(), got.end(), static_cast<float>(peer)), 5000);
  });
}

TEST_P(OnePass, BesideTheTwoAloneIsAMismatch) {
  std::string text;
  try {
    run(2, [](Communicator& communicator) {
      const std::vector<int64_t> counts = equal_counts(2, 5000);
      std::vector<float> all(10'000, 1.0F), own(5000);
      const Pair pair = pair_of(all, own, all, counts);
      Group world = communicator.world();
      if (communicator.rank() == 1) return world.start({pair.reduce, pair.gather}).wait();
      world.start(pair.reduce).wait();
      world.start(pair.gather).wait();
    });
  } catch (const Error& error) {
    text = error.what();
  }
  EXPECT_THAT(text, AllOf(HasSubstr("rank 0"), HasSubstr("rank 1"), HasSubstr("reduce_scatter 'reduce' #0")));
}

// Where the table names another algorithm the two are two.
TEST_P(OnePass, AnotherAlgorithmIsKept) {
  run(4,
      [](Communicator& communicator) {
        const std::vector<int64_t> counts = equal_counts(4, 1000);
        std::vector<float> in(4000);
        fill(in, communicator.rank());
        Group world = communicator.world();
        const std::vector<float> expected = one_by_one(world, in, counts, Reduction::kMax);
        EXPECT_EQ(in_one_list(communicator, in, counts, Reduction::kMax, true), expected);
        for (const LedgerRow& row : communicator.ledger().rows())
          EXPECT_EQ(algorithm_rows()[static_cast<size_t>(row.algorithm)].name, "ring");
      },
      {.algorithm = "ring"});
}

INSTANTIATE_TEST_SUITE_P(Transports, OnePass, ::testing::Values("inproc", "shm"),
                         [](const auto& info) { return std::string(info.param); });

// A copy of more than is copied at once.
TEST(Copy, OfEverySizeIsWhole) {
  for (const size_t size : {size_t{0}, size_t{1}, kCopiedAtOnce, kCopiedAtOnce + 1, 3 * kCopiedAtOnce - 1}) {
    std::vector<std::byte> in(size), out(size + 1, std::byte{7});
    for (size_t i = 0; i < size; ++i) in[i] = static_cast<std::byte>(i % 251);
    copy(in, std::span(out).first(size));
    EXPECT_TRUE(std::equal(in.begin(), in.end(), out.begin()));
    EXPECT_EQ(out.back(), std::byte{7});
    copy(in, in);
  }
}

// Where lines begin is of no matter, and what lies around it is left alone.
TEST(Copy, StreamedFromAndToAnyByteIsWhole) {
  for (const size_t size :
       {size_t{0}, size_t{100}, kStreamed - 1, kStreamed, kStreamed + 63, kStreamed + 64}) {
    std::vector<std::byte> all(size + 3);
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::byte>(i % 251);
    for (const size_t shift : {size_t{0}, size_t{1}, size_t{63}, size_t{64}}) {
      const auto in = std::span(all).subspan(shift % 3, size);
      std::vector<std::byte> out(shift + size + 1, std::byte{7});
      stream(in, std::span(out).subspan(shift, size));
      EXPECT_TRUE(std::equal(in.begin(), in.end(), out.begin() + static_cast<std::ptrdiff_t>(shift)));
      EXPECT_TRUE(std::all_of(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(shift),
                              [](std::byte b) { return b == std::byte{7}; }));
      EXPECT_EQ(out.back(), std::byte{7});
    }
  }
  std::vector<std::byte> same(kStreamed, std::byte{3});
  stream(same, same);
  EXPECT_EQ(same.back(), std::byte{3});
}

}  // namespace
}  // namespace furrow::comm
