// Every layout, stage and number of microbatches: the programs of all ranks, run together on symbols, step
// every parameter with the one tree of its gradient.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <random>

#include "furrow/plan/compile.h"
#include "furrow/plan/testing/specs.h"
#include "furrow/plan/testing/world_machine.h"
#include "furrow/plan/unit_facts.h"
#include "furrow/plan/verify_world.h"

namespace furrow::plan {
namespace {

using testing::chain;
using testing::mix;
using testing::parameter;
using testing::statistic;
using testing::Symbol;
using testing::Symbols;
using testing::WorldMachine;

// Units of five, one and seven grid blocks; the first weight is used by two later units; the second and the
// third have statistics.
ModelSpec model() {
  ModelSpec spec = chain(4, 64);
  for (Unit& unit : spec.units) unit.parameters[1].shape = {64};
  spec.units[1].parameters = {parameter("u1.bias", {64})};
  spec.units[2].parameters.push_back(parameter("u2.more", {64, 32}));
  spec.units[2].parameters.push_back(parameter("u2.tied", {64, 64}, "u0.weight"));
  spec.units[3].parameters = {parameter("u3.tied", {64, 64}, "u0.weight")};
  spec.units[1].statistics = {statistic("u1.running_mean", {24}),
                              statistic("u1.batches", {}, Statistic::Fold::kCount)};
  spec.units[2].statistics = {statistic("u2.running_mean", {3})};
  return spec;
}

struct World {
  int replicas = 1, shards = 1, stage = 3, k = 1;
  Deterministic deterministic = Deterministic::kStrict;
  Reshard reshard = Reshard::kDefault;
  int prefetch = 1;
  std::vector<bool> recompute = {};
  int pp = 1;
  PipelineOptions pipeline = {};
  int64_t bucket_bytes = 0;

  int ranks() const { return pp * replicas * shards; }
  Layout layout() const { return Layout({pp, replicas, shards, 1, 1, 1}, ranks()); }
  std::string name() const {
    return fmt::format("pp {} schedule {} stages_per_rank {} ahead {} ", pp, pipeline.schedule,
                       pipeline.stages_per_rank, pipeline.receives_ahead) +
           fmt::format("dp_replicate {} dp_shard {} stage {} k {} deterministic {} reshard {} prefetch {}",
                       replicas, shards, stage, k, static_cast<int>(deterministic), static_cast<int>(reshard),
                       prefetch);
  }
};

TrainOptions options_of(const World& world, int rank) {
  TrainOptions options;
  options.microbatch_sizes.assign(world.k, 4);
  options.microbatch_sizes.back() = 3;
  options.recompute = world.recompute;
  options.optimizer_states = 1;
  options.ranks = {rank,           world.stage,    world.reshard,     world.deterministic,
                   world.prefetch, world.pipeline, world.bucket_bytes};
  return options;
}

std::vector<Program> train_programs(const ModelSpec& spec, const World& world) {
  std::vector<Program> programs;
  for (int rank = 0; rank < world.ranks(); ++rank) {
    programs.push_back(compile_train(spec, world.layout(), options_of(world, rank)));
  }
  return programs;
}

// Where the trees split, from their definitions: the canonical one, and the one that adds ranks' sums.
using Split = std::function<int(std::pair<int, int>)>;
int canonical_split(std::pair<int, int> node) {
  int size = 1;
  while (size * 2 < node.second - node.first) size *= 2;
  return node.first + size;
}
Split split_by(std::vector<std::vector<int>> levels) {  // ends of blocks, coarse first
  return [levels = std::move(levels)](std::pair<int, int> node) {
    for (const std::vector<int>& ends : levels) {
      std::vector<int> inside;  // ends of the blocks that the node spans
      for (const int end : ends) {
        if (end > node.first && end <= node.second) inside.push_back(end);
      }
      if (inside.size() < 2) continue;
      return inside[canonical_split({0, static_cast<int>(inside.size())}) - 1];
    }
    return canonical_split(node);
  };
}

std::vector<int> block_ends(int begin, int end, int blocks) {
  std::vector<int> ends;
  for (int i = 0, at = begin; i < blocks; ++i) {
    at += (end - begin) / blocks + (i < (end - begin) % blocks ? 1 : 0);
    ends.push_back(at);
  }
  return ends;
}

Split expected_split(const World& world, const Program& program) {
  if (program.placement.tree == TreeKind::kCanonical) return canonical_split;
  std::vector<std::vector<int>> levels = {block_ends(0, world.k, world.replicas)};
  if (world.shards == 1 || world.stage == 1) {
    levels.emplace_back();
    int begin = 0;
    for (const int end : levels[0]) {
      for (const int inner : block_ends(begin, end, world.shards)) levels[1].push_back(inner);
      begin = end;
    }
  }
  return split_by(levels);
}

Symbol tree(const Split& split, int unit, int use, std::pair<int, int> node, int64_t grain) {
  if (node.second - node.first == 1) return testing::leaf_symbol(unit, use, node.first, grain);
  const int middle = split(node);
  const Symbol left = tree(split, unit, use, {node.first, middle}, grain);
  return mix(left, tree(split, unit, use, {middle, node.second}, grain));
}

// The gradient of a whole unit, uses added in order.
Symbols total_of(const FlatLayout& flat, const Split& split, int unit, int k) {
  Symbols total;
  for (int64_t g = 0; g < flat.units[unit].trained_elements / testing::kGrain; ++g) {
    total.push_back(tree(split, unit, 0, {0, k}, g));
  }
  for (const TiedUse& tied : flat.tied) {
    if (tied.owner_unit != unit || tied.use == 0) continue;
    for (int64_t g = 0; g < tied.size / testing::kGrain; ++g) {
      Symbol& symbol = total[(tied.owner_offset / testing::kGrain) + g];
      symbol = mix(mix(5, symbol), tree(split, unit, tied.use, {0, k}, g));
    }
  }
  return total;
}

// Where the nth instruction of an operation and a unit stands; the end where there is none.
size_t index_of(const Program& program, Op op, int unit, size_t nth = 0) {
  for (size_t i = 0; i < program.instructions.size(); ++i) {
    if (program.instructions[i].op == op && program.instructions[i].unit == unit && nth-- == 0) return i;
  }
  return program.instructions.size();
}

// Every schedule of the table on shapes of its domain.
template <class Check>
void for_each_pipeline(int most_ranks, int units, const Check& check) {
  for (const ScheduleRow& row : schedules()) {
    for (int pp = 2; pp <= most_ranks; ++pp) {
      for (int stages = 1; stages <= 3 && stages * pp <= units; ++stages) {
        if (!row.refuses({pp, stages, 8}).empty()) continue;
        World world;
        world.pp = pp;
        world.pipeline.schedule = row.name;
        world.pipeline.stages_per_rank = stages;
        check(world);
      }
    }
  }
}

class Worlds : public ::testing::Test {
 protected:
  void check(const World& world) {
    const std::vector<Program> programs = train_programs(spec_, world);
    SCOPED_TRACE(world.name());
    verify_world(programs, spec_);
    WorldMachine machine(programs, flat_);
    machine.split = expected_split(world, programs[0]);
    machine.run();
    EXPECT_EQ(machine.losses.size(), static_cast<size_t>(world.k));
    EXPECT_EQ(std::set<int>(machine.losses.begin(), machine.losses.end()).size(),
              static_cast<size_t>(world.k));
    size_t grains = 0;
    for (int u = 0; u < static_cast<int>(spec_.units.size()); ++u) {
      if (flat_.units[u].spans.empty()) continue;
      grains += static_cast<size_t>(flat_.units[u].trained_elements / testing::kGrain);
      check_unit(world, programs, machine, u);
    }
    EXPECT_EQ(machine.measured.size(), grains);
  }

  void check_unit(const World& world, const std::vector<Program>& programs, const WorldMachine& machine,
                  int u) {
    const Symbols total = total_of(flat_, machine.split, u, world.k);
    for (size_t rank = 0; rank < programs.size(); ++rank) {
      const Placement& place = programs[rank].placement;
      const bool steps = facts_.units[u].steps;
      std::vector<Value> kept = {params_value(u, steps ? 1 : 0, place.params_part())};
      if (steps) kept.push_back(state_value(u, 1, place.step_part()));
      for (const Value& value : kept) {
        const bool held = value.kind == ValueKind::kState ? place.holds(u) : keeps_params(facts_, place, u);
        if (!held) continue;
        const Slice slice = machine.slice(static_cast<int>(rank), value);
        Symbols expected;
        for (int64_t g = slice.begin / testing::kGrain; g < slice.end / testing::kGrain; ++g) {
          const Symbol before =
              value.kind == ValueKind::kState ? testing::state_symbol(u, g) : testing::params_symbol(u, g);
          const bool trained = g < static_cast<int64_t>(total.size());
          expected.push_back(trained ? testing::stepped_symbol(before, total[g]) : before);
        }
        EXPECT_EQ(machine.output(static_cast<int>(rank), value), expected)
            << "rank " << rank << to_string(value);
      }
      if (spec_.units[u].statistics.empty() || !place.holds(u)) continue;
      EXPECT_EQ(machine.output(static_cast<int>(rank), stats_value(u, 1)), folded(u, world.k))
          << "rank " << rank;
    }
  }

  // Owners swap, and send to whoever ties their parameters.
  void check_averages(const World& world) {
    std::vector<Program> programs;
    for (int rank = 0; rank < world.ranks(); ++rank)
      programs.push_back(compile_average(spec_, world.layout(), options_of(world, rank)));
    verify_world(programs, spec_);
    for (int u = 0; u < static_cast<int>(spec_.units.size()); ++u) {
      for (const Program& program : programs) {
        const bool swaps = facts_.units[u].steps && program.placement.holds(u);
        EXPECT_EQ(index_of(program, Op::kSwapAverage, u) < program.instructions.size(), swaps) << u;
        const Value due = params_value(u, facts_.units[u].steps ? 1 : 0, program.placement.params_part());
        const auto& outputs = program.outputs;
        EXPECT_EQ(std::find(outputs.begin(), outputs.end(), due) != outputs.end(),
                  keeps_params(facts_, program.placement, u))
            << u;
      }
    }
  }

  // Every microbatch once, in order, on every rank alike.
  Symbols folded(int u, int k) const {
    Symbols running;
    for (int64_t g = 0; g < flat_.units[u].statistic_elements / testing::kGrain; ++g) {
      Symbol symbol = testing::statistic_symbol(u, g);
      for (int m = 0; m < k; ++m)
        symbol = testing::folded_symbol(symbol, testing::batch_statistic_symbol(u, m, g));
      running.push_back(symbol);
    }
    return running;
  }

  void use(const ModelSpec& spec) {
    spec_ = spec;
    flat_ = flat_layout(spec_);
    facts_ = model_facts(spec_);
  }

  ModelSpec spec_ = model();
  FlatLayout flat_ = flat_layout(spec_);
  ModelFacts facts_ = model_facts(spec_);
};

std::vector<World> layouts(int most_ranks) {
  std::vector<World> worlds;
  for (int ranks = 1; ranks <= most_ranks; ++ranks) {
    for (int shards = 1; shards <= ranks; ++shards) {
      if (ranks % shards != 0) continue;
      for (int stage = shards == 1 ? 3 : 1; stage <= 3; ++stage)
        worlds.push_back({ranks / shards, shards, stage});
    }
  }
  return worlds;
}

TEST_F(Worlds, EveryLayoutStepsWithTheCanonicalTree) {
  for (World world : layouts(8)) {
    for (world.k = world.replicas * world.shards; world.k <= 32; ++world.k) check(world);
  }
}

// Gradients of 16 bits go the same way, in buffers of half the size, and are rounded and widened in between.
TEST_F(Worlds, RoundedGradientsStepWithTheSameTree) {
  ModelSpec spec = model();
  spec.reduce = DType::kBF16;
  use(spec);
  for (World world : layouts(8)) {
    const int ranks = world.replicas * world.shards;
    for (const int k : {ranks, ranks + 1, 3 * ranks}) {
      world.k = k;
      check(world);
    }
  }
  for_each_pipeline(3, 4, [&](World world) {
    for (const int stage : {1, 2, 3}) {
      world.shards = 2;
      world.stage = stage;
      world.k = 5;
      check(world);
    }
  });
}

// A unit all frozen, one in part, and a tied weight that is: nothing of theirs is added, measured or stepped.
TEST_F(Worlds, FrozenParametersStayInEveryLayout) {
  for (const std::string frozen : {"u0.", "u0.weight u1.", "u2.weight", "u3."}) {
    ModelSpec spec = model();
    spec.units[3].parameters.push_back(parameter("u3.weight", {64, 64}));
    for (Unit& unit : spec.units) {
      for (Parameter& each : unit.parameters)
        each.rule.frozen = frozen.find(each.name) != std::string::npos ||
                           (frozen.find(unit.name + ". ") != std::string::npos || frozen == unit.name + ".");
    }
    use(spec);
    for (World world : layouts(6)) {
      world.k = world.replicas * world.shards + 1;
      check(world);
    }
    for_each_pipeline(4, 4, [&](World world) {
      for (const int stage : {1, 3}) {
        world.shards = 2;
        world.stage = stage;
        world.k = 5;
        check(world);
        check_averages(world);
      }
    });
  }
}

// And every layout still steps every element once.
TEST_F(Worlds, WholeParametersAreCutByNoLayout) {
  ModelSpec spec = model();
  for (Unit& unit : spec.units) {
    for (Parameter& each : unit.parameters) each.whole = !each.tied() && each.shape.size() == 2;
  }
  use(spec);
  for (World world : layouts(8)) {
    world.k = world.replicas * world.shards;
    check(world);
    for (int rank = 0; rank < world.k; ++rank) {
      const Placement place = placement_for(spec_, world.layout(), options_of(world, rank).ranks, world.k);
      for (int u = 0; u < 4; ++u) {
        for (const Part part : {Part::kShard, Part::kPiece}) {
          const Slice slice = part_slice(flat_, place, {u, 0}, part);
          for (const FlatSpan& span : flat_.units[u].spans) {
            if (!span.whole) continue;
            const bool inside = slice.begin <= span.offset && slice.end >= span.offset + span.size;
            const bool outside = slice.end <= span.offset || slice.begin >= span.offset + span.size;
            EXPECT_TRUE(inside || outside) << world.name();
          }
        }
      }
    }
  }
}

TEST_F(Worlds, TheTreeByRanksIsStillOneTree) {
  for (const Deterministic deterministic : {Deterministic::kOff, Deterministic::kAuto}) {
    for (World world : layouts(6)) {
      world.deterministic = deterministic;
      for (world.k = world.replicas * world.shards; world.k <= 20; world.k += 3) check(world);
    }
  }
}

TEST_F(Worlds, ReshardPrefetchAndRecomputeChangeNothing) {
  for (World world : layouts(6)) {
    if (world.stage != 3 || world.shards == 1) continue;
    world.k = world.replicas * world.shards + 1;
    for (const Reshard reshard : {Reshard::kDefault, Reshard::kAlways, Reshard::kNever}) {
      for (const int prefetch : {0, 1, 2, 100}) {
        world.reshard = reshard;
        world.prefetch = prefetch;
        world.recompute =
            prefetch % 2 == 0 ? std::vector<bool>{} : std::vector<bool>{true, false, true, true};
        check(world);
      }
    }
  }
}

TEST_F(Worlds, RandomModels) {
  std::mt19937 rng(8);
  for (int round = 0; round < 120; ++round) {
    const ModelSpec spec = testing::random_spec(&rng);
    const FlatLayout flat = flat_layout(spec);
    World world{1 + static_cast<int>(rng() % 3), 1 + static_cast<int>(rng() % 3),
                1 + static_cast<int>(rng() % 3)};
    world.k = world.replicas * world.shards + static_cast<int>(rng() % 9);
    if (round % 2 == 1) world.bucket_bytes = static_cast<int64_t>(rng() % 6) << 12;
    const std::vector<Program> programs = train_programs(spec, world);
    SCOPED_TRACE(world.name());
    verify_world(programs, spec);
    for (const Program& program : programs) ASSERT_EQ(parse_program(to_text(program)), program);
    WorldMachine machine(programs, flat);
    machine.split = canonical_split;
    machine.run();
  }
}

// Units of seven, one, none, two, five and one grid blocks; the fourth is frozen in part, the fifth ties what
// the first one owns.
ModelSpec small_units() {
  ModelSpec spec = chain(6, 64);
  for (Unit& unit : spec.units) unit.parameters.clear();
  const auto own = [&](int u, Shape shape) {
    spec.units[u].parameters.push_back(parameter(fmt::format("u{}.weight", u), std::move(shape)));
  };
  own(0, {64, 112});
  own(1, {10});
  own(3, {1024});
  spec.units[3].parameters.push_back(parameter("u3.frozen", {1024}));
  spec.units[3].parameters.back().rule.frozen = true;
  own(4, {64, 80});
  own(5, {17});
  spec.units[1].statistics = {statistic("u1.running_mean", {24})};
  return spec;
}

// Whatever shares a collective: all units, runs of some, and beside one that is alone as its weight is tied.
TEST_F(Worlds, BucketsStepWithTheSameTree) {
  for (const bool tied : {false, true}) {
    for (const int64_t kilobytes : {12, 100}) {
      ModelSpec spec = small_units();
      if (tied) spec.units[4].parameters.push_back(parameter("u4.tied", {64, 112}, "u0.weight"));
      use(spec);
      for (World world : layouts(4)) {
        world.bucket_bytes = kilobytes << 10;
        const int ranks = world.replicas * world.shards;
        for (const int k : {ranks, 3 * ranks + 1}) {
          world.k = k;
          check(world);
        }
        check_averages(world);
      }
    }
  }
}

TEST_F(Worlds, BucketsOfWholeParametersOrOf16Bits) {
  for (const bool whole : {false, true}) {
    ModelSpec spec = small_units();
    for (Unit& unit : spec.units) {
      for (Parameter& each : unit.parameters) each.whole = whole && each.shape.size() == 2;
    }
    spec.reduce = whole ? DType::kF32 : DType::kBF16;
    use(spec);
    for (World world : layouts(8)) {
      world.bucket_bytes = 40 << 10;
      world.k = world.replicas * world.shards + 1;
      check(world);
    }
  }
}

TEST_F(Worlds, BucketsOfEveryScheduleReshardAndRecompute) {
  use(small_units());
  for_each_pipeline(3, 6, [&](World world) {
    world.bucket_bytes = 100 << 10;
    for (const World& data : layouts(2)) {
      world.replicas = data.replicas;
      world.shards = data.shards;
      world.stage = data.stage;
      world.k = 2 * data.replicas * data.shards + 1;
      check(world);
    }
  });
  for (const Reshard reshard : {Reshard::kDefault, Reshard::kAlways, Reshard::kNever}) {
    for (const int prefetch : {0, 1, 2, 100}) {
      World world{2, 2, 3, 5, Deterministic::kStrict, reshard, prefetch};
      world.bucket_bytes = 100 << 10;
      world.recompute = {true, false, true, true, false, prefetch > 0};
      check(world);
      world.deterministic = Deterministic::kOff;
      check(world);
    }
  }
}

TEST_F(Worlds, EveryScheduleStepsWithTheCanonicalTree) {
  for_each_pipeline(4, 4, [&](World world) {
    for (const World& data : layouts(4)) {
      world.replicas = data.replicas;
      world.shards = data.shards;
      world.stage = data.stage;
      const int ranks = data.replicas * data.shards;
      for (world.k = ranks; world.k <= 5 * ranks + 1; world.k += ranks > 2 ? 3 : 1) check(world);
    }
  });
}

TEST_F(Worlds, ReceivesAheadAndRecomputeChangeNothing) {
  for_each_pipeline(4, 4, [&](World world) {
    world.k = 6;
    world.shards = 2;
    for (const int stage : {1, 3}) {
      for (const int ahead : {0, 1, 2, 100}) {
        world.stage = stage;
        world.pipeline.receives_ahead = ahead;
        world.recompute = {true, false, true, true};
        check(world);
      }
    }
  });
}

TEST_F(Worlds, EvaluateGoesThroughTheStages) {
  for_each_pipeline(4, 4, [&](World world) {
    for (world.shards = 1; world.shards <= 2; ++world.shards) {
      for (world.k = 1; world.k <= 3; ++world.k) {
        SCOPED_TRACE(world.name());
        std::vector<Program> programs;
        for (int rank = 0; rank < world.ranks(); ++rank) {
          const TrainOptions options = options_of(world, rank);
          programs.push_back(
              compile_evaluate(spec_, world.layout(), options.microbatch_sizes, options.ranks));
        }
        verify_world(programs, spec_);
        WorldMachine machine(programs, flat_);
        machine.run();
        EXPECT_EQ(machine.losses.size(), static_cast<size_t>(world.k));
      }
    }
  });
}

TEST_F(Worlds, AnotherOrderIsSeen) {
  World world{1, 2, 1, 6};
  const std::vector<Program> programs = train_programs(spec_, world);
  const Symbols canonical = total_of(flat_, canonical_split, 0, world.k);
  const Symbols by_ranks = total_of(flat_, split_by({{3, 6}}), 0, world.k);
  ASSERT_EQ(canonical.size(), by_ranks.size());
  for (size_t g = 0; g < canonical.size(); ++g) EXPECT_NE(canonical[g], by_ranks[g]);
}

TEST_F(Worlds, EvaluateCountsEachMicrobatchOnceOnAnyNumberOfRanks) {
  for (World world : layouts(6)) {
    for (world.k = 1; world.k <= 9; ++world.k) {
      SCOPED_TRACE(world.name());
      std::vector<Program> programs;
      for (int rank = 0; rank < world.ranks(); ++rank) {
        const TrainOptions options = options_of(world, rank);
        programs.push_back(compile_evaluate(spec_, world.layout(), options.microbatch_sizes, options.ranks));
      }
      verify_world(programs, spec_);
      WorldMachine machine(programs, flat_);
      machine.run();
      EXPECT_EQ(machine.losses.size(), static_cast<size_t>(world.k));
      EXPECT_EQ(std::set<int>(machine.losses.begin(), machine.losses.end()).size(),
                static_cast<size_t>(world.k));
    }
  }
}

TEST_F(Worlds, SavesHaveEachElementOnce) {
  for (const World& world : layouts(8)) {
    SCOPED_TRACE(world.name());
    std::vector<Program> programs;
    for (int rank = 0; rank < world.ranks(); ++rank) {
      programs.push_back(compile_save(spec_, world.layout(), options_of(world, rank)));
    }
    verify_world(programs, spec_);
    WorldMachine machine(programs, flat_);
    machine.run();
    for (int u = 0; u < static_cast<int>(spec_.units.size()); ++u) {
      std::vector<int> saved(flat_.units[u].elements / testing::kGrain, 0);
      for (size_t rank = 0; rank < programs.size() && !saved.empty(); ++rank) {
        if (!programs[rank].placement.holds(u)) continue;
        const Value value = snapshot_value(u, programs[rank].placement.own_part());
        const Slice slice = machine.slice(static_cast<int>(rank), value);
        for (int64_t g = slice.begin / testing::kGrain; g < slice.end / testing::kGrain; ++g) ++saved[g];
      }
      EXPECT_TRUE(std::all_of(saved.begin(), saved.end(), [](int times) { return times == 1; })) << u;
      const auto writers = std::count_if(programs.begin(), programs.end(), [&](const Program& program) {
        return std::any_of(
            program.instructions.begin(), program.instructions.end(), [&](const Instruction& i) {
              return std::find(i.reads.begin(), i.reads.end(), stats_value(u, 0)) != i.reads.end();
            });
      });
      EXPECT_EQ(writers, spec_.units[u].statistics.empty() ? 0 : 1) << u;
    }
  }
}

// What compile promises about the order of things.
TEST(Overlap, AReduceStandsBeforeTheNextUnitsBackward) {
  for (const int stage : {1, 2, 3}) {
    const ModelSpec spec = chain(4);
    const Program program =
        compile_train(spec, Layout({1, 1, 2, 1, 1, 1}, 2), options_of({1, 2, stage, 2}, 1));
    for (int u = 3; u > 0; --u) {
      EXPECT_LT(index_of(program, Op::kReduceGrads, u), index_of(program, Op::kBackwardInput, u - 1))
          << stage;
    }
  }
}

TEST(Overlap, GathersRunAheadByTheBudget) {
  const ModelSpec spec = chain(6);
  for (const int prefetch : {0, 1, 3}) {
    World world{1, 2, 3, 2};
    world.prefetch = prefetch;
    const Program program = compile_train(spec, world.layout(), options_of(world, 0));
    size_t most = 0, gathered = 0;
    std::set<int> used;
    for (const Instruction& instruction : program.instructions) {
      if (instruction.op == Op::kGatherParams) ++gathered;
      if (instruction.op == Op::kForward) used.insert(instruction.unit);
      if (instruction.op == Op::kForward) most = std::max(most, gathered - used.size());
      if (instruction.op == Op::kLoss) break;
    }
    EXPECT_EQ(most, static_cast<size_t>(prefetch));
  }
}

TEST(Reshard, DecidesHowOftenAUnitIsGathered) {
  const ModelSpec spec = chain(5);
  const auto gathers = [&](Reshard reshard, int k) {
    World world{1, 2, 3, k};
    world.reshard = reshard;
    const Program program = compile_train(spec, world.layout(), options_of(world, 1));
    return std::count_if(program.instructions.begin(), program.instructions.end(),
                         [](const Instruction& i) { return i.op == Op::kGatherParams; });
  };
  EXPECT_EQ(gathers(Reshard::kAlways, 2), 10);
  EXPECT_EQ(gathers(Reshard::kDefault, 2), 9);  // the last unit's serves both
  EXPECT_EQ(gathers(Reshard::kNever, 2), 5);
  EXPECT_EQ(gathers(Reshard::kAlways, 5),
            30);  // rank 1 has two of five microbatches, and takes part in three
  EXPECT_EQ(gathers(Reshard::kNever, 5), 5);
}

}  // namespace
}  // namespace furrow::plan
