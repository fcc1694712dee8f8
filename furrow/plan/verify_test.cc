#include "furrow/plan/verify.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <random>

#include "furrow/base/error.h"
#include "furrow/plan/compile.h"
#include "furrow/plan/testing/specs.h"

namespace furrow::plan {
namespace {

using testing::chain;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using testing::parameter;

std::string error_of(const Program& program, const ModelSpec& spec) {
  try {
    verify(program, spec);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kFailedPrecondition) << error.what();
    return error.what();
  }
  return "valid";
}

ModelSpec tied_spec() {
  ModelSpec spec = chain(3);
  spec.units[2].parameters[0].tied_to = "u0.weight";
  return spec;
}

class Mutation : public ::testing::Test {
 protected:
  size_t find(Op op, int unit, size_t nth = 0) const {
    for (size_t i = 0; i < program.instructions.size(); ++i) {
      const Instruction& instruction = program.instructions[i];
      if (instruction.op == op && instruction.unit == unit && nth-- == 0) return i;
    }
    ADD_FAILURE() << "no such instruction";
    return 0;
  }
  Instruction& at(size_t i) { return program.instructions[i]; }
  void erase(size_t i) {
    program.instructions.erase(program.instructions.begin() + static_cast<std::ptrdiff_t>(i));
  }
  std::string error() const { return error_of(program, spec); }
  SlotAssignment& assignment(const Value& value) {
    return *std::find_if(program.assignments.begin(), program.assignments.end(),
                         [&](const SlotAssignment& a) { return a.value == value; });
  }

  ModelSpec spec = tied_spec();
  Program program = compile_train(spec, Layout(), {{4, 4, 4, 4, 4}, {true, false, true}, 1});
};

TEST_F(Mutation, NoneIsValid) { EXPECT_EQ(error(), "valid"); }

TEST_F(Mutation, ADroppedAdd) {
  const size_t add = find(Op::kAdd, 1);
  const std::string lost = to_string(at(add).writes[0]);
  erase(add);
  EXPECT_THAT(error(), MatchesRegex("#[0-9]+ add u1: reads .*, which nothing has written before"));
  EXPECT_THAT(error(), HasSubstr(lost));
}

TEST_F(Mutation, SwappedReadsOfAnAdd) {
  const size_t add = find(Op::kAdd, 1, 1);
  std::swap(at(add).reads[0], at(add).reads[1]);
  EXPECT_THAT(error(),
              HasSubstr(fmt::format("#{} add u1: adds gradient(1,0,[3,4)) and gradient(1,0,[2,3))", add)));
}

TEST_F(Mutation, AMicrobatchAddedTwice) {
  const size_t add = find(Op::kAdd, 1);
  at(add).reads[1] = at(add).reads[0];
  EXPECT_THAT(error(), HasSubstr(fmt::format("#{} add u1", add)));
}

TEST_F(Mutation, AnAddRunTwice) {
  const size_t add = find(Op::kAdd, 0);
  program.instructions.insert(program.instructions.begin() + static_cast<std::ptrdiff_t>(add) + 1, at(add));
  EXPECT_THAT(error(), HasSubstr(fmt::format("#{} add u0:", add + 1)));
}

TEST_F(Mutation, ANonCanonicalTree) {
  // ((0+1)+2)+3 instead of (0+1)+(2+3): well formed, every microbatch once, and other bits.
  auto node = [](int b, int e) { return gradient_value(0, 0, b, e); };
  ModelSpec small = chain(1);
  Program p = compile_train(small, Layout(), {{4, 4, 4, 4}, {}, 0});
  p.slots.clear();
  p.assignments.clear();
  std::erase_if(p.instructions, [](const Instruction& i) { return i.op == Op::kAdd; });
  for (Instruction& instruction : p.instructions) instruction.drops.clear();
  size_t measure = 0;
  while (p.instructions[measure].op != Op::kMeasure) ++measure;
  for (int e = 4; e >= 2; --e) {
    Instruction add;
    add.op = Op::kAdd;
    add.unit = 0;
    add.reads = {node(0, e - 1), node(e - 1, e)};
    add.writes = {node(0, e)};
    p.instructions.insert(p.instructions.begin() + static_cast<std::ptrdiff_t>(measure), add);
  }
  EXPECT_THAT(error_of(p, small),
              HasSubstr("add u0: gradient(0,0,[0,3)) is no sum in the tree of this program"));
}

TEST_F(Mutation, RightHalvesOfTwoAddsExchanged) {
  // Every node is still added once: [0,2) of microbatches 0 and 3, [2,4) of 2 and 1.
  const size_t second = find(Op::kAdd, 1, 1);
  Instruction first = at(find(Op::kAdd, 1, 0));
  std::swap(first.reads[1], at(second).reads[1]);
  erase(find(Op::kAdd, 1, 0));
  program.instructions.insert(program.instructions.begin() + static_cast<std::ptrdiff_t>(second) - 1, first);
  program.slots.clear();
  program.assignments.clear();
  for (Instruction& instruction : program.instructions) instruction.drops.clear();
  EXPECT_THAT(error(),
              HasSubstr("adds gradient(1,0,[0,1)) and gradient(1,0,[3,4)), but in the canonical tree"));
}

TEST_F(Mutation, AMissingStep) {
  erase(find(Op::kStep, 1));
  EXPECT_THAT(error(), HasSubstr("params(1,1)"));
}

TEST_F(Mutation, AMissingStepThatNobodyAsksFor) {
  erase(find(Op::kStep, 1));
  std::erase(program.outputs, params_value(1, 1));
  std::erase(program.outputs, state_value(1, 1));
  program.outputs.push_back(params_value(1, 0));
  program.outputs.push_back(state_value(1, 0));
  at(find(Op::kMeasure, -1)).drops.push_back(gradient_value(1, 0, 0, 5));
  EXPECT_THAT(error(), HasSubstr("params(1,1) is missing among the outputs (written by step)"));
}

TEST_F(Mutation, AStepOnAPartOfTheGradient) {
  const size_t step = find(Op::kStep, 1);
  for (Value& value : at(step).reads) {
    if (value.kind == ValueKind::kGradient) value = gradient_value(1, 0, 0, 4);
  }
  EXPECT_THAT(error(), HasSubstr(fmt::format("#{} step u1: it must read gradient(1,0,[0,5))", step)));
}

TEST_F(Mutation, AStepBeforeTiedUsesAreAdded) {
  const size_t step = find(Op::kStep, 0);
  for (Value& value : at(step).reads) {
    if (value.kind == ValueKind::kTotal) value = gradient_value(0, 0, 0, 5);
  }
  EXPECT_THAT(error(), HasSubstr(fmt::format("#{} step u0: it must read total(0)", step)));
}

TEST_F(Mutation, AStepThatIgnoresTheVerdict) {
  const size_t step = find(Op::kStep, 2);
  at(step).predicate = Predicate::kAlways;
  EXPECT_THAT(error(), HasSubstr(fmt::format("#{} step u2: a step must run 'if finite'", step)));
}

TEST_F(Mutation, TiedUsesOutOfOrder) {
  const size_t add = find(Op::kAddTied, 0);
  std::swap(at(add).reads[0], at(add).reads[1]);
  EXPECT_THAT(error(),
              HasSubstr(fmt::format("#{} add_tied u0: it must read the whole gradient of every use", add)));
}

TEST_F(Mutation, AReadAfterTheDrop) {
  const size_t loss = find(Op::kLoss, -1);
  ASSERT_EQ(at(loss).drops[0], act_value(2, 0));
  const size_t forward = find(Op::kForward, 2);
  at(loss).drops.clear();
  at(forward).drops.push_back(act_value(2, 0));
  EXPECT_THAT(error(),
              HasSubstr(fmt::format("#{} loss m0: reads act(2,0), which #{} has dropped", loss, forward)));
}

TEST_F(Mutation, AWrongKind) {
  const size_t forward = find(Op::kForward, 1);
  at(forward).reads[0] = saved_value(0, 0);
  EXPECT_THAT(error(),
              HasSubstr(fmt::format("#{} forward u1 m0: reads saved(0,0): forward may not", forward)));
}

TEST_F(Mutation, AnotherMicrobatchsActivation) {
  const size_t backward = find(Op::kBackwardInput, 1, 1);
  std::replace(at(backward).reads.begin(), at(backward).reads.end(), act_value(0, 1), act_value(0, 0));
  EXPECT_THAT(error(), HasSubstr(fmt::format("#{} backward_input u1 m1: it must read act(0,1)", backward)));
}

TEST_F(Mutation, TwoValuesInOneSlot) {
  const int32_t slot = program.slot_of(gradient_value(1, 0, 0, 1));
  assignment(gradient_value(1, 0, 1, 2)).slot = slot;
  EXPECT_THAT(error(),
              HasSubstr(fmt::format("gradient(1,0,[1,2)) is written into slot {} while gradient(1,0,[0,1)) "
                                    "lives there",
                                    slot)));
}

TEST_F(Mutation, ASlotOfAnotherKind) {
  assignment(grad_value(1, 0)).slot = program.slot_of(act_value(1, 0));
  EXPECT_THAT(error(), HasSubstr("they are of different kinds"));
}

TEST_F(Mutation, ASlotForAnotherMemory) {
  assignment(grad_value(1, 0)).slot = program.slot_of(params_value(1, 0));
  EXPECT_THAT(error(), MatchesRegex("#[0-9]+ .*: grad\\(1,0\\) is in slot [0-9]+ for parameters"));
}

TEST_F(Mutation, ASlotThatIsTooSmall) {
  program.slots[program.slot_of(act_value(1, 3))].bytes -= 1;
  EXPECT_THAT(
      error(),
      MatchesRegex("#[0-9]+ forward u1 m[0-9]: act\\(1,[0-9]\\) needs 128 bytes, its slot [0-9]+ has 127"));
}

TEST_F(Mutation, ASlotThatDoesNotExist) {
  assignment(act_value(1, 3)).slot = 99;
  EXPECT_THAT(error(), HasSubstr("forward u1 m3: act(1,3) is in slot 99, which does not exist"));
}

TEST_F(Mutation, HeadersThatDoNotFit) {
  program.units[1] = "other";
  EXPECT_THAT(error(), HasSubstr("unit 1 is 'other', in the model it is 'u1'"));
  program.units.pop_back();
  EXPECT_THAT(error(), HasSubstr("it has 2 units, the model has 3"));
}

TEST_F(Mutation, NamesAndOperationsThatHaveNoPlace) {
  program.name = "evaluate";
  EXPECT_THAT(error(), HasSubstr("loss has no place in a program 'evaluate'"));
  program.name = "trian";
  EXPECT_THAT(error(), HasSubstr("known are train, evaluate, predict, save, average"));
}

TEST_F(Mutation, UnitsAndMicrobatchesOutOfRange) {
  at(1).unit = 3;
  EXPECT_THAT(error(), HasSubstr("the model has no unit 3"));
  at(1).unit = 0;
  at(1).microbatch = 5;
  EXPECT_THAT(error(), HasSubstr("the program has no microbatch 5"));
}

TEST_F(Mutation, InputsMustBeParametersAndState) {
  program.inputs.push_back(act_value(0, 0));
  EXPECT_THAT(error(), HasSubstr("input act(0,0): a program starts from"));
  program.inputs.pop_back();
  program.inputs.push_back(program.inputs[0]);
  EXPECT_THAT(error(), HasSubstr("is an input twice"));
}

// Every single omission or repetition in every list of a program must be found.
class Omissions {
 public:
  Omissions(const Program& program, const ModelSpec& spec) : good_(program), spec_(spec) {
    EXPECT_EQ(error_of(good_, spec_), "valid");
  }

  void check() {
    each("instruction", good_.instructions.size(), [](Program& p) -> auto& { return p.instructions; });
    each("input", good_.inputs.size(), [](Program& p) -> auto& { return p.inputs; });
    each("assignment", good_.assignments.size(), [](Program& p) -> auto& { return p.assignments; });
    for (size_t i = 0; i < good_.instructions.size(); ++i) {
      const Instruction& instruction = good_.instructions[i];
      const std::string name = fmt::format("#{} ", i);
      each(name + "read", instruction.reads.size(),
           [i](Program& p) -> auto& { return p.instructions[i].reads; });
      each(name + "write", instruction.writes.size(),
           [i](Program& p) -> auto& { return p.instructions[i].writes; });
      each(name + "drop", instruction.drops.size(),
           [i](Program& p) -> auto& { return p.instructions[i].drops; });
    }
  }

  size_t tried = 0;

 private:
  template <class Select>
  void each(const std::string& what, size_t count, Select select) {
    for (size_t i = 0; i < count; ++i) {
      Program program = good_;
      auto& list = select(program);
      const auto item = list[i];
      list.erase(list.begin() + static_cast<std::ptrdiff_t>(i));
      EXPECT_NE(error_of(program, spec_), "valid") << "without " << what << " " << i << "\n"
                                                   << to_text(good_);
      program = good_;
      auto& again = select(program);
      again.insert(again.begin() + static_cast<std::ptrdiff_t>(i), item);
      EXPECT_NE(error_of(program, spec_), "valid") << "twice " << what << " " << i << "\n" << to_text(good_);
      tried += 2;
    }
  }

  const Program& good_;
  const ModelSpec& spec_;
};

TEST(Omissions, EachIsFoundInTrain) {
  const ModelSpec spec = tied_spec();
  const Program program = compile_train(spec, Layout(), {{4, 4, 3}, {false, true, false}, 1});
  Omissions omissions(program, spec);
  omissions.check();
  EXPECT_GT(omissions.tried, 500u);
}

TEST(Omissions, EachIsFoundWithAnOptimizerOnTheHost) {
  ModelSpec spec = tied_spec();
  for (Unit& unit : spec.units) unit.offload = true;
  for (const DType reduce : {DType::kF32, DType::kBF16}) {
    spec.reduce = reduce;
    const Program program = compile_train(spec, Layout(), {{4, 3}, {}, 1});
    Omissions omissions(program, spec);
    omissions.check();
    EXPECT_GT(omissions.tried, 300u);
  }
}

TEST(Omissions, EachIsFoundWhereGradientsAreRounded) {
  ModelSpec spec = tied_spec();
  spec.reduce = DType::kBF16;
  const Program program = compile_train(spec, Layout(), {{4, 4, 3}, {false, true, false}, 1});
  Omissions omissions(program, spec);
  omissions.check();
  EXPECT_EQ(parse_program(to_text(program)), program);
  spec.reduce = DType::kF32;
  EXPECT_NE(error_of(program, spec), "valid") << "rounded, though gradients are float32";
  const Program plain = compile_train(spec, Layout(), {{4, 4, 3}, {false, true, false}, 1});
  spec.reduce = DType::kBF16;
  EXPECT_NE(error_of(plain, spec), "valid") << "not rounded";
}

TEST(Omissions, EachIsFoundInRandomModels) {
  std::mt19937 rng(5);
  for (int round = 0; round < 6; ++round) {
    const ModelSpec spec = testing::random_spec(&rng);
    const Program program = compile_train(spec, Layout(), {{2, 2, 1}, {}, static_cast<int>(rng() % 2)});
    Omissions(program, spec).check();
  }
}

TEST(Omissions, EachIsFoundInEvaluateAndSave) {
  const ModelSpec spec = tied_spec();
  const Program evaluate = compile_evaluate(spec, Layout(), {4, 4});
  Omissions(evaluate, spec).check();
  const Program save = compile_save(spec, Layout(), {{}, {}, 1});
  Omissions(save, spec).check();
}

// What a program promises may not be let go of instead, whether something has read it or not.
TEST(Omissions, NoOutputIsLetGo) {
  const ModelSpec spec = tied_spec();
  size_t tried = 0, unread = 0, missing = 0;
  for (const Program& good :
       {compile_train(spec, Layout(), {{4, 3}, {}, 2}), compile_evaluate(spec, Layout(), {4, 3}),
        compile_predict(spec, {4, 3}), compile_save(spec, Layout(), {{}, {}, 2})}) {
    for (const Value& output : good.outputs) {
      Program program = good;
      std::erase(program.outputs, output);
      const auto uses = [&](const Instruction& each) {
        return std::ranges::count(each.reads, output) + std::ranges::count(each.writes, output) > 0;
      };
      const auto last = std::find_if(program.instructions.rbegin(), program.instructions.rend(), uses);
      if (last == program.instructions.rend()) continue;  // it was there before, and nobody needs it
      last->drops.push_back(output);
      const std::string error = error_of(program, spec), name = to_string(output);
      unread += error.ends_with("nothing reads " + name + ", and it is no output") ? 1 : 0;
      missing += error.find(name + " is missing among the outputs") != std::string::npos ? 1 : 0;
      EXPECT_EQ(unread + missing, ++tried) << good.name << ": " << error;
    }
  }
  EXPECT_GT(unread, 5U);
  EXPECT_GT(missing, 2U);
}

// Two values of one class and size that live at once never pass in one slot.
TEST(Slots, SharingWhileBothLiveIsAlwaysFound) {
  const ModelSpec spec = tied_spec();
  const Program good = compile_train(spec, Layout(), {{4, 4, 4, 4}, {}, 1});
  auto life = [&](const Value& value) {
    int begin = -1, end = std::numeric_limits<int>::max();
    for (size_t i = 0; i < good.instructions.size(); ++i) {
      const Instruction& instruction = good.instructions[i];
      auto holds = [&](const std::vector<Value>& v) {
        return std::find(v.begin(), v.end(), value) != v.end();
      };
      if (holds(instruction.writes)) begin = static_cast<int>(i);
      if (holds(instruction.drops)) end = static_cast<int>(i);
    }
    return std::pair(begin, end);
  };
  size_t tried = 0;
  for (size_t a = 0; a < good.assignments.size(); ++a) {
    const auto [begin_a, end_a] = life(good.assignments[a].value);
    for (size_t b = 0; b < good.assignments.size(); ++b) {
      const auto [begin_b, end_b] = life(good.assignments[b].value);
      const bool apart = end_a < begin_b || end_b < begin_a;
      if (a == b || apart || good.assignments[a].slot == good.assignments[b].slot) continue;
      Program program = good;
      program.assignments[a].slot = good.assignments[b].slot;
      EXPECT_NE(error_of(program, spec), "valid")
          << to_string(good.assignments[a].value) << " with " << to_string(good.assignments[b].value);
      ++tried;
    }
  }
  EXPECT_GT(tried, 100u);
}

TEST(Report, CountsFlatBuffersAndPeaks) {
  const ModelSpec spec = chain(2, 8);  // 72 parameters a unit: 1,024 elements each
  const VerifyReport report = verify(compile_train(spec, Layout(), {{4, 4}, {}, 2}), spec);
  auto bytes = [&](MemoryKind kind) { return report.peak_bytes[static_cast<size_t>(kind)]; };
  EXPECT_EQ(bytes(MemoryKind::kParameters), 2 * 4096);
  EXPECT_EQ(bytes(MemoryKind::kOptimizer), 2 * 2 * 4096);
  EXPECT_EQ(bytes(MemoryKind::kGradients), 3 * 4096);  // log2(2) + 1 a unit, one of them shared
  EXPECT_EQ(bytes(MemoryKind::kData), 4 * (32 + 8 + 8));
  // At backward_input of unit 1: act 0, and act 1 that saved 1 holds; saved 0 and 1, grad 1, and what it
  // writes, grad 0 and deferred 1.
  EXPECT_EQ(bytes(MemoryKind::kActivations), 4 * (2 * 32 + 2 * 12 + 2 * 32 + 20));
  EXPECT_EQ(report.instructions, 2 * (1 + 2 + 1 + 4) + 2 + 2 + 2);
}

class Predict : public Mutation {
 protected:
  Predict() { program = compile_predict(spec, {4, 4, 2}); }
};

TEST_F(Predict, NoneIsValid) {
  EXPECT_EQ(error(), "valid");
  EXPECT_EQ(program.instructions.size(), 3u * (1 + 3));
  EXPECT_EQ(parse_program(to_text(program)), program);
}

TEST_F(Predict, AnOutputThatIsDropped) {
  std::erase(program.outputs, act_value(2, 1));
  EXPECT_THAT(error(), HasSubstr("act(2,1)"));
}

TEST_F(Predict, ABatchThatIsDropped) {
  std::erase(program.outputs, batch_value(2));
  EXPECT_THAT(error(), HasSubstr("batch(2)"));
}

TEST_F(Predict, AStepInIt) {
  const Program train = compile_train(spec, Layout(), {{4, 4, 2}, {}, 1});
  program.instructions.push_back(train.instructions.back());
  EXPECT_THAT(error(), HasSubstr("has no place in a program 'predict'"));
}

class LossScale : public Mutation {
 protected:
  LossScale() {
    spec = chain(2);
    spec.units[1].compute = spec.units[1].output.dtype = DType::kF16;
    program = compile_train(spec, Layout(), {{4, 4, 4}, {}, 1});
  }
};

TEST_F(LossScale, NoneIsValid) {
  EXPECT_EQ(error(), "valid");
  EXPECT_EQ(parse_program(to_text(program)), program);
  const auto scales = [](const Program& other) {
    return std::ranges::count_if(other.instructions, [](const Instruction& instruction) {
      return std::ranges::find(instruction.reads, loss_scale_value(0)) != instruction.reads.end();
    });
  };
  EXPECT_EQ(scales(program), 3 + 1 + 1) << "losses, clip, update";
  EXPECT_EQ(scales(compile_train(chain(2), Layout(), {{4, 4, 4}, {}, 1})), 0);
  EXPECT_EQ(scales(compile_evaluate(spec, Layout(), {4}, {})), 0);
}

TEST_F(LossScale, ADroppedUpdate) {
  erase(find(Op::kUpdateScale, -1));
  EXPECT_THAT(error(), HasSubstr("loss_scale(1)"));
}

TEST_F(LossScale, ALossWithoutIt) {
  std::erase(at(find(Op::kLoss, -1, 1)).reads, loss_scale_value(0));
  EXPECT_THAT(error(), HasSubstr("it must read loss_scale(0)"));
}

TEST_F(LossScale, AClipThatForgetsIt) {
  std::erase(at(find(Op::kClip, -1)).reads, loss_scale_value(0));
  EXPECT_THAT(error(), HasSubstr("it must read loss_scale(0)"));
}

TEST_F(LossScale, AnUpdateThatWaitsForASuccess) {
  at(find(Op::kUpdateScale, -1)).predicate = Predicate::kFinite;
  EXPECT_THAT(error(), HasSubstr("run 'if finite'"));
}

TEST_F(LossScale, IsNoInput) {
  std::erase(program.inputs, loss_scale_value(0));
  EXPECT_NE(error(), "valid");
}

TEST_F(LossScale, AnUpdateWithoutFloat16) {
  Instruction update;
  update.op = Op::kUpdateScale;
  update.reads = {scale_value(), loss_scale_value(0)};
  update.writes = {loss_scale_value(1)};
  spec = chain(2);
  program = compile_train(spec, Layout(), {{4, 4, 4}, {}, 1});
  program.instructions.push_back(update);
  EXPECT_THAT(error(), HasSubstr("nothing is in float16"));
}

class Statistics : public Mutation {
 protected:
  Statistics() {
    spec = chain(3);
    spec.units[1].statistics = {testing::statistic("u1.running_mean", {8})};
    program = compile_train(spec, Layout(), {{4, 4, 4}, {true, true, true}, 1});
  }
};

TEST_F(Statistics, NoneIsValid) { EXPECT_EQ(error(), "valid"); }

TEST_F(Statistics, ADroppedFold) {
  erase(find(Op::kFoldStats, 1));
  EXPECT_THAT(error(), HasSubstr("stats(1,1)"));
}

TEST_F(Statistics, AnotherOrderOfMicrobatches) {
  Instruction& fold = at(find(Op::kFoldStats, 1));
  std::swap(fold.reads[1], fold.reads[2]);
  EXPECT_THAT(error(), HasSubstr("in microbatch order"));
}

TEST_F(Statistics, AFoldWithoutTheVerdict) {
  at(find(Op::kFoldStats, 1)).predicate = Predicate::kAlways;
  EXPECT_THAT(error(), HasSubstr("a fold_stats must run 'if finite'"));
}

TEST_F(Statistics, ARecomputeThatSpeaksOfThem) {
  at(find(Op::kRecompute, 1)).writes.push_back(bn_stats_value(1, 0));
  EXPECT_THAT(error(), HasSubstr("writes bn_stats(1,0): recompute may not"));
}

TEST_F(Statistics, AForwardThatKeepsThemToItself) {
  Instruction& forward = at(find(Op::kForward, 1));
  std::erase(forward.writes, bn_stats_value(1, 0));
  EXPECT_THAT(error(), HasSubstr("it must write bn_stats(1,0)"));
}

TEST_F(Statistics, AnEvaluationThatDoesNotReadThem) {
  program = compile_evaluate(spec, Layout(), {4});
  Instruction& forward = at(find(Op::kForward, 1));
  std::erase(forward.reads, stats_value(1, 0));
  EXPECT_THAT(error(), HasSubstr("it must read stats(1,0)"));
}

TEST_F(Statistics, NeedAUnitThatIsTrained) {
  spec.units[1].parameters.clear();
  EXPECT_THROW(validate(spec), Error);
  spec = chain(3);
  spec.units[1].statistics = {testing::statistic("u0.weight", {8})};
  EXPECT_THROW(validate(spec), Error);
}

class OnHost : public Mutation {
 protected:
  void SetUp() override {
    for (Unit& unit : spec.units) unit.offload = true;
    program = compile_train(spec, Layout(), {{4, 4}, {}, 1});
  }
};

TEST_F(OnHost, ParametersThatDoNotComeUp) {
  EXPECT_EQ(error(), "valid");
  const size_t up = find(Op::kCopyUp, 1);
  erase(up);
  EXPECT_THAT(error(), HasSubstr("params(1,1)"));
}

TEST_F(OnHost, AStepOnTheHostReadsNothingOfTheDevice) {
  at(find(Op::kStep, 1)).reads[1] = gradient_value(1, 0, 0, 2);
  EXPECT_THAT(error(), HasSubstr("it must read hosted(1,0)"));
}

TEST_F(OnHost, ParametersComeUpAsTheyWereBefore) {
  at(find(Op::kCopyUp, 1)).reads[1] = hosted_value(1, 0);
  EXPECT_THAT(error(), HasSubstr("it must read hosted(1,1)"));
}

TEST_F(OnHost, CopiesRunIfFinite) {
  at(find(Op::kCopyUp, 1)).predicate = Predicate::kAlways;
  EXPECT_THAT(error(), HasSubstr("a copy_up must run 'if finite'"));
}

TEST_F(OnHost, CopiesHaveALaneOfTheirOwn) {
  at(find(Op::kCopyDown, 1)).stream = Stream::kCompute;
  EXPECT_THAT(error(), HasSubstr("copies between a device and its host run 'on copy'"));
}

TEST_F(OnHost, HasRoomForTwoUnits) {
  const size_t second = find(Op::kCopyDown, 1), third = find(Op::kCopyDown, 2);
  const Instruction down = at(third);
  erase(third);
  program.instructions.insert(program.instructions.begin() + static_cast<std::ptrdiff_t>(second) + 1, down);
  EXPECT_THAT(error(), HasSubstr("units 0 and 1 are on the host already: 2 have room there"));
}

TEST_F(OnHost, ASlotThatIsStillOnItsWayUp) {
  const int32_t taken = assignment(hosted_value(0, 0)).slot;
  EXPECT_EQ(assignment(hosted_value(0, 1)).slot, taken);
  EXPECT_NE(assignment(hosted_value(1, 0)).slot, taken);
  EXPECT_EQ(assignment(hosted_value(2, 0)).slot, taken);
  for (const int32_t version : {0, 1}) assignment(hosted_value(1, version)).slot = taken;
  EXPECT_THAT(error(), HasSubstr(fmt::format(
                           "hosted(1,0) is written into slot {} while hosted(0,0) lives there", taken)));
}

TEST_F(OnHost, UnitsOfTheDeviceHaveNoCopies) {
  spec.units[1].offload = false;
  EXPECT_THAT(error(), HasSubstr("the optimizer of the unit is not on the host"));
}

class Gathers : public Mutation {
 protected:
  void SetUp() override {
    spec = chain(3);
    TrainOptions options;
    options.microbatch_sizes.assign(2, 4);
    options.recompute.assign(3, false);
    options.optimizer_states = 1;
    options.ranks.zero_stage = 3;
    options.ranks.reshard = Reshard::kAlways;
    program = compile_train(spec, Layout({1, 1, 2, 1, 1, 1}, 2), options);
    program.slots.clear();  // what lives where is another rule's
    program.assignments.clear();
  }
};

// The first gather kept, and read once more in the place of the second.
TEST_F(Gathers, AreReadInTheirTurn) {
  EXPECT_EQ(error(), "valid");
  const Value first = gathered_value(1, 0), second = gathered_value(1, 1);
  const size_t again = find(Op::kGatherParams, 1, 1);
  for (size_t i = 0; i < program.instructions.size(); ++i) {
    std::erase(at(i).drops, first);
    if (i <= again) continue;
    std::ranges::replace(at(i).reads, second, first);
    std::ranges::replace(at(i).drops, second, first);
  }
  at(again).drops.push_back(second);
  EXPECT_THAT(error(), HasSubstr("reads gathered(1,0) after gather 1 of the unit"));
}

TEST_F(Gathers, AreNumberedInOrder) {
  const Value second = gathered_value(1, 1), third = gathered_value(1, 2);
  for (Instruction& instruction : program.instructions) {
    std::ranges::replace(instruction.reads, second, third);
    std::ranges::replace(instruction.writes, second, third);
    std::ranges::replace(instruction.drops, second, third);
  }
  EXPECT_THAT(error(), HasSubstr("writes gathered(1,2), but gather 1 of the unit is next"));
}

}  // namespace
}  // namespace furrow::plan
