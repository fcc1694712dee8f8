#include "furrow/plan/compile.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <map>
#include <random>

#include "furrow/base/error.h"
#include "furrow/plan/testing/specs.h"
#include "furrow/plan/verify.h"

namespace furrow::plan {
namespace {

using testing::chain;
using ::testing::HasSubstr;
using testing::parameter;

// The canonical tree as an expression, straight from its definition.
std::string tree(const std::string& leaf, int begin, int end) {
  if (end - begin == 1) return fmt::format("{}.{}", leaf, begin);
  int size = 1;
  while (size * 2 < end - begin) size *= 2;
  return fmt::format("({}+{})", tree(leaf, begin, begin + size), tree(leaf, begin + size, end));
}

// Runs a program on slots that hold expressions instead of numbers.  An oracle for compile and the buffer
// pass that shares nothing with verify: a slot that was overwritten or emptied too early shows as a wrong
// value.
class SymbolicMachine {
 public:
  explicit SymbolicMachine(const Program& program) : program_(program), cells_(program.slots.size()) {
    for (const Value& value : program.inputs) cell(value) = {value, ""};
    for (const Instruction& instruction : program.instructions) run(instruction);
    for (const Value& value : program.outputs) EXPECT_EQ(cell(value).value, value) << to_string(value);
  }

  // What was stepped with, by unit.
  std::map<int, std::string> stepped;
  size_t most_gradients = 0;  // gradient slots of one use that hold something at once

 private:
  struct Cell {
    std::optional<Value> value;
    std::string gradient;
  };

  Cell& cell(const Value& value) { return cells_[program_.slot_of(value)]; }

  void run(const Instruction& instruction) {
    std::vector<std::string> gradients;
    for (const Value& value : instruction.reads) {
      ASSERT_EQ(cell(value).value, value) << to_string(instruction) << " reads " << to_string(value);
      if (!cell(value).gradient.empty()) gradients.push_back(cell(value).gradient);
    }
    for (const Value& value : instruction.writes)
      cell(value) = {value, result(instruction, value, gradients)};
    if (instruction.op == Op::kStep) stepped[instruction.unit] = gradients.at(0);
    count_gradients();
    for (const Value& value : instruction.drops) {
      if (cell(value).value == value) cell(value) = {};
    }
  }

  static std::string result(const Instruction& instruction, const Value& value,
                            const std::vector<std::string>& gradients) {
    if (instruction.op == Op::kBackwardWeight)
      return fmt::format("g{}/{}.{}", value.unit, value.index, value.begin);
    if (instruction.op == Op::kAdd) return fmt::format("({}+{})", gradients.at(0), gradients.at(1));
    if (instruction.op == Op::kCopyDown) return gradients.at(0);
    if (instruction.op != Op::kAddTied) return "";
    std::string sum = gradients.at(0);
    for (size_t i = 1; i < gradients.size(); ++i) sum += " & " + gradients[i];
    return sum;
  }

  void count_gradients() {
    std::map<std::pair<int, int>, size_t> live;
    for (const Cell& cell : cells_) {
      if (cell.value.has_value() && cell.value->kind == ValueKind::kGradient) {
        most_gradients = std::max(most_gradients, ++live[{cell.value->unit, cell.value->index}]);
      }
    }
  }

  const Program& program_;
  std::vector<Cell> cells_;
};

std::map<int, std::string> expected_steps(const ModelSpec& spec, int k) {
  const FlatLayout flat = flat_layout(spec);
  std::map<int, std::string> expected;
  for (int u = 0; u < static_cast<int>(spec.units.size()); ++u) {
    if (flat.units[u].trained_elements == 0) continue;
    expected[u] = tree(fmt::format("g{}/0", u), 0, k);
    for (const TiedUse& tied : flat.tied) {
      if (tied.owner_unit == u && tied.use > 0)
        expected[u] += " & " + tree(fmt::format("g{}/{}", u, tied.use), 0, k);
    }
  }
  return expected;
}

std::vector<int64_t> sizes(int k, int64_t size = 4) { return std::vector<int64_t>(k, size); }

ModelSpec tied_chain() {
  ModelSpec spec = chain(4, 8);
  spec.units[3].parameters[0].tied_to = "u0.weight";
  spec.units[2].parameters.push_back(parameter("u2.again", {8, 8}, "u0.weight"));
  return spec;
}

ModelSpec on_host(ModelSpec spec) {
  for (Unit& unit : spec.units) unit.offload = true;
  return spec;
}

size_t count(const Program& program, Op op) {
  return std::count_if(program.instructions.begin(), program.instructions.end(),
                       [op](const Instruction& instruction) { return instruction.op == op; });
}

// In their order, from the clip factor on: "copy_down 0".
std::vector<std::string> tail(const Program& program) {
  std::vector<std::string> list;
  bool behind = false;
  for (const Instruction& instruction : program.instructions) {
    if (behind) list.push_back(fmt::format("{} {}", op_info(instruction.op).name, instruction.unit));
    behind = behind || instruction.op == Op::kClip;
  }
  return list;
}

// While a unit is stepped, the next comes down and the one before goes up: nobody waits for a copy that was
// not started a step before, but at both ends.
TEST(CompileTrain, CopiesOfAnOptimizerOnTheHostGoBesideItsSteps) {
  const ModelSpec spec = on_host(chain(4, 8));
  TrainOptions options{.microbatch_sizes = sizes(4), .recompute = {}, .optimizer_states = 2};
  EXPECT_THAT(
      tail(compile_train(spec, Layout(), options)),
      ::testing::ElementsAre("copy_down 0", "copy_down 1", "step 0", "copy_up 0", "copy_down 2", "step 1",
                             "copy_up 1", "copy_down 3", "step 2", "copy_up 2", "step 3", "copy_up 3"));
  options.ranks.zero_stage = 1;
  EXPECT_THAT(
      tail(compile_train(spec, Layout({1, 1, 2, 1, 1, 1}, 2), options)),
      ::testing::ElementsAre("copy_down 0", "copy_down 1", "step 0", "copy_up 0", "copy_down 2", "step 1",
                             "gather_updated 0", "copy_up 1", "copy_down 3", "step 2", "gather_updated 1",
                             "copy_up 2", "step 3", "gather_updated 2", "copy_up 3", "gather_updated 3"));
}

// Two slots, each as large as the largest unit that it ever holds; what goes up lies where what came down
// lay.
TEST(CompileTrain, UnitsOfAllSizesTakeTurnsInTwoSlotsOfTheHost) {
  ModelSpec spec = on_host(chain(4, 8));
  for (Unit& unit : spec.units) unit.compute = DType::kBF16;
  spec.units[1].parameters.push_back(parameter("u1.more", {64, 64}));
  const Program program =
      compile_train(spec, Layout(), {.microbatch_sizes = sizes(2), .recompute = {}, .optimizer_states = 2});
  const auto slot = [&](int32_t u, int32_t version) { return program.slot_of(hosted_value(u, version)); };
  for (int32_t u = 0; u < 4; ++u) {
    EXPECT_EQ(slot(u, 0), slot(u, 1));
    EXPECT_EQ(slot(u, 0), slot(u % 2, 0));
  }
  EXPECT_NE(slot(0, 0), slot(1, 0));
  EXPECT_EQ(program.slots[slot(0, 0)].bytes, 1024 * 4);
  EXPECT_EQ(program.slots[slot(1, 0)].bytes, 5 * 1024 * 4);
  EXPECT_EQ(parse_program(to_text(program)), program);
}

// The host steps with what comes down, from memory that units take turns in; masters and state are its own.
TEST(CompileTrain, AnOptimizerOnTheHostIsFedByCopies) {
  const ModelSpec plain = tied_chain(), spec = on_host(plain);
  for (const int k : {1, 3, 8}) {
    const TrainOptions options{.microbatch_sizes = sizes(k), .recompute = {}, .optimizer_states = 2};
    const Program program = compile_train(spec, Layout(), options);
    EXPECT_EQ(SymbolicMachine(program).stepped, expected_steps(spec, k));
    EXPECT_EQ(count(program, Op::kCopyDown), count(program, Op::kStep));
    EXPECT_EQ(count(program, Op::kCopyUp), count(program, Op::kStep));
    EXPECT_EQ(parse_program(to_text(program)), program);
    if (k == 8) {  // on ranks what is stepped is a shard
      for (const int stage : {1, 2, 3}) {
        TrainOptions ranks = options;
        ranks.ranks.zero_stage = stage;
        const Program shard = compile_train(spec, Layout({1, 2, 2, 1, 1, 1}, 4), ranks);  // verifies
        EXPECT_EQ(count(shard, Op::kCopyUp), 4u);
        EXPECT_EQ(count(shard, Op::kGatherUpdated), stage == 3 ? 0u : 4u);
      }
    }
    const auto peaks = verify(program, spec).peak_bytes;
    const auto without = verify(compile_train(plain, Layout(), options), plain).peak_bytes;
    const int64_t unit = 1024 * 4;  // padded
    EXPECT_EQ(peaks[static_cast<size_t>(MemoryKind::kOptimizer)], 4 * 3 * unit + 2 * unit);
    EXPECT_EQ(without[static_cast<size_t>(MemoryKind::kOptimizer)], 4 * 2 * unit);
    EXPECT_EQ(peaks[static_cast<size_t>(MemoryKind::kParameters)],
              without[static_cast<size_t>(MemoryKind::kParameters)]);
    EXPECT_EQ(peaks[static_cast<size_t>(MemoryKind::kGradients)],
              without[static_cast<size_t>(MemoryKind::kGradients)]);
  }
}

TEST(Tree, SplitsAtTheLargestPowerOfTwo) {
  EXPECT_EQ(tree_split(0, 2), 1);
  EXPECT_EQ(tree_split(0, 3), 2);
  EXPECT_EQ(tree_split(0, 4), 2);
  EXPECT_EQ(tree_split(0, 5), 4);
  EXPECT_EQ(tree_split(4, 7), 6);
  EXPECT_EQ(tree_split(0, 1 << 20), 1 << 19);
  EXPECT_THROW(tree_split(3, 4), Error);
}

TEST(CompileTrain, EveryCountOfMicrobatchesAddsAlongTheTree) {
  for (const ModelSpec& spec : {chain(3), tied_chain()}) {
    for (int k = 1; k <= 33; ++k) {
      const Program program = compile_train(spec, Layout(), {sizes(k), {}, 1});
      const SymbolicMachine machine(program);
      EXPECT_EQ(machine.stepped, expected_steps(spec, k)) << k;
      EXPECT_LE(machine.most_gradients, static_cast<size_t>(std::bit_width(static_cast<unsigned>(k)))) << k;
    }
  }
}

TEST(CompileTrain, RandomModelsRunOnSlots) {
  std::mt19937 rng(33);
  for (int round = 0; round < 100; ++round) {
    const ModelSpec spec = testing::random_spec(&rng);
    const int k = 1 + static_cast<int>(rng() % 33);
    TrainOptions options{sizes(k), {}, static_cast<int>(rng() % 3)};
    options.microbatch_sizes.back() = 1 + rng() % 4;
    for (size_t u = 0; u < spec.units.size(); ++u) options.recompute.push_back(rng() % 2 == 0);
    const Program program = compile_train(spec, Layout(), options);
    const SymbolicMachine machine(program);
    ASSERT_EQ(machine.stepped, expected_steps(spec, k)) << to_text(program);
    ASSERT_EQ(parse_program(to_text(program)), program);
  }
}

TEST(CompileTrain, AnAddComesRightAfterItsLastOperand) {
  const Program program = compile_train(chain(2), Layout(), {sizes(8), {}, 0});
  for (size_t i = 0; i < program.instructions.size(); ++i) {
    const Instruction& add = program.instructions[i];
    if (add.op != Op::kAdd) continue;
    const std::vector<Value>& before = program.instructions[i - 1].writes;
    EXPECT_NE(std::find(before.begin(), before.end(), add.reads[1]), before.end())
        << to_string(add) << " at " << i;
  }
}

TEST(CompileTrain, RecomputeWritesSavedLateAndNothingElseChanges) {
  const ModelSpec spec = chain(3);
  const Program plain = compile_train(spec, Layout(), {sizes(4), {}, 1});
  const Program all = compile_train(spec, Layout(), {sizes(4), {true, true, true}, 1});
  EXPECT_EQ(count(plain, Op::kRecompute), 0u);
  EXPECT_EQ(count(all, Op::kRecompute), 12u);
  EXPECT_EQ(SymbolicMachine(plain).stepped, SymbolicMachine(all).stepped);
  for (size_t i = 0; i < all.instructions.size(); ++i) {
    const Instruction& instruction = all.instructions[i];
    if (instruction.op == Op::kForward) {
      EXPECT_EQ(instruction.writes.size(), 1u);
    }
    if (instruction.op != Op::kRecompute) continue;
    EXPECT_EQ(all.instructions[i + 1].op, Op::kBackwardInput);
    EXPECT_EQ(all.instructions[i + 1].unit, instruction.unit);
  }
  const auto index = static_cast<size_t>(MemoryKind::kActivations);
  EXPECT_LT(verify(all, spec).peak_bytes[index], verify(plain, spec).peak_bytes[index]);
}

TEST(CompileTrain, BackwardStopsAtTheFirstUnitWithParameters) {
  ModelSpec spec = chain(4);
  spec.units[0].parameters.clear();
  spec.units[2].parameters.clear();
  const Program program = compile_train(spec, Layout(), {sizes(1), {}, 0});
  EXPECT_EQ(count(program, Op::kBackwardInput), 3u);   // units 3, 2, 1
  EXPECT_EQ(count(program, Op::kBackwardWeight), 2u);  // units 3, 1
  EXPECT_EQ(count(program, Op::kStep), 2u);
  for (const Instruction& instruction : program.instructions) {
    if (instruction.op == Op::kForward && instruction.unit == 0) {
      EXPECT_EQ(instruction.writes.size(), 1u);
    }
    if (instruction.op == Op::kBackwardInput && instruction.unit == 1) {
      EXPECT_EQ(instruction.writes, (std::vector<Value>{deferred_value(1, 0)}));
    }
  }
}

TEST(CompileTrain, AUnitWithTiedParametersAloneHasNoStep) {
  ModelSpec spec = chain(2);
  spec.units[1].parameters = {parameter("tied", {8, 8}, "u0.weight")};
  const Program program = compile_train(spec, Layout(), {sizes(3), {}, 1});
  EXPECT_EQ(count(program, Op::kStep), 1u);
  EXPECT_EQ(count(program, Op::kAddTied), 1u);
  EXPECT_EQ(SymbolicMachine(program).stepped.at(0), "((g0/0.0+g0/0.1)+g0/0.2) & ((g0/1.0+g0/1.1)+g0/1.2)");
}

TEST(CompileTrain, RefusesWhatItCannotDo) {
  auto error_of = [](auto&& function) -> std::string {
    try {
      function();
    } catch (const Error& error) {
      return fmt::format("{}: {}", to_string(error.code()), error.what());
    }
    return "no error";
  };
  const ModelSpec spec = chain(2);
  EXPECT_THAT(error_of([&] { compile_train(spec, Layout(), {{}, {}, 0}); }), HasSubstr("invalid_argument"));
  EXPECT_THAT(error_of([&] { compile_train(spec, Layout(), {{4, 0}, {}, 0}); }),
              HasSubstr("microbatch 1 has 0 samples"));
  EXPECT_THAT(error_of([&] { compile_train(spec, Layout(), {{4}, {true}, 0}); }),
              HasSubstr("1 entries for 2 units"));
  EXPECT_THAT(error_of([&] { compile_train(spec, Layout(), {{4}, {}, -1}); }),
              HasSubstr("-1 optimizer states"));
  EXPECT_THAT(error_of([&] { compile_train(spec, Layout({1, 1, 2, 1, 1, 1}, 2), {{4}, {}, 0}); }),
              HasSubstr("global batch 4 / local batch 4 = 1 microbatches, for dp_replicate 1 x dp_shard 2 = "
                        "2 data ranks: each "
                        "needs at least one; raise [training] global_batch_size to 8"));
  EXPECT_THAT(
      error_of([&] { compile_train(spec, Layout({2, 1, 2, 1, 3, 1}, 12), {{4}, {}, 0}); }),
      HasSubstr(
          "unimplemented: [parallelism] tensor_parallel_degree is 3: unit u0 (test) cannot be cut inside; "
          "the nearest layout of 12 ranks is pp 2 x dp_replicate 1 x dp_shard 6"));
  EXPECT_THAT(error_of([&] { compile_train(spec, Layout({3, 1, 1, 1, 1, 1}, 3), {{4}, {}, 0}); }),
              HasSubstr("3 stages for the 2 units of chain: each stage needs at least one; use at most 2"));
  EXPECT_THAT(error_of([&] { compile_train(spec, Layout(), {{4}, {}, 0, {.zero_stage = 4}}); }),
              HasSubstr("zero_stage is 4: it must be 1, 2 or 3"));
  EXPECT_THAT(error_of([&] { compile_train(spec, Layout(), {{4}, {}, 0, {.rank = 1}}); }),
              HasSubstr("rank 1: the world has ranks 0 to 0"));
  EXPECT_THAT(error_of([&] { compile_train({}, Layout(), {{4}, {}, 0}); }), HasSubstr("has no units"));
  ModelSpec empty = chain(1);
  empty.units[0].parameters.clear();
  EXPECT_THAT(error_of([&] { compile_train(empty, Layout(), {{4}, {}, 0}); }), HasSubstr("nothing to train"));
}

TEST(CompileEvaluate, FreesActivationsAtOnce) {
  const ModelSpec spec = chain(5, 16);
  const Program program = compile_evaluate(spec, Layout(), sizes(3, 10));
  SymbolicMachine machine(program);
  EXPECT_EQ(count(program, Op::kEvaluate), 3u);
  // Two activations live at once, input and output of a unit.
  EXPECT_EQ(verify(program, spec).peak_bytes[static_cast<size_t>(MemoryKind::kActivations)], 2 * 10 * 16 * 4);
  EXPECT_NO_THROW(compile_evaluate(
      [] {
        ModelSpec empty = chain(1);
        empty.units[0].parameters.clear();
        return empty;
      }(),
      Layout(), {1}));
}

TEST(CompileSave, SnapshotsEveryUnitWithParameters) {
  ModelSpec spec = chain(3);
  spec.units[1].parameters.clear();
  const Program program = compile_save(spec, Layout(), {{}, {}, 2});
  SymbolicMachine machine(program);
  EXPECT_EQ(count(program, Op::kSnapshot), 2u);
  EXPECT_EQ(program.instructions.size(), 2u);
  EXPECT_EQ(verify(program, spec).peak_bytes[static_cast<size_t>(MemoryKind::kCheckpoint)], 2 * 1024 * 4 * 3);
  EXPECT_EQ(compile_save(spec, Layout(), {{}, {}, 0}).instructions[0].reads.size(), 1u);
}

}  // namespace
}  // namespace furrow::plan
