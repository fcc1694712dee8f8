#include "furrow/plan/quote.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <optional>
#include <tuple>

#include "furrow/base/error.h"
#include "furrow/plan/compile.h"
#include "furrow/plan/cost.h"
#include "furrow/plan/simulate.h"
#include "furrow/plan/testing/specs.h"
#include "furrow/plan/verify.h"

namespace furrow::plan {
namespace {

using ::testing::HasSubstr;

TEST(Quote, SumsFlopsOverInstructions) {
  const ModelSpec spec = testing::chain(3, 8);  // forward 128, backward 192 and 256 a sample and unit
  const Program program = compile_train(spec, Layout(), {{4, 4, 2}, {false, true, false}, 1});
  const Quote q = quote(program, spec);
  EXPECT_EQ(q.samples, 10);
  EXPECT_EQ(q.microbatches, 3);
  EXPECT_EQ(q.flops.forward, 10 * 3 * 128.0);
  EXPECT_EQ(q.flops.recompute, 10 * 128.0);
  EXPECT_EQ(q.flops.backward_input, 10 * 2 * 192.0);  // the first unit's input needs none
  EXPECT_EQ(q.flops.backward_weight, 10 * 3 * 256.0);
  EXPECT_EQ(q.flops.total(), 10 * (4 * 128.0 + 2 * 192.0 + 3 * 256.0));
  EXPECT_EQ(q.parameters, 3 * 72);
  EXPECT_EQ(q.instructions, static_cast<int64_t>(program.instructions.size()));
}

TEST(Quote, DescribesUnitsAndMemory) {
  const ModelSpec spec = testing::chain(2, 8);
  const Program program = compile_train(spec, Layout(), {{4}, {false, true}, 1});
  const Quote q = quote(program, spec);
  ASSERT_EQ(q.units.size(), 2u);
  EXPECT_EQ(q.units[0].name, "u0");
  EXPECT_EQ(q.units[0].parameters, 72);
  EXPECT_EQ(q.units[0].saved_bytes, 12);
  EXPECT_FALSE(q.units[0].recomputed);
  EXPECT_EQ(q.units[1].saved_bytes, 0);
  EXPECT_TRUE(q.units[1].recomputed);
  EXPECT_EQ(q.peak_bytes, verify(program, spec).peak_bytes);
  int64_t sum = 0;
  for (int64_t bytes : q.peak_bytes) sum += bytes;
  EXPECT_EQ(q.total_bytes(), sum);
}

// What the host holds is no memory of the device; what crosses between them is counted once each way.
TEST(Quote, AnOptimizerOnTheHost) {
  ModelSpec spec = testing::chain(3, 8);
  const TrainOptions options{.microbatch_sizes = {4, 4}, .recompute = {}, .optimizer_states = 2};
  const Quote plain = quote(compile_train(spec, Layout(), options), spec);
  for (Unit& unit : spec.units) unit.offload = true;
  const Quote host = quote(compile_train(spec, Layout(), options), spec);
  const int64_t unit = 1024 * 4;
  EXPECT_EQ(plain.host_bytes, 0);
  EXPECT_TRUE(plain.copies.empty());
  EXPECT_EQ(host.host_bytes, 3 * 3 * unit + 2 * unit);
  EXPECT_EQ(plain.total_bytes() - host.total_bytes(), 3 * 2 * unit);
  ASSERT_EQ(host.copies.size(), 2u);
  for (const CopyQuote& copy : host.copies) {
    EXPECT_EQ(copy.count, 3);
    EXPECT_EQ(copy.bytes, 3 * unit);
  }
}

// On the wire to the host, and by the host's memory, which its devices share.
TEST(Quote, CopiesAndStepsOfTheHostTakeTheirTime) {
  ModelSpec spec = testing::chain(1, 512);
  spec.units[0].offload = true;
  Cluster cluster;
  cluster.devices = 2;
  cluster.device = find_device("h100-sxm");
  const auto costs = analytic_costs(cluster);
  const Program program =
      compile_train(spec, Layout(), {.microbatch_sizes = {4}, .recompute = {}, .optimizer_states = 2});
  const ProgramCosts rows(*costs, spec, program, 1);
  const double bytes = (512 * 512 + 1024) * 4.0, overhead = cluster.device.overhead_s;
  for (const Instruction& instruction : program.instructions) {
    if (instruction.op == Op::kCopyDown || instruction.op == Op::kCopyUp) {
      EXPECT_DOUBLE_EQ(rows.seconds(instruction), overhead + bytes / 49e9);
    }
    if (instruction.op == Op::kStep) {  // two states and masters, read and written; gradient and what goes up
      EXPECT_DOUBLE_EQ(rows.seconds(instruction), overhead + 8 * bytes / 150e9);
    }
  }
  // A device's memory is without it.
  ModelSpec plain = spec;
  plain.units[0].offload = false;
  const Program inside =
      compile_train(plain, Layout(), {.microbatch_sizes = {4}, .recompute = {}, .optimizer_states = 2});
  const auto held = [&](const Program& each, const ModelSpec& of) {
    return simulate(std::span(&each, 1), of, *costs).ranks[0].peak_total_bytes;
  };
  EXPECT_EQ(held(inside, plain) - held(program, spec), static_cast<int64_t>(2 * bytes));
}

// A model whose units divide by eight, so that every rank has the same.
ModelSpec even_model() { return testing::chain(4, 256); }  // 65,536 + 256, padded to 66,560: 65 grid blocks

ModelSpec divisible_model() {
  ModelSpec spec = testing::chain(3, 512);
  for (Unit& unit : spec.units) unit.parameters.pop_back();  // 256 grid blocks
  return spec;
}

TrainOptions rank_options(int k, int rank, int stage) {
  TrainOptions options{std::vector<int64_t>(k, 2), {}, 2};
  options.ranks = {rank, stage, Reshard::kAlways, Deterministic::kStrict, 1};
  return options;
}

Quote quote_of(const ModelSpec& spec, int replicas, int shards, const TrainOptions& options) {
  const Layout layout({1, replicas, shards, 1, 1, 1}, replicas * shards);
  return quote(compile_train(spec, layout, options), spec);
}

double without_scalar(const Quote& q, double CollectiveQuote::* bytes) {
  double sum = 0;
  for (const CollectiveQuote& each : q.collectives) {
    if (each.op != Op::kReduceScalar) sum += each.*bytes;
  }
  return sum;
}

TEST(QuoteRanks, BytesOfAStepAreTheKnownMultiplesOfDataParallel) {
  const ModelSpec spec = divisible_model();
  for (const int n : {2, 4, 8}) {
    const double g = 3 * 512 * 512 * 4.0, data_parallel = 2.0 * (n - 1) / n * g;
    const auto bytes = [&](int replicas, int shards, int stage, int k) {
      const Quote q = quote_of(spec, replicas, shards, rank_options(k, n - 1, stage));
      EXPECT_EQ(q.data_parallel_bytes, data_parallel);
      EXPECT_EQ(without_scalar(q, &CollectiveQuote::mean_bytes),
                without_scalar(q, &CollectiveQuote::bound_bytes));
      return without_scalar(q, &CollectiveQuote::mean_bytes) / data_parallel;
    };
    EXPECT_EQ(bytes(n, 1, 3, n), 1.0);
    EXPECT_EQ(bytes(1, n, 1, n), 1.0);
    EXPECT_EQ(bytes(1, n, 2, n), 1.0);
    EXPECT_EQ(bytes(1, n, 3, n), 1.5);
    // Four microbatches a rank: ZeRO-2 reduces each, ZeRO-3 gathers for each too.
    EXPECT_EQ(bytes(n, 1, 3, 4 * n), 1.0);
    EXPECT_EQ(bytes(1, n, 1, 4 * n), 1.0);
    EXPECT_EQ(bytes(1, n, 2, 4 * n), 0.5 + 4 * 0.5);
    EXPECT_EQ(bytes(1, n, 3, 4 * n), 4 * 1.5);
  }
}

TEST(QuoteRanks, ReshardPolicyMovesTheBytesOfZero3) {
  const ModelSpec spec = divisible_model();
  const auto ratio = [&](Reshard reshard, int k) {
    TrainOptions options = rank_options(k, 0, 3);
    options.ranks.reshard = reshard;
    const Quote q = quote_of(spec, 1, 2, options);
    return without_scalar(q, &CollectiveQuote::mean_bytes) / q.data_parallel_bytes;
  };
  EXPECT_EQ(ratio(Reshard::kAlways, 2), 1.5);
  EXPECT_EQ(ratio(Reshard::kDefault, 2), 1.5 - 0.5 / 3);  // the last of three equal units is gathered once
  EXPECT_EQ(ratio(Reshard::kNever, 2), 1.0);
  EXPECT_EQ(ratio(Reshard::kNever, 8), 0.5 + 4 * 0.5);
}

TEST(QuoteRanks, UnalignedStrictSharesCostWhatTheQuoteSays) {
  const ModelSpec spec = divisible_model();
  TrainOptions options = rank_options(9, 0, 1);  // shares of three: two nodes, two nodes, two nodes
  const Quote strict = quote_of(spec, 3, 1, options);
  const auto reduce = [](const Quote& q) {
    return *std::find_if(q.collectives.begin(), q.collectives.end(),
                         [](const CollectiveQuote& each) { return each.op == Op::kReduceGrads; });
  };
  EXPECT_EQ(reduce(strict).mean_bytes, 2 * reduce(strict).bound_bytes);
  EXPECT_THAT(strict.deterministic, HasSubstr("on: canonical tree: the bits of one rank; the shares of 9"));
  options.ranks.deterministic = Deterministic::kAuto;
  const Quote automatic = quote_of(spec, 3, 1, options);
  EXPECT_EQ(reduce(automatic).mean_bytes, reduce(automatic).bound_bytes);
  EXPECT_THAT(automatic.deterministic, HasSubstr("off: gradients are added by ranks, as the shares of 9"));
  options.microbatch_sizes.assign(6, 2);
  EXPECT_THAT(quote_of(spec, 3, 1, options).deterministic, HasSubstr("on: aligned shares, canonical tree"));
  EXPECT_THAT(quote_of(spec, 1, 1, options).deterministic, HasSubstr("one rank"));
}

// The price of strict, which the line says, is what the programs of both orders move.
TEST(QuoteRanks, TheCostOfTheCanonicalTreeIsThatOfItsProgram) {
  const ModelSpec spec = divisible_model();
  for (const auto& [replicas, shards, stage] : {std::tuple{3, 1, 0}, {1, 3, 1}, {3, 2, 2}, {3, 2, 3}}) {
    TrainOptions options = rank_options(9, 0, stage == 0 ? 1 : stage);
    const Layout layout({1, replicas, shards, 1, 1, 1}, replicas * shards);
    options.ranks.deterministic = Deterministic::kStrict;
    const double strict = quote_of(spec, replicas, shards, options).communication_bytes();
    options.ranks.deterministic = Deterministic::kOff;
    const Quote off = quote_of(spec, replicas, shards, options);
    const std::optional<TreeCost> cost = tree_cost(spec, layout, options);
    ASSERT_TRUE(cost);
    EXPECT_EQ(cost->strict_bytes, strict);
    EXPECT_EQ(cost->off_bytes, off.communication_bytes());
    EXPECT_GT(cost->strict_bytes, cost->off_bytes);
    const std::string times = fmt::format("({:.2f} times)", strict / cost->off_bytes);
    const Placement strict_place{layout, 0, stage, TreeKind::kCanonical};
    EXPECT_THAT(deterministic_line(strict_place, 9, cost), HasSubstr(times));
    EXPECT_THAT(deterministic_line(off.placement, 9, cost), HasSubstr(times));
  }
  EXPECT_FALSE(tree_cost(spec, Layout({1, 1, 3, 1, 1, 1}, 3), rank_options(9, 0, 3)));  // a leaf a round
  const TrainOptions aligned = rank_options(8, 0, 1);
  EXPECT_FALSE(tree_cost(spec, Layout({1, 2, 1, 1, 1, 1}, 2), aligned));
  EXPECT_FALSE(tree_cost(spec, Layout({1, 1, 1, 1, 1, 1}, 1), aligned));
}

TEST(QuoteRanks, BytesOfARankAddUpToTheMean) {
  const ModelSpec spec = even_model();  // slices differ by a block
  for (const auto& [replicas, shards, stage, k] :
       {std::array{3, 1, 3, 7}, std::array{1, 3, 1, 8}, std::array{1, 3, 3, 7}, std::array{1, 4, 2, 5}}) {
    double wire = 0, mean = 0;
    for (int rank = 0; rank < replicas * shards; ++rank) {
      const Quote q = quote_of(spec, replicas, shards, rank_options(k, rank, stage));
      for (const CollectiveQuote& each : q.collectives) {
        wire += static_cast<double>(each.wire_bytes);
        mean += each.mean_bytes;
        EXPECT_GE(each.mean_bytes, each.bound_bytes);
      }
    }
    EXPECT_NEAR(wire, mean, 1e-9 * mean);
  }
}

int64_t item(const Quote& q, const std::string& name) {
  for (const MemoryItem& each : q.memory) {
    if (each.name == name) return each.bytes;
  }
  return 0;
}

TEST(QuoteRanks, MemoryFollowsTheFormula) {
  const ModelSpec spec = divisible_model();
  const double p = 3 * 512 * 512 * 4.0;
  for (const int n : {2, 4, 8}) {
    const auto check = [&](int replicas, int shards, int stage, const std::string& text, double params,
                           double grads, double state) {
      const Quote q = quote_of(spec, replicas, shards, rank_options(replicas * shards, 1, stage));
      EXPECT_EQ(q.formula.text, text);
      EXPECT_EQ(q.formula.parameters, params);
      EXPECT_EQ(q.formula.gradients, grads);
      EXPECT_EQ(q.formula.optimizer, state);
      EXPECT_EQ(static_cast<double>(item(q, "parameters")), params);
      EXPECT_EQ(static_cast<double>(item(q, "gradients, final")), grads);
      EXPECT_EQ(static_cast<double>(item(q, "optimizer")), state);
      return q;
    };
    EXPECT_EQ(item(check(n, 1, 3, "p+g+o", p, p, 2 * p), "gradients, nodes and exchanges"), 0);
    EXPECT_EQ(
        item(check(1, n, 1, fmt::format("p+g+o/{}", n), p, p, 2 * p / n), "gradients, nodes and exchanges"),
        0);
    const Quote two = check(1, n, 2, fmt::format("p+(g+o)/{}", n), p, p / n, 2 * p / n);
    EXPECT_EQ(item(two, "gradients, nodes and exchanges"), 2 * 512 * 512 * 4);  // one at work, one on its way
    EXPECT_EQ(item(two, "gathered"), 0);
    const Quote three = check(1, n, 3, fmt::format("(p+g+o)/{}", n), p / n, p / n, 2 * p / n);
    EXPECT_EQ(item(three, "gathered"), 2 * 512 * 512 * 4);  // one at work, one ahead
    check(2, n, 3, fmt::format("(p+g+o)/{}", n), p / n, p / n, 2 * p / n);
  }
}

// Parameters that blocks read and gathers move have 2 bytes, masters count as optimizer state.
TEST(QuoteRanks, LowPrecisionHalvesParametersAndGathers) {
  ModelSpec spec = divisible_model();
  for (Unit& unit : spec.units) {
    unit.compute = DType::kBF16;
    unit.input.dtype = unit.output.dtype = DType::kBF16;
  }
  const int n = 4;
  const double elements = 3 * 512 * 512, data_parallel = 2.0 * (n - 1) / n * 4 * elements;
  const auto quoted = [&](int replicas, int shards, int stage) {
    return quote_of(spec, replicas, shards, rank_options(n, 1, stage));
  };
  const auto bytes = [&](const Quote& q) {
    return without_scalar(q, &CollectiveQuote::mean_bytes) / data_parallel;
  };
  const Quote ddp = quoted(n, 1, 3), one = quoted(1, n, 1), three = quoted(1, n, 3);
  EXPECT_EQ(bytes(ddp), 1.0);
  EXPECT_EQ(bytes(one), 0.5 + 0.25);
  EXPECT_EQ(bytes(quoted(1, n, 2)), 0.5 + 0.25);
  EXPECT_EQ(bytes(three), 0.5 + 2 * 0.25);
  EXPECT_EQ(ddp.formula.parameters, 2 * elements);
  EXPECT_EQ(ddp.formula.gradients, 4 * elements);
  EXPECT_EQ(ddp.formula.optimizer, 12 * elements);
  EXPECT_EQ(static_cast<double>(item(one, "parameters")), 2 * elements);
  EXPECT_EQ(static_cast<double>(item(one, "optimizer")), 12 * elements / n);
  EXPECT_EQ(static_cast<double>(item(three, "parameters")), 2 * elements / n);
  EXPECT_EQ(item(three, "gathered"), 2 * 512 * 512 * 2);
}

// Gradients of 2 bytes: half of what reduces and gathers of them move, and half the buffers; a unit in
// float32 beside them.
TEST(QuoteRanks, RoundedGradientsHalveWhatTheyMove) {
  ModelSpec wide = divisible_model(), narrow = wide;
  narrow.reduce = DType::kBF16;
  const int n = 4;
  for (const auto& [replicas, shards, stage] : {std::tuple(n, 1, 3), std::tuple(1, n, 1), std::tuple(1, n, 2),
                                                std::tuple(1, n, 3), std::tuple(2, 2, 3)}) {
    const Quote whole = quote_of(wide, replicas, shards, rank_options(n, 1, stage));
    const Quote half = quote_of(narrow, replicas, shards, rank_options(n, 1, stage));
    ASSERT_EQ(whole.collectives.size(), half.collectives.size());
    for (size_t i = 0; i < whole.collectives.size(); ++i) {
      const CollectiveQuote &before = whole.collectives[i], &after = half.collectives[i];
      const int part = before.op == Op::kReduceGrads || before.op == Op::kGatherGrads ? 2 : 1;
      EXPECT_EQ(after.wire_bytes * part, before.wire_bytes) << op_info(before.op).name;
      EXPECT_EQ(after.mean_bytes * part, before.mean_bytes) << op_info(before.op).name;
      EXPECT_EQ(after.bound_bytes * part, before.bound_bytes) << op_info(before.op).name;
    }
    EXPECT_EQ(2 * half.formula.gradients, whole.formula.gradients);
    EXPECT_EQ(half.formula.optimizer, whole.formula.optimizer);
    EXPECT_EQ(2 * item(half, "gradients, final"), item(whole, "gradients, final"));
    EXPECT_GE(item(half, "gradients, of a unit in float32"), 512 * 512 * 4);
    EXPECT_EQ(2 * half.data_parallel_bytes, whole.data_parallel_bytes);
  }
}

TEST(Quote, RefusesAnInvalidProgram) {
  const ModelSpec spec = testing::chain(2, 8);
  Program program = compile_train(spec, Layout(), {{4}, {}, 1});
  program.instructions.pop_back();
  EXPECT_THROW(quote(program, spec), Error);
}

}  // namespace
}  // namespace furrow::plan
