// Shares, slices, the gradient tree and exchanges: the arithmetic that every rank has to agree on.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <functional>
#include <map>
#include <random>

#include "furrow/base/error.h"
#include "furrow/plan/compile.h"
#include "furrow/plan/exchange.h"
#include "furrow/plan/slices.h"
#include "furrow/plan/testing/specs.h"

namespace furrow::plan {
namespace {

Placement placement(int replicas, int shards, int stage, int rank, TreeKind tree = TreeKind::kCanonical) {
  return {Layout({1, replicas, shards, 1, 1, 1}, replicas * shards), rank, shards > 1 ? stage : 0, tree};
}

TEST(Share, IsContiguousOrTakesTurns) {
  EXPECT_EQ(microbatches_of(placement(1, 3, 1, 0), 8), (std::vector<int32_t>{0, 1, 2}));
  EXPECT_EQ(microbatches_of(placement(1, 3, 1, 2), 8), (std::vector<int32_t>{6, 7}));
  EXPECT_EQ(microbatches_of(placement(1, 3, 3, 0), 8), (std::vector<int32_t>{0, 3, 6}));
  EXPECT_EQ(microbatches_of(placement(1, 3, 3, 2), 8), (std::vector<int32_t>{2, 5}));
  EXPECT_EQ(microbatches_of(placement(2, 2, 2, 3), 8), (std::vector<int32_t>{5, 7}));
  EXPECT_EQ(microbatches_of(placement(3, 1, 3, 1), 8), (std::vector<int32_t>{3, 4, 5}));
  EXPECT_EQ(rounds_of(placement(1, 3, 3, 0), 8), 3);
  EXPECT_EQ(round_of(placement(1, 3, 3, 0), 8, 2), (Range{6, 8}));
}

TEST(Share, GivesEachMicrobatchToOneRankAndLoadsEvenly) {
  for (int replicas = 1; replicas <= 5; ++replicas) {
    for (int shards = 1; shards <= 5; ++shards) {
      for (const int stage : {1, 3}) {
        for (int32_t k = 0; k <= 40; ++k) {
          std::vector<int> owners(k, 0);
          size_t most = 0, least = 99;
          for (int rank = 0; rank < replicas * shards; ++rank) {
            const Placement place = placement(replicas, shards, stage, rank);
            const std::vector<int32_t> own = microbatches_of(place, k);
            for (const int32_t m : own) ++owners[m];
            for (int32_t m = 0; m < k; ++m) {
              EXPECT_EQ(takes(place, k, m), std::find(own.begin(), own.end(), m) != own.end());
            }
            most = std::max(most, own.size());
            least = std::min(least, own.size());
          }
          EXPECT_TRUE(std::all_of(owners.begin(), owners.end(), [](int n) { return n == 1; }));
          EXPECT_LE(most - least, 1u) << replicas << " " << shards << " " << k;
        }
      }
    }
  }
}

FlatLayout flat_of(std::vector<int64_t> blocks) {
  FlatLayout flat;
  for (const int64_t n : blocks) {
    UnitLayout& unit = flat.units.emplace_back();
    unit.spans = {{0, 0, n * kGrid}};
    unit.trained_elements = unit.elements = n * kGrid;
  }
  return flat;
}

TEST(Slices, PartitionEveryBufferOnTheGridAndLoadsEvenly) {
  const FlatLayout flat = flat_of({1, 1, 1, 1, 2, 3, 5, 8, 13, 100, 1, 1});
  for (int replicas = 1; replicas <= 4; ++replicas) {
    for (int shards = 1; shards <= 5; ++shards) {
      std::vector<int64_t> held(replicas * shards, 0);
      for (int unit = 0; unit < static_cast<int>(flat.units.size()); ++unit) {
        int64_t at = 0;
        for (int s = 0; s < shards; ++s) {
          const Placement first = placement(replicas, shards, 1, s);
          const Slice shard = part_slice(flat, first, {unit, 0}, Part::kShard);
          EXPECT_EQ(shard.begin, at);
          EXPECT_EQ(shard.end % kGrid, 0);
          const std::vector<Slice> pieces = member_slices(flat, first, {unit, 0}, GroupAxis::kReplicate);
          for (int r = 0; r < replicas; ++r) {
            EXPECT_EQ(pieces[r].begin, at);
            at = pieces[r].end;
            held[r * shards + s] += pieces[r].size();
          }
          EXPECT_EQ(shard.end, at);
        }
        EXPECT_EQ(at, flat.units[unit].elements);
      }
      const auto [least, most] = std::minmax_element(held.begin(), held.end());
      EXPECT_LE(*most - *least, 6 * kGrid) << replicas << " " << shards;  // of 137 blocks
    }
  }
}

TEST(Slices, ATiedUseIsCutWhereItsOwnerIs) {
  FlatLayout flat = flat_of({4});
  flat.tied.push_back({0, 1, 1, 0, 512, 2048});  // elements 512 to 2559 of the owner's 4096
  const auto shard = [&](int s) { return part_slice(flat, placement(1, 4, 1, s), {0, 1}, Part::kShard); };
  EXPECT_EQ(shard(0), (Slice{0, 512}));
  EXPECT_EQ(shard(1), (Slice{512, 1536}));
  EXPECT_EQ(shard(2), (Slice{1536, 2048}));
  EXPECT_EQ(shard(3), (Slice{2048, 2048}));  // empty
  EXPECT_EQ(buffer_elements(flat, {0, 1}), 2048);
  EXPECT_THROW(buffer_elements(flat, {0, 2}), Error);
}

TEST(Tree, CoversRangesWithTheLargestNodes) {
  const GradientTree tree(11);
  EXPECT_EQ(tree.cover({0, 11}), (std::vector<Range>{{0, 11}}));
  EXPECT_EQ(tree.cover({3, 10}), (std::vector<Range>{{3, 4}, {4, 8}, {8, 10}}));
  EXPECT_EQ(tree.cover({5, 5}), (std::vector<Range>{}));
  EXPECT_TRUE(tree.is_node({8, 11}));
  EXPECT_FALSE(tree.is_node({2, 6}));
  EXPECT_EQ(tree.parent({8, 10}), (Range{8, 11}));
  EXPECT_EQ(tree.parent({0, 11}), std::nullopt);
}

TEST(Tree, ByRanksAddsWhatARankHasFirst) {
  const GradientTree tree(placement(1, 3, 1, 0, TreeKind::kByRanks), 8);  // blocks of 3, 3, 2
  EXPECT_EQ(tree.split({0, 8}), 6);
  EXPECT_EQ(tree.split({0, 6}), 3);
  EXPECT_EQ(tree.split({3, 6}), 5);
  EXPECT_EQ(tree.cover({3, 6}), (std::vector<Range>{{3, 6}}));
  const GradientTree both(placement(2, 3, 1, 0, TreeKind::kByRanks), 14);  // 7 and 7; 3, 2, 2
  EXPECT_EQ(both.split({0, 14}), 7);
  EXPECT_EQ(both.split({7, 14}), 12);
  EXPECT_EQ(both.split({7, 12}), 10);
}

TEST(Tree, ANodeSetAddsAsSoonAsBothChildrenAreThere) {
  std::mt19937 rng(3);
  for (int32_t k = 1; k <= 33; ++k) {
    const GradientTree tree(k);
    std::vector<int32_t> order(k);
    for (int32_t m = 0; m < k; ++m) order[m] = m;
    for (int round = 0; round < 5; ++round) {
      NodeSet set(tree);
      size_t sums = 0;
      for (const int32_t m : order) {
        for (const NodeSum& sum : set.insert({m, m + 1})) {
          EXPECT_EQ(sum.left.end, tree.split(sum.sum));
          EXPECT_EQ(sum.right, (Range{sum.left.end, sum.sum.end}));
          ++sums;
        }
      }
      EXPECT_EQ(sums, static_cast<size_t>(k - 1));
      EXPECT_EQ(set.nodes(), (std::vector<Range>{{0, k}}));
      std::shuffle(order.begin(), order.end(), rng);
    }
  }
}

TEST(Aligned, SaysWhetherStrictOrderIsFree) {
  EXPECT_TRUE(is_aligned(placement(2, 1, 0, 0), 8));
  EXPECT_TRUE(is_aligned(placement(3, 1, 0, 0), 6));  // blocks of two
  EXPECT_TRUE(is_aligned(placement(3, 1, 0, 0), 3));
  EXPECT_FALSE(is_aligned(placement(3, 1, 0, 0), 9));  // [3,6) is two nodes
  EXPECT_TRUE(is_aligned(placement(1, 3, 3, 0), 9));   // one leaf a rank and round
  EXPECT_FALSE(is_aligned(placement(1, 3, 1, 0), 9));
  EXPECT_FALSE(is_aligned(placement(2, 3, 3, 0), 18));
  EXPECT_TRUE(is_aligned(placement(2, 3, 3, 0), 16));
}

// The sum that a plain exchange is: by members, split at the largest power of two below their number.
std::string by_members(const Exchange& exchange, size_t first, size_t last) {
  if (last - first == 1) return fmt::format("{}", exchange.nodes[first][0].begin);
  const size_t middle = first + std::bit_floor(last - first - 1);
  return fmt::format("({}+{})", by_members(exchange, first, middle), by_members(exchange, middle, last));
}

TEST(Exchange, OfAProgramAddsUpToWhatItWrites) {
  const ModelSpec spec = testing::chain(2);
  size_t plain = 0, split = 0;
  for (const auto& [replicas, shards, stage] :
       {std::array{1, 2, 1}, std::array{4, 1, 1}, std::array{1, 4, 2}, std::array{1, 3, 3},
        std::array{2, 3, 3}, std::array{2, 2, 1}, std::array{1, 8, 1}}) {
    const int world = replicas * shards;
    for (int k = world; k <= 3 * world; ++k) {
      for (int rank = 0; rank < world; ++rank) {
        TrainOptions options{std::vector<int64_t>(k, 2), {}, 0};
        options.ranks = {rank, stage, Reshard::kDefault, Deterministic::kStrict, 1};
        const Program program = compile_train(spec, Layout({1, replicas, shards, 1, 1, 1}, world), options);
        const GradientTree tree(program.placement, k);
        for (const Instruction& instruction : program.instructions) {
          if (instruction.op != Op::kReduceGrads) continue;
          const Exchange exchange = exchange_of(program, instruction);
          EXPECT_EQ(exchange.ranks[exchange.self], rank);
          std::vector<Range> own;
          for (const Value& value : instruction.reads) own.push_back({value.begin, value.end});
          EXPECT_EQ(own, exchange.nodes[exchange.self]);
          std::map<Range, std::string> sums;
          for (const auto& nodes : exchange.nodes) {
            for (const Range& node : nodes) sums[node] = fmt::format("{}", node.begin);
          }
          for (const NodeSum& sum : exchange_sums(exchange, tree)) {
            sums[sum.sum] = fmt::format("({}+{})", sums.at(sum.left), sums.at(sum.right));
            sums.erase(sum.right);
            if (sum.left != sum.sum) sums.erase(sum.left);
          }
          ASSERT_EQ(sums.size(), exchange.result.size());
          for (const Range& result : exchange.result) EXPECT_TRUE(sums.contains(result));
          ++(exchange.plain ? plain : split);
          if (!exchange.plain) continue;
          EXPECT_EQ(sums.begin()->second, by_members(exchange, 0, exchange.ranks.size()));
        }
      }
    }
  }
  EXPECT_GT(plain, 100u);
  EXPECT_GT(split, 100u);
}

}  // namespace
}  // namespace furrow::plan
