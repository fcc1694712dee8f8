// Models of several chains and steps of several phases: what is compiled, on every layout, and what verify
// refuses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "furrow/base/error.h"
#include "furrow/plan/compatibility.h"
#include "furrow/plan/compile.h"
#include "furrow/plan/quote.h"
#include "furrow/plan/testing/specs.h"
#include "furrow/plan/topology.h"
#include "furrow/plan/verify.h"
#include "furrow/plan/verify_world.h"

namespace furrow::plan {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::unit;

// A maker (units 0, 1) and a judge (2, 3): over the batch, over what is made (4, 5), and borrowed (6, 7).
ModelSpec two_phases() {
  ModelSpec spec;
  spec.architecture = "phases";
  for (int u = 0; u < 8; ++u) spec.units.push_back(unit(u, 8, true));
  spec.units[2].source = kFromBatch;
  spec.units[4].source = spec.units[6].source = 1;
  spec.units[4].detached = true;
  for (int u = 4; u < 8; ++u) {
    for (size_t i = 0; i < 2; ++i) {
      Parameter& parameter = spec.units[u].parameters[i];
      parameter.tied_to = spec.units[2 + u % 2].parameters[i].name;
      parameter.borrowed = u >= 6;
    }
  }
  spec.phases = {"judge", "maker"};
  spec.heads = {{3, 0, -1, 1.0}, {5, 0, -1, 0.0}, {7, 1, -1, 1.0}};
  return spec;
}

// A student (0, 1) and a frozen teacher (2, 3, 4) with statistics.
ModelSpec taught() {
  ModelSpec spec;
  spec.architecture = "taught";
  for (int u = 0; u < 5; ++u) {
    spec.units.push_back(unit(u, 8, true));
    if (u < 2) continue;
    for (Parameter& parameter : spec.units[u].parameters) parameter.rule.frozen = true;
    spec.units[u].inference = true;
  }
  spec.units[3].statistics.push_back(testing::statistic("u3.running_mean", {8}));
  spec.units[2].source = kFromBatch;
  spec.heads = {{1, 0, 4, {}}};
  return spec;
}

TrainOptions options_for(int rank, int stage, int k, bool recompute, size_t units) {
  TrainOptions options{std::vector<int64_t>(k, 4), std::vector<bool>(units, recompute), 1};
  options.ranks = {rank, stage, Reshard::kDefault, Deterministic::kStrict, 1};
  return options;
}

std::vector<Program> compile(const ModelSpec& spec, int replicas, int shards, int stage, int k,
                             bool recompute) {
  std::vector<Program> programs;
  for (int rank = 0; rank < replicas * shards; ++rank)
    programs.push_back(compile_train(spec, Layout({1, replicas, shards, 1, 1, 1}, replicas * shards),
                                     options_for(rank, stage, k, recompute, spec.units.size())));
  return programs;
}

Program alone(const ModelSpec& spec, int k = 1) { return compile(spec, 1, 1, 1, k, false)[0]; }

// Without slots, so that a changed list is judged by its sense and not by its homes.
void forget_buffers(Program* program) {
  program->slots.clear();
  program->assignments.clear();
  for (Instruction& instruction : program->instructions) instruction.drops.clear();
}

std::string error_of(Program program, const ModelSpec& spec) {
  try {
    forget_buffers(&program);
    verify(program, spec);
  } catch (const Error& error) {
    return error.what();
  }
  return "valid";
}

std::string topology_error(const ModelSpec& spec) {
  try {
    validate(spec);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "valid";
}

std::vector<std::string> texts_of(const Program& program, std::initializer_list<Op> ops) {
  std::vector<std::string> texts;
  for (const Instruction& instruction : program.instructions) {
    if (std::find(ops.begin(), ops.end(), instruction.op) == ops.end()) continue;
    std::string text = to_string(instruction);
    for (const Value& value : instruction.writes) text.append(" ").append(to_string(value));
    texts.push_back(text);
  }
  return texts;
}

TEST(Phases, EveryLayoutIsVerifiedAloneAndTogether) {
  for (const ModelSpec& spec : {two_phases(), taught()}) {
    for (const auto& [replicas, shards] : {std::pair(1, 1), {2, 1}, {1, 2}, {1, 3}, {2, 2}, {4, 1}}) {
      for (const int stage : {1, 2, 3}) {
        for (const int each : {1, 2, 3}) {
          for (const bool recompute : {false, true}) {
            const auto programs = compile(spec, replicas, shards, stage, each * replicas * shards, recompute);
            verify_world(programs, spec);
            for (const Program& program : programs) EXPECT_EQ(parse_program(to_text(program)), program);
          }
        }
      }
    }
  }
}

TEST(Phases, AreOneAfterTheOther) {
  const Program program = alone(two_phases());
  EXPECT_THAT(texts_of(program, {Op::kForward}),
              ElementsAre("forward u0 m0 act(0,0) saved(0,0)", "forward u1 m0 act(1,0) saved(1,0)",
                          "forward u2 m0 act(2,0) saved(2,0)", "forward u3 m0 act(3,0) saved(3,0)",
                          "forward u4 m0 act(4,0) saved(4,0)", "forward u5 m0 act(5,0) saved(5,0)",
                          "forward u6 m0 act(6,0) saved(6,0)", "forward u7 m0 act(7,0) saved(7,0)"));
  EXPECT_THAT(
      texts_of(program, {Op::kLoss, Op::kMeasure, Op::kClip, Op::kStep, Op::kAddTied}),
      ElementsAre("loss m0 grad(3,0) loss(0)", "loss m0 grad(5,0) loss(0,1)", "add_tied u2 total(2)",
                  "add_tied u3 total(3)", "measure sums(0)", "clip scale()", "step u2 params(2,1) state(2,1)",
                  "step u3 params(3,1) state(3,1)", "loss m0 grad(7,0) loss(0,2)", "measure sums(2)",
                  "clip scale(1)", "step u0 params(0,1) state(0,1)", "step u1 params(1,1) state(1,1)"));
  // No gradient comes from the detached judge, and the borrowed one has none of its own.
  EXPECT_THAT(
      texts_of(program, {Op::kBackwardInput}),
      ElementsAre("backward_input u5 m0 grad(4,0) deferred(5,0)", "backward_input u4 m0 deferred(4,0)",
                  "backward_input u3 m0 grad(2,0) deferred(3,0)", "backward_input u2 m0 deferred(2,0)",
                  "backward_input u7 m0 grad(6,0)", "backward_input u6 m0 grad(1,0)",
                  "backward_input u1 m0 grad(0,0) deferred(1,0)", "backward_input u0 m0 deferred(0,0)"));
}

TEST(Phases, EvaluationRunsTheHeadsOfTheFirst) {
  const Program program = compile_evaluate(two_phases(), Layout(), {4});
  EXPECT_EQ(texts_of(program, {Op::kForward}).size(), 6U);
  EXPECT_THAT(texts_of(program, {Op::kEvaluate, Op::kMeasure}),
              ElementsAre("evaluate m0 loss(0)", "evaluate m0 loss(0,1)", "measure sums(0)"));
  const Program without_teacher = compile_evaluate(taught(), Layout(), {4});
  EXPECT_EQ(texts_of(without_teacher, {Op::kForward}).size(), 2U);
}

TEST(Phases, ATeacherRunsForwardAloneAndKeepsItsStatistics) {
  const Program program = alone(taught());
  EXPECT_THAT(
      texts_of(program, {Op::kForward, Op::kBackwardInput, Op::kStep, Op::kFoldStats}),
      ElementsAre("forward u0 m0 act(0,0) saved(0,0)", "forward u1 m0 act(1,0) saved(1,0)",
                  "forward u2 m0 act(2,0)", "forward u3 m0 act(3,0)", "forward u4 m0 act(4,0)",
                  "backward_input u1 m0 grad(0,0) deferred(1,0)", "backward_input u0 m0 deferred(0,0)",
                  "step u0 params(0,1) state(0,1)", "step u1 params(1,1) state(1,1)"));
  const Quote quoted = quote(program, taught());
  EXPECT_EQ(quoted.formula.text, "p+t+g+o");
  EXPECT_EQ(quoted.formula.parameters, 2 * 1024 * 4);
  EXPECT_EQ(quoted.formula.teacher, 3 * 1024 * 4);
  EXPECT_EQ(quoted.formula.optimizer, 2 * 1024 * 4);
  EXPECT_EQ(quote(compile(taught(), 1, 2, 3, 2, false)[0], taught()).formula.text, "(p+t+g+o)/2");
}

// `change` at the first instruction that matches gives a program that is refused with `message`.
void expect_refused(const ModelSpec& spec, Program program, const std::function<bool(Instruction&)>& change,
                    const std::string& message) {
  EXPECT_EQ(error_of(program, spec), "valid") << "control";
  for (Instruction& instruction : program.instructions) {
    if (change(instruction)) break;
  }
  EXPECT_THAT(error_of(program, spec), HasSubstr(message));
}

TEST(Phases, WhatIsBorrowedIsReadAsItIsStepped) {
  expect_refused(
      two_phases(), alone(two_phases()),
      [](Instruction& i) {
        if (i.op != Op::kForward || i.unit != 6) return false;
        std::replace(i.reads.begin(), i.reads.end(), params_value(2, 1), params_value(2, 0));
        return true;
      },
      "it must read params(2,1)");
  // Under ZeRO-3 a gather stands between.
  const std::vector<Program> programs = compile(two_phases(), 1, 2, 3, 2, false);
  int seen = 0;
  expect_refused(
      two_phases(), programs[0],
      [&](Instruction& i) {
        if (i.op != Op::kGatherParams || i.reads[0] != params_value(2, 1, Part::kShard)) return false;
        ++seen;
        i.reads[0] = params_value(2, 0, Part::kShard);
        return true;
      },
      "which brings params(2,0): it needs params(2,1)");
  EXPECT_EQ(seen, 1);
}

TEST(Phases, EachHasItsOwnSumsAndVerdict) {
  expect_refused(
      two_phases(), alone(two_phases()),
      [](Instruction& i) {
        if (i.op != Op::kStep || i.unit != 0) return false;
        std::replace(i.reads.begin(), i.reads.end(), scale_value(1), scale_value(0));
        return true;
      },
      "it must read scale(1)");
  expect_refused(
      two_phases(), alone(two_phases()),
      [](Instruction& i) {
        if (i.op != Op::kMeasure) return false;
        std::erase(i.reads, loss_value(0, 1));
        return true;
      },
      "it must read loss(0,1)");
  expect_refused(
      taught(), alone(taught()),
      [](Instruction& i) {
        if (i.op != Op::kLoss) return false;
        std::erase(i.reads, act_value(4, 0));
        return true;
      },
      "it must read act(4,0)");
}

TEST(Topology, IsRefusedWhereItDoesNotFit) {
  const auto with = [](ModelSpec spec, const std::function<void(ModelSpec&)>& change) {
    EXPECT_EQ(topology_error(spec), "valid");
    change(spec);
    return topology_error(spec);
  };
  EXPECT_THAT(with(two_phases(), [](ModelSpec& s) { s.units[4].detached = false; }),
              HasSubstr("gets 2 gradients"));
  EXPECT_THAT(with(two_phases(), [](ModelSpec& s) { s.heads.pop_back(); }), HasSubstr("phase 1"));
  EXPECT_THAT(with(two_phases(), [](ModelSpec& s) { s.heads[1].phase = 2; }), HasSubstr("phase 2 of 2"));
  EXPECT_THAT(with(two_phases(), [](ModelSpec& s) { s.heads[0].unit = 8; }), HasSubstr("there are 8 units"));
  EXPECT_THAT(with(two_phases(), [](ModelSpec& s) { s.units[6].parameters[0].borrowed = false; }),
              HasSubstr("which another phase steps"));
  EXPECT_THAT(with(two_phases(), [](ModelSpec& s) { s.units[4].parameters[0].borrowed = true; }),
              HasSubstr("which another phase steps"));
  EXPECT_THAT(with(two_phases(), [](ModelSpec& s) { s.units[4].source = 5; }),
              HasSubstr("earlier ones alone"));
  EXPECT_THAT(with(two_phases(),
                   [](ModelSpec& s) { s.units[0].statistics.push_back(testing::statistic("u0.mean", {8})); }),
              HasSubstr("fold twice"));
  EXPECT_THAT(with(taught(), [](ModelSpec& s) { s.heads[0].teacher = -1; }), HasSubstr("no head needs it"));
}

// What is given for samples is what is made, where something is, and no judge runs for it.
TEST(Chains, APredictionRunsWhatItNeedsAlone) {
  const auto forwards = [](const Program& program) { return texts_of(program, {Op::kForward}); };
  const ModelSpec made = two_phases();
  EXPECT_EQ(prediction_of(made), 1);
  const Program program = compile_predict(made, {4});
  EXPECT_EQ(forwards(program),
            (std::vector<std::string>{"forward u0 m0 act(0,0)", "forward u1 m0 act(1,0)"}));
  EXPECT_THAT(program.outputs, ::testing::Contains(act_value(1, 0)));
  const ModelSpec student = taught();
  EXPECT_EQ(prediction_of(student), 1);
  EXPECT_EQ(forwards(compile_predict(student, {4})), forwards(program));
}

std::string refusal(const ModelSpec& spec, const Layout& layout) {
  try {
    compile_train(compilable_spec(layout, spec), layout, {{4, 4}, {}, 1});
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnimplemented);
    return error.what();
  }
  return "compiled";
}

TEST(Topology, AxesThatCutOneChainAreRefused) {
  for (const ModelSpec& spec : {taught(), two_phases()}) {
    EXPECT_THAT(refusal(spec, Layout({2, 1, 1, 1, 1, 1}, 2)), HasSubstr("more than one chain"));
    EXPECT_THAT(refusal(spec, Layout({1, 1, 1, 1, 2, 1}, 2)),
                AllOf(HasSubstr("tensor_parallel_degree is 2"), HasSubstr("more than one chain"),
                      HasSubstr("dp_replicate 1 x dp_shard 2")));
    EXPECT_EQ(refusal(spec, Layout({1, 1, 2, 1, 1, 1}, 2)), "compiled");
  }
}

ModelSpec in_float16(ModelSpec spec) {
  for (Unit& unit : spec.units) {
    unit.compute = DType::kF16;
    unit.input.dtype = unit.output.dtype = DType::kF16;
  }
  return spec;
}

// A teacher has no part in it.
TEST(LossScales, ThereIsOneForEachPhase) {
  const ModelSpec spec = in_float16(two_phases());
  const Program program = alone(spec, 2);
  EXPECT_THAT(texts_of(program, {Op::kClip, Op::kUpdateScale}),
              ElementsAre("clip scale()", "update_scale loss_scale(1)", "clip scale(1)",
                          "update_scale loss_scale(3)"));
  EXPECT_EQ(parse_program(to_text(program)), program);
  for (const auto& [version, values] : {std::pair(0, &program.inputs), {1, &program.outputs}}) {
    for (const int phase : {0, 1})
      EXPECT_THAT(*values, ::testing::Contains(loss_scale_value(version, phase)).Times(1));
  }
  const auto reads = [&](int phase) {
    return std::count_if(program.instructions.begin(), program.instructions.end(), [&](const auto& each) {
      return std::count(each.reads.begin(), each.reads.end(), loss_scale_value(0, phase)) == 1;
    });
  };
  EXPECT_EQ(reads(0), 2 * 2 + 1 + 1) << "losses of two heads, clip, update";
  EXPECT_EQ(reads(1), 2 + 1 + 1);
  EXPECT_THAT(texts_of(alone(in_float16(taught())), {Op::kUpdateScale}),
              ElementsAre("update_scale loss_scale(1)"));
  for (const auto& [replicas, shards] : {std::pair(3, 1), {1, 2}, {2, 2}})
    verify_world(compile(spec, replicas, shards, 3, 2 * replicas * shards, true), spec);
}

TEST(LossScales, ThatOfAnotherPhaseIsRefused) {
  const ModelSpec spec = in_float16(two_phases());
  const auto with_other_scale = [](Op op) {
    return [op](Instruction& i) {
      const auto read = std::find(i.reads.begin(), i.reads.end(), loss_scale_value(0, 1));
      if (i.op != op || read == i.reads.end()) return false;
      *read = loss_scale_value(0, 0);
      return true;
    };
  };
  for (const Op op : {Op::kLoss, Op::kClip, Op::kUpdateScale})
    expect_refused(spec, alone(spec), with_other_scale(op), "it must read loss_scale(2)");
  expect_refused(
      spec, alone(spec),
      [](Instruction& i) {
        if (i.op != Op::kUpdateScale || i.writes[0] != loss_scale_value(1, 1)) return false;
        i.reads[0] = scale_value(0);
        return true;
      },
      "it must read scale(1)");
  Program without = alone(spec);
  std::erase_if(without.instructions, [](const Instruction& i) {
    return i.op == Op::kUpdateScale && i.writes[0] == loss_scale_value(1, 1);
  });
  EXPECT_THAT(error_of(without, spec), HasSubstr("loss_scale(3)"));
  Program third = alone(spec);
  third.inputs.push_back(loss_scale_value(0, 2));
  EXPECT_THAT(error_of(third, spec), HasSubstr("input loss_scale(4)"));
}

}  // namespace
}  // namespace furrow::plan
