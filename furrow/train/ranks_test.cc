// The layout changes no bit: ranks x layouts x microbatches end with the parameters, optimizer state, loss
// and norm of one process, strictly.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <barrier>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <numeric>

#include "furrow/base/error.h"
#include "furrow/base/memory.h"
#include "furrow/plan/buckets.h"
#include "furrow/plan/optimizer_spec.h"
#include "furrow/plan/quote.h"
#include "furrow/plan/workspace.h"
#include "tests/testing/tiny_world_torch.h"

namespace furrow::train {
namespace {

using testing::RankResult;
using testing::run_steps;
using testing::run_world;
using testing::StepOptions;
using testing::StepResult;
using testing::TinyTraining;
using testing::WorldOptions;

// `--full` runs the whole product over twenty steps.
bool full() { return std::getenv("FURROW_TEST_FULL") != nullptr; }

std::vector<WorldOptions> layouts_of(int ranks) {
  std::vector<WorldOptions> layouts = {{.replicate = ranks}};
  if (ranks == 1) return layouts;
  for (const int stage : {1, 2, 3}) {
    layouts.push_back({.shard = ranks, .zero_stage = stage});
    if (ranks % 2 == 0 && ranks > 2)
      layouts.push_back({.replicate = 2, .shard = ranks / 2, .zero_stage = stage});
    if (ranks == 8) layouts.push_back({.replicate = 4, .shard = 2, .zero_stage = stage});
  }
  return layouts;
}

// `each` microbatches a rank, the last of the global batch smaller.
std::vector<int64_t> microbatches(int ranks, int each) {
  std::vector<int64_t> sizes(static_cast<size_t>(ranks * each), 2);
  sizes.back() = 1;
  return sizes;
}

// Every unit that may share collectives with its neighbours does.
constexpr int64_t kOneBucket = int64_t{1} << 30;

// Whether instructions of the program are carried out as one.
bool shares(const plan::FlatLayout& flat, const plan::Program& program) {
  const std::vector<int32_t> ends = plan::run_ends(flat, program);
  for (size_t i = 0; i < ends.size(); ++i) {
    if (ends[i] != static_cast<int32_t>(i)) return true;
  }
  return false;
}

// Neighbours of which have no bucket in common.
bool has_several_types(const plan::FlatLayout& flat) {
  return std::ranges::any_of(
      flat.units, [&](const plan::UnitLayout& unit) { return unit.compute != flat.units[0].compute; });
}

void expect_same(const TinyTraining& tiny, const StepOptions& options, const WorldOptions& world,
                 const StepResult& whole, const std::function<void(const RankResult&)>& inspect = {}) {
  SCOPED_TRACE(tiny.name + " " + world.name());
  run_world(tiny, options, world, [&](const RankResult& rank) {
    EXPECT_EQ(testing::difference(rank, whole), "")
        << world.name() << " " << options.microbatch_sizes.size() << " microbatches";
    if (inspect) inspect(rank);
  });
}

class Bits : public ::testing::TestWithParam<std::string> {
 protected:
  TinyTraining tiny_ = testing::tiny(GetParam());
};

TEST_P(Bits, EqualOneProcessInEveryLayout) {
  for (const int ranks : {1, 2, 3, 4, 8}) {
    for (const int each : {1, 3, 4, 8}) {
      const bool chosen = full() || ranks * each <= 12;
      if (!chosen) continue;
      StepOptions options;
      options.microbatch_sizes = microbatches(ranks, each);
      options.steps = full() ? 20 : 2;
      const StepResult whole = run_steps(tiny_, options);
      for (const WorldOptions& world : layouts_of(ranks)) expect_same(tiny_, options, world, whole);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Tiny, Bits,
                         ::testing::Values("convnet", "gpt-tied", "lstm", "resnet", "distilled", "gan",
                                           "weighted", "units", "normed", "normed@bfloat16",
                                           "convnet@bfloat16", "gpt-tied@bfloat16", "lstm@bfloat16",
                                           "resnet@bfloat16", "gan@bfloat16", "gpt-tied@float16",
                                           "distilled@float16", "gan@float16", "gpt-tied@bfloat16@bfloat16",
                                           "convnet@float32@bfloat16", "gpt-tied@float32@float16",
                                           "convnet@three-types", "gpt-tied@three-types",
                                           "distilled@three-types", "gan@three-types"),
                         [](const auto& info) { return testing::test_name(info.param); });

std::vector<WorldOptions> four_ranks(int64_t bucket_bytes = 0) {
  std::vector<WorldOptions> worlds = {{.replicate = 4},
                                      {.shard = 4, .zero_stage = 1},
                                      {.shard = 4, .zero_stage = 2},
                                      {.shard = 4, .zero_stage = 3},
                                      {.replicate = 2, .shard = 2, .zero_stage = 3}};
  for (WorldOptions& world : worlds) world.bucket_bytes = bucket_bytes;
  return worlds;
}

std::vector<WorldOptions> four_ranks_in_buckets_and_not() {
  std::vector<WorldOptions> worlds = four_ranks();
  for (const WorldOptions& world : four_ranks(kOneBucket)) worlds.push_back(world);
  return worlds;
}

TEST_P(Bits, EqualUnderRecomputeAnyReshardPolicyAndPrefetch) {
  StepOptions options;
  options.microbatch_sizes = {2, 2, 2, 2, 2, 2, 2, 1};
  options.recompute.assign(tiny_.spec.units.size(), true);
  options.steps = 3;
  const StepResult whole = run_steps(tiny_, options);
  for (const plan::Reshard reshard :
       {plan::Reshard::kDefault, plan::Reshard::kAlways, plan::Reshard::kNever}) {
    for (const int prefetch : {0, 1, 4}) {
      expect_same(tiny_, options,
                  {.shard = 4, .zero_stage = 3, .reshard = reshard, .prefetch_units = prefetch}, whole);
    }
  }
}

// Whichever units share collectives, in whole batches and in shares that are not aligned.
TEST_P(Bits, EqualInBucketsOfAnySize) {
  for (const int ranks : {2, 3, 4}) {
    for (const int each : {1, 3}) {
      StepOptions options;
      options.microbatch_sizes = microbatches(ranks, each);
      options.steps = full() ? 20 : 2;
      if (each == 3) options.recompute.assign(tiny_.spec.units.size(), true);
      const StepResult whole = run_steps(tiny_, options);
      for (WorldOptions world : layouts_of(ranks)) {
        for (const int64_t bytes : {int64_t{16} << 10, kOneBucket}) {
          world.bucket_bytes = bytes;
          expect_same(tiny_, options, world, whole, [&](const RankResult& rank) {
            const plan::FlatLayout& flat = rank.model.flat();
            EXPECT_TRUE(bytes < kOneBucket || has_several_types(flat) || shares(flat, rank.program));
          });
        }
      }
    }
  }
}

TEST_P(Bits, EqualWithEveryOptimizerOnShards) {
  StepOptions options;
  options.microbatch_sizes = {2, 2, 2, 1};
  options.steps = 3;
  for (const plan::OptimizerSpec& optimizer : plan::optimizer_specs()) {
    TinyTraining tiny = tiny_;
    tiny.config.optimizer.name = std::string(optimizer.name);
    tiny.config.optimizer.momentum = 0.9;
    const StepResult whole = run_steps(tiny, options);
    for (const int stage : {1, 2, 3}) expect_same(tiny, options, {.shard = 3, .zero_stage = stage}, whole);
  }
}

// Several optimizers in one unit: states of every form, whole and cut parameters, an average.
TEST_P(Bits, EqualWithSeveralOptimizersOnShards) {
  StepOptions options;
  options.microbatch_sizes = {2, 2, 2, 1};
  options.steps = 3;
  TinyTraining tiny = tiny_;
  const StepResult plain = run_steps(tiny, options);
  tiny.config.optimizer.momentum = 0.9;
  tiny.config.ema.decay = 0.8;
  for (const std::vector<std::string>& groups :
       {std::vector<std::string>{"*.weight name=muon", "*1.weight name=adamw8bit", "*.bias name=sgd"},
        {"*.weight name=adafactor lr=1e-3", "*2.* name=lamb", "*.bias name=lion"}}) {
    tiny.config.optimizer.groups = groups;
    if (GetParam().starts_with("gpt")) tiny.config.optimizer.groups[1] = "h.1.attn.* name=lamb";
    if (GetParam().starts_with("lstm")) tiny.config.optimizer.groups[1] = "lstm.1.* name=lamb";
    const StepResult whole = run_steps(tiny, options);
    EXPECT_FALSE(testing::same_bits(plain.params, whole.params)) << "control: they count";
    for (const WorldOptions& world : testing::some_layouts()) expect_same(tiny, options, world, whole);
  }
}

// Rules, frozen parameters (of whole units and of parts, at the start and between) and an average of the
// weights: the same on shards, and what is frozen stays.
TEST_P(Bits, EqualWithGroupsFrozenParametersAndAnAverage) {
  StepOptions options;
  options.microbatch_sizes = {2, 2, 2, 1};
  options.steps = 3;
  const size_t first_unit = tiny_.spec.units[0].parameters.empty() ? 1 : 0;
  const std::string first = tiny_.spec.units[first_unit].parameters[0].name;
  const std::string inside = GetParam().starts_with("gpt-tied") ? "h.1.attn.*"
                             : GetParam().starts_with("lstm")   ? "lstm.1.*"
                                                                : "*2.weight";
  const std::vector<std::vector<std::string>> all = {
      {"*.weight lr=0.002 weight_decay=0.5 beta2=0.8", "*.bias lr=0.1 beta1=0.5 eps=1e-4"},
      {first + " frozen=true"},
      {inside + " frozen=true", "*.bias frozen=true"}};
  for (const std::vector<std::string>& groups : all) {
    for (const std::string optimizer : {"adamw", "lamb"}) {
      TinyTraining tiny = tiny_;
      tiny.config.optimizer.name = optimizer;
      const StepResult plain = run_steps(tiny, options), start = run_steps(tiny, {.steps = 0});
      tiny.config.optimizer.groups = groups;
      tiny.config.ema.decay = 0.8;
      const StepResult whole = run_steps(tiny, options);
      EXPECT_FALSE(testing::same_bits(plain.params, whole.params)) << "control: groups count";
      for (const WorldOptions& world : four_ranks_in_buckets_and_not())
        expect_same(tiny, options, world, whole);
    }
  }
}

// Negative controls: what must be seen is seen.
TEST_P(Bits, AFlippedBitOrASwappedMicrobatchIsSeen) {
  StepOptions options;
  options.microbatch_sizes = {2, 2, 2, 2};
  StepResult whole = run_steps(tiny_, options);
  options.position = 2;  // every rank reads its neighbour's samples
  for (const WorldOptions& world : four_ranks_in_buckets_and_not()) {
    run_world(tiny_, options, world, [&](const RankResult& rank) {
      EXPECT_NE(testing::difference(rank, whole), "") << world.name();
    });
  }
  options.position = 0;
  for (const at::Tensor& params : whole.params) {
    if (params.defined()) reinterpret_cast<uint32_t*>(params.data_ptr<float>())[3] ^= 1;
  }
  for (const WorldOptions& world : four_ranks_in_buckets_and_not()) {
    std::atomic<int> seen = 0;
    run_world(tiny_, options, world,
              [&](const RankResult& rank) { seen += testing::difference(rank, whole).empty() ? 0 : 1; });
    EXPECT_GE(seen, 1) << world.name();
  }
}

TEST(Statistics, AFlippedBitIsSeen) {
  const TinyTraining tiny = testing::tiny("resnet");
  StepOptions options;
  options.microbatch_sizes = {2, 2, 2, 2};
  StepResult whole = run_steps(tiny, options);
  reinterpret_cast<uint32_t*>(whole.statistics[1].data_ptr<float>())[2] ^= 1;
  for (const WorldOptions& world : four_ranks()) {
    run_world(tiny, options, world, [&](const RankResult& rank) {
      EXPECT_EQ(testing::difference(rank, whole), fmt::format("rank {}, unit 1: statistics", rank.rank));
    });
  }
}

// The tree by ranks is another order: it must not pass for the canonical one by accident.
TEST_P(Bits, TheTreeByRanksIsAnotherOrder) {
  StepOptions options;
  options.microbatch_sizes.assign(9, 2);
  options.steps = 3;
  const StepResult whole = run_steps(tiny_, options);
  const WorldOptions strict{.replicate = 2};
  WorldOptions off = strict;
  off.deterministic = plan::Deterministic::kOff;
  expect_same(tiny_, options, strict, whole);
  run_world(tiny_, options, off,
            [&](const RankResult& rank) { EXPECT_NE(testing::difference(rank, whole), ""); });
}

// Bytes by kind, of all ranks together, while all are alive.
TEST_P(Bits, MemoryIsWhatTheFormulaSays) {
  StepOptions options;
  options.microbatch_sizes.assign(8, 2);
  TinyTraining tiny = tiny_;
  std::vector<std::pair<std::string, WorldOptions>> cases;
  for (const WorldOptions& world : four_ranks_in_buckets_and_not()) cases.emplace_back("adamw", world);
  for (const char* name : {"adafactor", "adamw8bit", "muon"}) cases.emplace_back(name, four_ranks().back());
  for (const auto& [optimizer, world] : cases) {
    SCOPED_TRACE(world.name() + " " + optimizer);
    tiny.config.optimizer.name = optimizer;
    std::array<int64_t, kMemoryKinds> before{};
    for (size_t k = 0; k < kMemoryKinds; ++k)
      before[k] = memory_usage(static_cast<MemoryKind>(k)).current_bytes;
    const auto grown = [&](MemoryKind kind) {
      return static_cast<double>(memory_usage(kind).current_bytes - before[static_cast<size_t>(kind)]);
    };
    std::barrier together(world.ranks());
    std::array<std::atomic<int64_t>, kMemoryKinds> planned{};
    std::atomic<int64_t> final_bytes = 0;  // of the gradients: what is not final is itemised
    run_world(tiny, options, world, [&](const RankResult& rank) {
      for (const plan::Slot& slot : rank.program.slots) planned[static_cast<size_t>(slot.kind)] += slot.bytes;
      const plan::Quote quote = plan::quote(rank.program, tiny.trained_spec());
      for (const plan::MemoryItem& item : quote.memory)
        final_bytes += item.name == "gradients, final" ? item.bytes : 0;
      together.arrive_and_wait();
      if (rank.rank == 0) {
        const double ranks = world.ranks();
        const double params = quote.formula.parameters + quote.formula.teacher;
        EXPECT_NEAR(grown(MemoryKind::kParameters) / (params * ranks), 1, 0.02);
        EXPECT_NEAR(grown(MemoryKind::kOptimizer) / (quote.formula.optimizer * ranks), 1, 0.02);
        for (const MemoryKind kind : {MemoryKind::kGradients, MemoryKind::kGathered}) {
          const auto expected = static_cast<double>(planned[static_cast<size_t>(kind)]);
          EXPECT_NEAR(grown(kind), expected, 0.02 * expected) << to_string(kind);
        }
        // However uneven the slices of ranks are, together they are whole buffers; those of phases that
        // follow one another share theirs.
        const int64_t whole = std::llround(quote.formula.gradients * ranks);
        const bool phases = tiny.trained_spec().phases.size() > 1;
        EXPECT_TRUE(phases ? final_bytes <= whole : final_bytes == whole)
            << quote.formula.text << ": " << final_bytes << " of " << whole;
      }
      together.arrive_and_wait();
    });
  }
}

// Workspace of a world while it lives, of all ranks together, and what of it exchanges were planned to take.
struct Workspace {
  int64_t held = 0, staged = 0;
};

Workspace workspace_of(const TinyTraining& tiny, const WorldOptions& world, size_t microbatches) {
  StepOptions options;
  options.microbatch_sizes.assign(microbatches, 2);
  options.steps = 3;
  std::barrier together(world.ranks());
  std::atomic<int64_t> staged = 0;
  Workspace workspace;
  const int64_t before = memory_usage(MemoryKind::kOther).current_bytes;
  run_world(tiny, options, world, [&](const RankResult& rank) {
    staged += plan::exchange_staging_bytes(rank.program, tiny.trained_spec());
    together.arrive_and_wait();
    if (rank.rank == 0) workspace.held = memory_usage(MemoryKind::kOther).current_bytes - before;
    together.arrive_and_wait();
  });
  workspace.staged = staged;
  return workspace;
}

// What ranks receive each other's nodes in is planned: so much more is held where shares are not aligned,
// beside whole blocks that communication takes by itself.
TEST(Exchanges, HoldWhatIsPlanned) {
  for (const char* name : {"mlp", "gpt-tied", "mlp@float32@bfloat16"}) {
    const TinyTraining tiny = testing::tiny(name);
    for (const WorldOptions& world : {WorldOptions{.replicate = 3}, WorldOptions{.shard = 3, .zero_stage = 1},
                                      WorldOptions{.replicate = 3, .shard = 2, .zero_stage = 2},
                                      WorldOptions{.replicate = 3, .bucket_bytes = kOneBucket}}) {
      const size_t each = static_cast<size_t>(world.ranks());
      workspace_of(tiny, world, each);  // what kernels keep for a thread is there
      const Workspace aligned = workspace_of(tiny, world, each),
                      unaligned = workspace_of(tiny, world, 3 * each);
      EXPECT_EQ(aligned.staged, 0) << name << " " << world.name();
      EXPECT_GT(unaligned.staged, 0) << name << " " << world.name();
      EXPECT_EQ((unaligned.held - aligned.held - unaligned.staged) % (1 << 20), 0)
          << name << " " << world.name() << ": " << unaligned.held - aligned.held << ", " << unaligned.staged;
    }
  }
}

// A rank that is asked to stop: all hear of it with the same step, and the step is applied.
TEST(Vote, AllRanksHearThatOneWasAskedToStop) {
  const TinyTraining tiny = testing::tiny("mlp");
  StepOptions options;
  options.microbatch_sizes.assign(4, 2);
  const StepResult whole = run_steps(tiny, options);
  CancelToken cancel;
  cancel.cancel(15);
  run_world(
      tiny, options, {.replicate = 2, .shard = 2},
      [&](const RankResult& rank) {
        EXPECT_EQ(rank.outputs.stop, 15);
        EXPECT_EQ(testing::difference(rank, whole), "");
      },
      [&](RankContext& rank) {
        if (rank.rank == 2) rank.cancel = &cancel;
      });
}

TEST(Trace, CommunicationHasItsOwnLaneAndIsTimed) {
  const TinyTraining tiny = testing::tiny("mlp");
  StepOptions options;
  options.microbatch_sizes.assign(2, 2);
  options.trace = true;
  run_world(tiny, options, {.shard = 2}, [&](const RankResult& rank) {
    int64_t flights = 0, instructions = 0;
    for (const observe::TraceEvent& event : rank.trace) flights += event.stream == "comm" ? 1 : 0;
    for (const plan::Instruction& instruction : rank.program.instructions)
      instructions += instruction.stream == plan::Stream::kComm ? 1 : 0;
    EXPECT_EQ(flights, instructions);
    EXPECT_EQ(rank.trace.size(), rank.program.instructions.size());
    EXPECT_GT(rank.outputs.comm.busy_ns, 0);
    const std::vector<int64_t>& waits = rank.outputs.comm.waits;
    EXPECT_FALSE(waits.empty());
    EXPECT_EQ(std::accumulate(waits.begin(), waits.end(), int64_t{0}), rank.outputs.comm.exposed_ns);
  });
}

}  // namespace
}  // namespace furrow::train
