#include "furrow/plan/program.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

#include "furrow/base/error.h"
#include "furrow/plan/compile.h"
#include "furrow/plan/testing/specs.h"

namespace furrow::plan {
namespace {

using ::testing::HasSubstr;

std::string error_of(const std::string& text) {
  try {
    parse_program(text);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "no error";
}

Value random_value(std::mt19937* rng) {
  auto small = [&] { return static_cast<int32_t>((*rng)() % 40); };
  auto part = [&] { return static_cast<Part>((*rng)() % 3); };
  switch ((*rng)() % kValueKinds) {
    case 0:
      return batch_value(small());
    case 1:
      return act_value(small(), small());
    case 2:
      return saved_value(small(), small());
    case 3:
      return grad_value(small(), small());
    case 4:
      return deferred_value(small(), small());
    case 5:
      return gradient_value(small(), small(), small(), small(), part());
    case 6:
      return total_value(small(), part());
    case 7:
      return loss_value(small());
    case 8:
      return params_value(small(), small(), part());
    case 9:
      return state_value(small(), small(), part());
    case 10:
      return snapshot_value(small(), part());
    case 11:
      return sums_value(small());
    case 12:
      return gathered_value(small(), small());
    default:
      return scale_value();
  }
}

std::vector<Value> random_values(std::mt19937* rng, size_t most) {
  std::vector<Value> values((*rng)() % (most + 1));
  for (Value& value : values) value = random_value(rng);
  return values;
}

Instruction random_instruction(std::mt19937* rng) {
  const std::vector<Op> ops = all_ops();
  Instruction instruction;
  instruction.op = ops[(*rng)() % ops.size()];
  const OpInfo& info = op_info(instruction.op);
  if (info.has_unit) instruction.unit = static_cast<int32_t>((*rng)() % 8);
  if (info.has_microbatch) instruction.microbatch = static_cast<int32_t>((*rng)() % 8);
  if (info.has_peer) {
    instruction.peer = static_cast<int32_t>((*rng)() % 4);
    if ((*rng)() % 2 == 0) instruction.microbatch = static_cast<int32_t>((*rng)() % 8);
  }
  instruction.axis = static_cast<GroupAxis>((*rng)() % kGroupAxisNames.size());
  instruction.stream = static_cast<Stream>((*rng)() % 3);
  instruction.predicate = (*rng)() % 2 == 0 ? Predicate::kAlways : Predicate::kFinite;
  instruction.reads = random_values(rng, 5);
  instruction.writes = random_values(rng, 3);
  instruction.drops = random_values(rng, 3);
  return instruction;
}

// Any program whose form is good; its sense does not matter here.
Program random_program(std::mt19937* rng) {
  Program program;
  program.name = (*rng)() % 2 == 0 ? "train" : "any-thing_1";
  if ((*rng)() % 2 == 0) {
    program.placement.layout = Layout({1, 2, 3, 1, 1, 1}, 6);
    program.placement.rank = static_cast<int>((*rng)() % 6);
    program.placement.zero_stage = static_cast<int>((*rng)() % 4);
    program.placement.tree = static_cast<TreeKind>((*rng)() % 2);
    for (size_t s = (*rng)() % 4; s > 0; --s) {
      program.placement.stages.push_back({static_cast<int32_t>((*rng)() % 9),
                                          static_cast<int32_t>((*rng)() % 9),
                                          static_cast<int>((*rng)() % 4)});
    }
  }
  for (size_t u = (*rng)() % 5; u > 0; --u) program.units.push_back(fmt::format("h.{}/x", u));
  for (size_t m = (*rng)() % 5; m > 0; --m) program.microbatch_sizes.push_back((*rng)());
  program.inputs = random_values(rng, 6);
  program.outputs = random_values(rng, 6);
  for (size_t i = (*rng)() % 20; i > 0; --i) program.instructions.push_back(random_instruction(rng));
  std::set<Value> assigned;
  for (size_t s = (*rng)() % 6; s > 0; --s) {
    program.slots.push_back(
        {static_cast<MemoryKind>((*rng)() % kMemoryKinds), static_cast<int64_t>((*rng)()) << 10});
    for (const Value& value : random_values(rng, 4)) {
      if (!assigned.insert(value).second) continue;
      program.assignments.push_back(
          {value, static_cast<int32_t>(program.slots.size()) - 1, static_cast<int64_t>((*rng)() % 3) * 4096});
    }
  }
  std::sort(program.assignments.begin(), program.assignments.end(),
            [](const SlotAssignment& a, const SlotAssignment& b) { return a.value < b.value; });
  return program;
}

TEST(Values, HaveOneSpelling) {
  EXPECT_EQ(to_string(gradient_value(3, 0, 0, 2)), "gradient(3,0,[0,2))");
  EXPECT_EQ(to_string(gradient_value(3, 0, 0, 2, Part::kPiece)), "gradient(3,0,[0,2))/piece");
  EXPECT_EQ(to_string(params_value(3, 1, Part::kShard)), "params(3,1)/shard");
  EXPECT_EQ(to_string(act_value(1, 2)), "act(1,2)");
  EXPECT_EQ(to_string(loss_value(4)), "loss(4)");
  EXPECT_EQ(to_string(total_value(5)), "total(5)");
  EXPECT_EQ(to_string(scale_value()), "scale()");
  std::mt19937 rng(1);
  for (int i = 0; i < 2000; ++i) {
    const Value value = random_value(&rng);
    EXPECT_EQ(parse_value(to_string(value)), value);
  }
}

TEST(Values, OtherSpellingsAreRefused) {
  for (const char* text : {"",
                           "act",
                           "act(",
                           "act(1)",
                           "act(1,2",
                           "act(1,2))",
                           "act(1, 2)",
                           "act(-1,2)",
                           "act(01,2)",
                           "act(+1,2)",
                           "act(1,99999999999)",
                           "ACT(1,2)",
                           "scale(0)",
                           "scale(01)",
                           "loss(1,0)",
                           "loss()",
                           "gradient(1,2)",
                           "gradient(1,2,[0,1]",
                           "gradient(1,2,[0,1)",
                           "total(1,2)",
                           "nothing(1)",
                           "total(1)/whole",
                           "total(1)/",
                           "total(1)/shards",
                           "act(1,2)/shard",
                           "sums(0)/piece"}) {
    EXPECT_THROW(parse_value(text), Error) << text;
  }
}

TEST(Ops, AreFoundByName) {
  std::set<std::string_view> names;
  for (Op op : all_ops()) {
    EXPECT_EQ(find_op(op_info(op).name)->op, op);
    EXPECT_TRUE(names.insert(op_info(op).name).second);
  }
  EXPECT_EQ(find_op("forwards"), nullptr);
  EXPECT_THROW(op_info(static_cast<Op>(200)), Error);
}

TEST(ProgramText, RoundTripsAnyProgram) {
  std::mt19937 rng(20261121);
  for (int i = 0; i < 500; ++i) {
    const Program program = random_program(&rng);
    const std::string text = to_text(program);
    const Program back = parse_program(text);
    ASSERT_EQ(back, program) << text;
    ASSERT_EQ(to_text(back), text);
  }
}

TEST(ProgramText, ADifferentProgramHasADifferentText) {
  const Program program = compile_train(testing::chain(2), Layout(), {{4, 4}, {}, 1});
  Program other = program;
  other.instructions[3].reads[0].index = 1;
  EXPECT_NE(to_text(other), to_text(program));
  other = program;
  other.slots[2].bytes += 1;
  EXPECT_NE(to_text(other), to_text(program));
}

TEST(ProgramText, ReadsAsPromised) {
  const std::string text = to_text(compile_train(testing::chain(1), Layout(), {{4}, {}, 0}));
  EXPECT_EQ(text,
            "furrow-program 1 train\n"
            "microbatches 4\n"
            "units\n"
            "  u0 u0\n"
            "inputs params(0,0)\n"
            "outputs sums(0) scale() params(0,1)\n"
            "instructions\n"
            "  #0 load                  m0  on copy -> batch(0)\n"
            "  #1 forward         u0/u0 m0  batch(0) params(0,0) -> act(0,0) saved(0,0)\n"
            "  #2 loss                  m0  act(0,0) batch(0) -> grad(0,0) loss(0) drop act(0,0)\n"
            "  #3 backward_input  u0/u0 m0  grad(0,0) saved(0,0) batch(0) params(0,0) -> deferred(0,0) "
            "drop saved(0,0) grad(0,0)\n"
            "  #4 backward_weight u0/u0 m0  deferred(0,0) batch(0) -> gradient(0,0,[0,1)) drop batch(0) "
            "deferred(0,0)\n"
            "  #5 measure                   gradient(0,0,[0,1)) loss(0) -> sums(0) drop loss(0)\n"
            "  #6 clip                      sums(0) -> scale()\n"
            "  #7 step            u0/u0     if finite params(0,0) gradient(0,0,[0,1)) scale() -> params(0,1) "
            "drop gradient(0,0,[0,1)) params(0,0)\n"
            "slots\n"
            "  s0 parameters 4096 params(0,0) params(0,1)\n"
            "  s1 data 192 batch(0)\n"
            "  s2 activations 128 act(0,0)\n"
            "  s3 activations 48 saved(0,0)\n"
            "  s4 activations 128 grad(0,0)\n"
            "  s5 other 1168 loss(0)\n"
            "  s6 activations 80 deferred(0,0)\n"
            "  s7 gradients 4096 gradient(0,0,[0,1))\n"
            "  s8 other 880 sums(0)\n"
            "  s9 other 32 scale()\n");
}

TEST(ProgramText, ErrorsNameTheLine) {
  const std::string head =
      "furrow-program 1 train\nmicrobatches 4\nunits\n  u0 fc\ninputs\noutputs\ninstructions\n";
  EXPECT_THAT(error_of(""), HasSubstr("the text ends before 'furrow-program'"));
  EXPECT_THAT(error_of("\n\nprogram\n"), HasSubstr("line 3: expected 'furrow-program', found 'program'"));
  EXPECT_THAT(error_of("furrow-program 2 train"), HasSubstr("line 1: version 2 of the text form"));
  EXPECT_THAT(error_of("furrow-program 1 train\nmicrobatches -4"), HasSubstr("line 2: '-4' is no number"));
  EXPECT_THAT(error_of(head), HasSubstr("the text ends before 'slots'"));
  EXPECT_THAT(error_of(head + "#0 forwrd u0/fc m0 ->"),
              HasSubstr("line 8: unknown operation 'forwrd': did you mean 'forward'?"));
  EXPECT_THAT(error_of(head + "#1 clip ->"), HasSubstr("line 8: instruction #1 stands where #0 is due"));
  EXPECT_THAT(error_of(head + "#0"), HasSubstr("expected an operation"));
  EXPECT_THAT(error_of(head + "#0 forward"), HasSubstr("expected u and the number of a unit"));
  EXPECT_THAT(error_of(head + "#0 forward u0/fd m0 ->"), HasSubstr("unit 0 is not named 'fd'"));
  EXPECT_THAT(error_of(head + "#0 forward u0/fc x0 ->"), HasSubstr("expected m and a number, found 'x0'"));
  EXPECT_THAT(error_of(head + "#0 clip scale()"), HasSubstr("expected '->'"));
  EXPECT_THAT(error_of(head + "#0 clip scal() ->"), HasSubstr("'scal()' is no value"));
  EXPECT_THAT(error_of(head + "#0 clip -> drop"), HasSubstr("expected values after 'drop'"));
  EXPECT_THAT(error_of(head + "#0 clip -> -> "), HasSubstr("unexpected '->'"));
  EXPECT_THAT(error_of(head + "slots\ns0 paramters 4"),
              HasSubstr("line 9: unknown memory kind 'paramters': did you mean 'parameters'?"));
  EXPECT_THAT(error_of(head + "slots\ns0 data"), HasSubstr("expected 'sN KIND BYTES VALUES...'"));
  EXPECT_THAT(error_of(head + "slots\ns1 data 4"), HasSubstr("slot s1 stands where s0 is due"));
  EXPECT_THAT(error_of(head + "slots\ninputs"), HasSubstr("expected 'sN"));
  EXPECT_THAT(error_of(head + "slots x"), HasSubstr("unexpected 'x' after 'slots'"));
}

TEST(Program, FindsSlots) {
  const Program program = compile_train(testing::chain(2), Layout(), {{4, 4}, {}, 1});
  for (const SlotAssignment& assignment : program.assignments) {
    EXPECT_EQ(program.slot_of(assignment.value), assignment.slot);
  }
  EXPECT_THROW(program.slot_of(total_value(0)), Error);
  EXPECT_EQ(program.samples(), 8);
}

}  // namespace
}  // namespace furrow::plan
