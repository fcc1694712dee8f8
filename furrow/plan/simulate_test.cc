#include "furrow/plan/simulate.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <ctime>
#include <map>
#include <random>

#include "furrow/base/error.h"
#include "furrow/plan/compile.h"
#include "furrow/plan/quote.h"
#include "furrow/plan/simulator.h"
#include "furrow/plan/testing/specs.h"
#include "furrow/plan/testing/unit_costs.h"
#include "furrow/plan/verify.h"

namespace furrow::plan {
namespace {

using ::testing::HasSubstr;
using testing::UnitCosts;

Layout data_layout(int replicas, int shards) {
  return Layout({1, replicas, shards, 1, 1, 1}, replicas * shards);
}

struct Case {
  int replicas = 1, shards = 1;
  int stage = 3;
  int microbatches = 2;
  bool recompute = false;
  int pipeline = 1;
  PipelineOptions schedule = {};
  int64_t bucket_bytes = 0;
};

std::vector<Program> world_of(const ModelSpec& spec, const Case& c) {
  TrainOptions options;
  options.microbatch_sizes.assign(static_cast<size_t>(c.microbatches), 4);
  options.recompute.assign(spec.units.size(), c.recompute);
  options.optimizer_states = 2;
  options.ranks.zero_stage = c.stage;
  options.ranks.pipeline = c.schedule;
  options.ranks.bucket_bytes = c.bucket_bytes;
  const int world = c.pipeline * c.replicas * c.shards;
  const Layout layout({c.pipeline, c.replicas, c.shards, 1, 1, 1}, world);
  std::vector<Program> programs;
  for (int rank = 0; rank < world; ++rank) {
    options.ranks.rank = rank;
    programs.push_back(compile_train(spec, layout, options));
  }
  return programs;
}

Simulation run(const std::vector<Program>& programs, const ModelSpec& spec, const Costs& costs) {
  return simulate(programs, spec, costs, {.timeline = true, .memory = true});
}

// ---- programs that a person can add up: forward, input and weight gradients 1 s, steps 1 s, collectives 3
// s, the sums 0.5 s, everything else nothing

TEST(Simulate, OneRankAddsUpItsInstructions) {
  const ModelSpec spec = testing::chain(2);
  const Simulation one = run(world_of(spec, {.microbatches = 1}), spec, UnitCosts());
  // F0 F1 I1 W1 W0 (the first unit's input needs no gradient), and two steps.
  EXPECT_DOUBLE_EQ(one.step_s, 5 + 2);
  EXPECT_DOUBLE_EQ(one.ranks[0].compute_s, 7);
  EXPECT_EQ(one.bubble, 0);
  EXPECT_EQ(one.exposed_communication, 0);
  EXPECT_EQ(one.wire_bytes, 0);
  EXPECT_DOUBLE_EQ(run(world_of(spec, {.microbatches = 3}), spec, UnitCosts()).step_s, 15 + 2);
  const Case recomputed{.microbatches = 3, .recompute = true};
  EXPECT_DOUBLE_EQ(run(world_of(spec, recomputed), spec, UnitCosts()).step_s, 15 + 6 + 2);
}

// ---- a device behind the thread: F0 F1 loss I1 W1 I0 W0 measure and two steps, of which I0 is nothing but
// told

UnitCosts behind(double launch) {
  UnitCosts costs;
  costs.launch = launch;
  costs.loss = 0.5;
  return costs;
}

double step_of(const UnitCosts& costs, int microbatches = 1) {
  const ModelSpec spec = testing::chain(2);
  return run(world_of(spec, {.microbatches = microbatches}), spec, costs).step_s;
}

// The device is always behind: it never waits but for what the thread tells it once it has a loss or the
// norm.
TEST(Simulate, AStepOfABusyDeviceIsTheDevices) {
  EXPECT_DOUBLE_EQ(step_of(behind(0)), 7.5);
  // Told while the device is at work, but once: what follows the loss is told from when it is there, and so
  // are the steps; from the second step on the first forward is told beside the steps before.
  EXPECT_DOUBLE_EQ(step_of(behind(0.125)), 7.5);
  EXPECT_DOUBLE_EQ(step_of(behind(0.125), 3), 18.5);
}

// What the thread does before it has anything to tell is beside what the step before has left to do: but for
// a run's first step, which is not what a run is predicted by.
TEST(Simulate, AStepBeginsBehindTheStepBeforeIt) {
  UnitCosts costs = behind(0.125);
  costs.batch = 0.5;
  EXPECT_DOUBLE_EQ(step_of(costs), 7.5);
  costs.batch = 2.5;  // longer than the steps, which are told a quarter of a second after the norm
  EXPECT_DOUBLE_EQ(step_of(costs), 7.5 + 2.5 - 1.75);
}

// Nothing of the device's work shows but where the thread waits for it.
TEST(Simulate, AStepThatIsToldSlowlyIsTheThreads) {
  // F0 F1 to 8, the loss told to 12 and there at 12.5; I1 W1 I0 W0 to 28.5; the norm to 32.5; steps to 40.5.
  EXPECT_DOUBLE_EQ(step_of(behind(4)), 10 * 4 + 0.5);
}

// What flies follows the device, not the thread that has told it long before.
TEST(Simulate, CommunicationFollowsTheDevice) {
  const ModelSpec spec = testing::chain(2, 256);
  const std::vector<Program> world = world_of(spec, {.replicas = 2});
  UnitCosts costs = behind(0.125);
  costs.loss = 0;
  EXPECT_DOUBLE_EQ(run(world, spec, costs).step_s, 18.5 + 0.125) << "the norm is told behind the sums";
}

// On the thread and on the device each instruction has a span.
TEST(Simulate, TheThreadHasSpansOfItsOwn) {
  const ModelSpec spec = testing::chain(2);
  const std::vector<Program> world = world_of(spec, {.microbatches = 1});
  const Simulation s = run(world, spec, behind(0.25));
  double told = 0, done = 0;
  for (const SimulatedSpan& span : s.spans) (span.launch ? told : done) += span.end_s - span.start_s;
  EXPECT_DOUBLE_EQ(told, 9 * 0.25);
  EXPECT_DOUBLE_EQ(done, 7.5 + 0.25) << "I0 is the thread's alone";
  EXPECT_DOUBLE_EQ(s.ranks[0].compute_s, 7.5 + 0.25);
  for (const SimulatedSpan& span : run(world, spec, UnitCosts()).spans)
    EXPECT_FALSE(span.launch) << "control";
}

// Nor is the device done with anything before it has been told of it, however quick it is.
TEST(Simulate, TheDeviceEndsNoSoonerThanItIsTold) {
  const ModelSpec spec = testing::chain(2);
  const Simulation s = run(world_of(spec, {.microbatches = 1}), spec, behind(4));
  std::map<int32_t, double> told_s;
  for (const SimulatedSpan& span : s.spans) {
    if (span.launch) told_s[span.instruction] = span.end_s;
  }
  EXPECT_EQ(told_s.size(), 9U);
  for (const SimulatedSpan& span : s.spans) {
    if (!span.launch && told_s.contains(span.instruction)) {
      EXPECT_GE(span.end_s, told_s[span.instruction]) << span.instruction;
    }
  }
  // F0 F1 I1 W1 I0 W0 and the steps as long as they are told, and the loss.
  EXPECT_DOUBLE_EQ(s.ranks[0].compute_s, 8 * 4 + 0.5);
}

TEST(Simulate, DataParallelReducesBesideBackward) {
  const ModelSpec spec = testing::chain(2, 256);
  const std::vector<Program> world = world_of(spec, {.replicas = 2});
  const Simulation s = run(world, spec, UnitCosts());
  // Backward of u1 is done at 4, of u0 at 5.  Communication, one after the other: reduce and gather u1 4 to
  // 10, u0 10 to 16; the sums to 16.5; two steps.
  EXPECT_DOUBLE_EQ(s.step_s, 18.5);
  EXPECT_DOUBLE_EQ(s.ranks[0].exposed_s, 11.5);
  EXPECT_DOUBLE_EQ(s.ranks[1].exposed_s, 11.5);
  EXPECT_DOUBLE_EQ(s.exposed_communication, 11.5 / 18.5);
  EXPECT_EQ(s.bubble, 0);
}

TEST(Simulate, ABucketIsOneCollective) {
  const ModelSpec spec = testing::chain(2, 256);
  constexpr int64_t kAll = int64_t{1} << 30;
  // Backward of u0 is done at 5: both are reduced to 8 and gathered to 11; the sums to 11.5; two steps.
  const Simulation data = run(world_of(spec, {.replicas = 2, .bucket_bytes = kAll}), spec, UnitCosts());
  EXPECT_DOUBLE_EQ(data.step_s, 13.5);
  EXPECT_EQ(data.wire_bytes, run(world_of(spec, {.replicas = 2}), spec, UnitCosts()).wire_bytes);
  // Reduced to 8; the sums to 8.5, two steps, and both are gathered.
  const Case zero1{.shards = 2, .stage = 1, .bucket_bytes = kAll};
  EXPECT_DOUBLE_EQ(run(world_of(spec, zero1), spec, UnitCosts()).step_s, 13.5);
}

TEST(Simulate, CommunicationThatTheThreadDoesIsNotHidden) {
  const ModelSpec spec = testing::chain(2, 256);
  const std::vector<Program> world = world_of(spec, {.replicas = 2});
  UnitCosts costs;
  costs.machine.inline_inside = true;
  const Simulation s = run(world, spec, costs);
  EXPECT_DOUBLE_EQ(s.step_s, 5 + 4 * 3 + 0.5 + 2);
  EXPECT_DOUBLE_EQ(s.ranks[0].exposed_s, 12.5);
  EXPECT_DOUBLE_EQ(s.bubble, 1 - 5.0 / 11);  // from 0 to the last weight gradient
  costs.machine.inline_inside = false;
  costs.machine.inline_bytes = 1 << 20;
  EXPECT_DOUBLE_EQ(run(world, spec, costs).step_s, s.step_s);
  costs.machine.inline_bytes = 1 << 10;  // less than any of them
  EXPECT_DOUBLE_EQ(run(world, spec, costs).step_s, 18.5);
}

TEST(Simulate, ShardsAreGatheredAheadAndWaitedFor) {
  const ModelSpec spec = testing::chain(2, 256);
  const Simulation s = run(world_of(spec, {.shards = 2}), spec, UnitCosts());
  // gather u0 0-3, u1 3-6, u0 again 6-9; F0 3-4, F1 6-7, I1 W1 to 9, W0 to 10; reduce u1 9-12, u0 12-15;
  // sums.
  EXPECT_DOUBLE_EQ(s.step_s, 15.5 + 2);
  EXPECT_DOUBLE_EQ(s.ranks[0].exposed_s, 3 + 2 + 5 + 0.5);
  EXPECT_DOUBLE_EQ(s.bubble, 1 - 5.0 / 7);  // from 3 to 10
}

TEST(Simulate, UnequalRanksWaitForEachOther) {
  const ModelSpec spec = testing::chain(2, 256);
  std::vector<Program> world =
      world_of(spec, {.replicas = 2, .microbatches = 3});  // two for rank 0, one for rank 1
  const Simulation s = run(world, spec, UnitCosts());
  EXPECT_DOUBLE_EQ(s.ranks[0].end_s, s.ranks[1].end_s);
  EXPECT_GT(s.ranks[1].exposed_s, s.ranks[0].exposed_s + 4);
  EXPECT_DOUBLE_EQ(s.ranks[0].compute_s, s.ranks[1].compute_s + 5);
}

TEST(Simulate, TimelineIsTheProgram) {
  const ModelSpec spec = testing::chain(2, 256);
  const std::vector<Program> world = world_of(spec, {.replicas = 2});
  const Simulation s = run(world, spec, UnitCosts());
  std::vector<std::vector<SimulatedSpan>> of(2);
  for (const SimulatedSpan& span : s.spans) of[static_cast<size_t>(span.program)].push_back(span);
  for (const auto& spans : of) {
    EXPECT_EQ(spans.size(), world[0].instructions.size());
    for (const SimulatedSpan& span : spans) {
      if (span.instruction != 6) continue;  // reduce_grads u1
      EXPECT_DOUBLE_EQ(span.start_s, 4);
      EXPECT_DOUBLE_EQ(span.end_s, 7);
    }
  }
  EXPECT_TRUE(simulate(world, spec, UnitCosts()).spans.empty());
}

TEST(Simulate, ProgramsThatDoNotMatchAreStuck) {
  const ModelSpec spec = testing::chain(2, 256);
  std::vector<Program> world = world_of(spec, {.replicas = 2});
  std::erase_if(world[1].instructions, [](const Instruction& i) { return i.op == Op::kReduceScalar; });
  std::erase_if(world[1].instructions, [](const Instruction& i) { return i.op == Op::kClip; });
  try {
    run(world, spec, UnitCosts());
    FAIL() << "nobody was stuck";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kFailedPrecondition);
    EXPECT_THAT(error.message(), HasSubstr("rank 0 at #14 clip"));
  }
}

// ---- pipelines

// Forward of a stage 1 s, backward 2 s: in one, or half of it for the weights; all else nothing.
double bubble_of(const char* schedule, ScheduleShape shape, double weight_s) {
  const ModelSpec spec = testing::chain(shape.ranks * shape.stages_per_rank);
  UnitCosts costs;
  costs.sums = 0;
  costs.flat.clear();
  costs.backward_weight = weight_s;
  costs.backward_input = costs.first_input_gradient = 2 - weight_s;
  const Case c{.microbatches = shape.turns,
               .pipeline = shape.ranks,
               .schedule = {.schedule = schedule, .stages_per_rank = shape.stages_per_rank}};
  return run(world_of(spec, c), spec, costs).bubble;
}

TEST(SimulatePipeline, BubblesAreThoseOfThePapers) {
  // (p - 1) / (v m + p - 1) where backward is in one: GPipe, PipeDream-Flush, Megatron's interleaving.
  EXPECT_NEAR(bubble_of("GPipe", {4, 1, 8}, 0), 3.0 / 11, 1e-9);
  EXPECT_NEAR(bubble_of("1F1B", {4, 1, 8}, 0), 3.0 / 11, 1e-9);
  EXPECT_NEAR(bubble_of("Interleaved1F1B", {4, 2, 8}, 0), 3.0 / 19, 1e-9);
  EXPECT_NEAR(bubble_of("1F1B", {8, 1, 24}, 0), 7.0 / 31, 1e-9);
  EXPECT_NEAR(bubble_of("Interleaved1F1B", {8, 2, 24}, 0), 7.0 / 55, 1e-9);
  // Zero bubble H1: (p - 1) / (3 m + p - 1).
  EXPECT_NEAR(bubble_of("ZBH1", {4, 1, 8}, 1), 3.0 / 27, 1e-9);
  EXPECT_NEAR(bubble_of("ZBH1", {8, 1, 24}, 1), 7.0 / 79, 1e-9);
}

// A program sends the gradient of the input before it computes that of the weights, which the papers'
// backward in one does not: the ramp costs two thirds.
TEST(SimulatePipeline, ProgramsSendGradientsEarly) {
  EXPECT_NEAR(bubble_of("1F1B", {4, 1, 8}, 1), 3.0 * 2 / (8 * 3 + 3 * 2), 1e-9);
}

TEST(SimulatePipeline, TransfersAreBesideComputing) {
  const ModelSpec spec = testing::chain(2);
  const Case c{.microbatches = 1, .pipeline = 2};
  UnitCosts costs;
  costs.sums = 0;
  costs.transfer = 5;
  // F0, 5 s to the other stage, F1 I1 W1 there, 5 s back from the end of I1, W0; both step.
  const Simulation s = run(world_of(spec, c), spec, costs);
  EXPECT_DOUBLE_EQ(s.step_s, 1 + 5 + 2 + 5 + 1 + 1);
  EXPECT_DOUBLE_EQ(s.bubble, 1 - 5.0 / 28);
  const Case four{.microbatches = 4, .pipeline = 2, .schedule = {"GPipe"}};
  // The lane carries one after the other: activations to 1 + 4 x 5, then F1 and I1; the last gradient left at
  // 22 or when the lane back was free, which W1 had filled from 8 on.
  EXPECT_GE(run(world_of(spec, four), spec, costs).step_s, 21 + 2 + 5 + 1);
}

TEST(SimulatePipeline, RepresentativesOfStagesStandForAll) {
  ModelSpec spec = testing::chain(4, 512);
  for (Unit& unit : spec.units) unit.parameters.pop_back();
  for (const int stage : {1, 2, 3}) {
    const Case c{.replicas = 1, .shards = 2, .stage = stage, .microbatches = 8, .pipeline = 2};
    UnitCosts costs;
    costs.transfer = 0.25;
    const std::vector<Program> world = world_of(spec, c);
    const Simulation all = run(world, spec, costs), few = run({world[0], world[2]}, spec, costs);
    EXPECT_NEAR(few.step_s, all.step_s, 1e-9);
    EXPECT_NEAR(few.bubble, all.bubble, 1e-9);
    EXPECT_NEAR(static_cast<double>(few.wire_bytes), static_cast<double>(all.wire_bytes), 1);
  }
}

// ---- wires

TEST(Flows, ThatMeetOnAWireShareIt) {
  simulation::Flows flows({0, 1}, 4);
  simulation::Step a, b;
  a.members = {0};
  a.legs = {{2, 4.0, 40}};
  b.members = {1};
  b.key.first = 1;
  b.legs = {{2, 2.0, 20}, {-1, 1.0, 0}};
  const int32_t first = flows.arrive(0, a, 0);
  EXPECT_DOUBLE_EQ(flows.next_s(0), 4);
  flows.advance(0, 1);
  const int32_t second = flows.arrive(1, b, 1);
  // One second alone, then both at half the rate: b moves its 2 s until 5, a its last one until 6.
  EXPECT_DOUBLE_EQ(flows.next_s(1), 5);
  EXPECT_TRUE(flows.advance(1, 5).empty());
  EXPECT_DOUBLE_EQ(flows.next_s(5), 6);
  EXPECT_EQ(flows.advance(5, 6).size(), 2u);
  EXPECT_DOUBLE_EQ(flows.end_s(first), 6);
  EXPECT_DOUBLE_EQ(flows.end_s(second), 6);  // its last leg is on no wire
  EXPECT_EQ(flows.use()[2].bytes, 60);
  EXPECT_DOUBLE_EQ(flows.use()[2].busy_s, 6);
}

TEST(Flows, OfOneLaneGoOneAfterTheOther) {
  simulation::Flows flows({0}, 4);
  simulation::Step step;
  step.members = {0};
  step.legs = {{-1, 1.0, 0}};
  flows.arrive(0, step, 0);
  step.key.sequence = 1;
  const int32_t queued = flows.arrive(0, step, 0);
  step.key.sequence = 2;
  step.lane = {1, true};
  const int32_t beside = flows.arrive(0, step, 0);
  EXPECT_FALSE(flows.idle(0, {}));
  EXPECT_FALSE(flows.idle(0, {1, true}));
  EXPECT_TRUE(flows.idle(0, {1, false}));
  flows.advance(0, 1);
  EXPECT_TRUE(flows.done(beside));
  EXPECT_FALSE(flows.done(queued));
  flows.advance(1, 2);
  EXPECT_TRUE(flows.done(queued));
  EXPECT_TRUE(flows.idle(0, {}));
}

// Less than half of what a double can tell apart at that time is left of the leg.
TEST(Flows, EndHoweverLateItIs) {
  for (const double now : {1e3, 4096.0, 1e4, 1e5, 1e6, 1e7, 1e9}) {
    simulation::Flows flows({0}, 4);
    simulation::Step step;
    step.members = {0};
    step.legs = {{2, 1e-12, 1}};
    const int32_t flow = flows.arrive(0, step, now);
    const double then = flows.next_s(now);
    EXPECT_LE(then - now, std::nextafter(now, 2 * now) - now + 1e-12) << now;
    flows.advance(now, then);
    if (!flows.done(flow)) flows.advance(then, flows.next_s(then));
    EXPECT_TRUE(flows.done(flow)) << now;
  }
}

// Units whose optimizer is on the host: forward and backward take 8 s, then each is stepped beside the copies
// of its neighbours.
TEST(Simulate, CopiesGoBesideTheStepsOfTheHost) {
  ModelSpec spec = testing::chain(3, 512);
  for (Unit& unit : spec.units) unit.offload = true;
  const std::vector<Program> world = world_of(spec, {.microbatches = 1});
  UnitCosts costs;
  const double bytes = (512 * 512 + 1024) * 4.0, body = 3 + 2 + 3;
  costs.machine.device.kind = DeviceKind::kGpu;
  costs.machine.devices = 1;
  costs.machine.host_memory_bytes_per_second = 8 * bytes;  // 1 s a step: 8 buffers read or written
  costs.machine.device.host_bytes_per_second = 4 * bytes;  // .25 s a copy
  const Simulation steps = run(world, spec, costs);
  EXPECT_NEAR(steps.step_s, body + .25 + 3 + .25, 1e-12) << "the first and the last copy show";
  EXPECT_NEAR(steps.ranks[0].compute_s, body + 3, 1e-12);
  EXPECT_NEAR(steps.ranks[0].copying_s, .5, 1e-12);
  EXPECT_NEAR(steps.exposed_copies, .5 / steps.step_s, 1e-12);
  EXPECT_EQ(steps.exposed_communication, 0);
  EXPECT_EQ(steps.wire_bytes, 0);
  costs.machine.device.host_bytes_per_second = bytes;  // 1 s a copy
  const Simulation copies = run(world, spec, costs);
  // down 0 1; beside step 0 down 1 2; up 0, down 2 in 2..4; step 2 at 4 beside up 1; up 2 in 5..6.
  EXPECT_NEAR(copies.step_s, body + 6, 1e-12) << "copies alone fill the bus";
  EXPECT_NEAR(copies.ranks[0].copying_s, 6 - 3, 1e-12);
  std::vector<std::string> lane;
  for (const SimulatedSpan& span : copies.spans) {
    const Instruction& instruction = world[0].instructions[static_cast<size_t>(span.instruction)];
    if (is_copy(instruction.op))
      lane.push_back(
          fmt::format("{} {} {:.0f}", op_info(instruction.op).name, instruction.unit, span.start_s - body));
  }
  EXPECT_THAT(lane, ::testing::ElementsAre("copy_down 0 0", "copy_down 1 1", "copy_up 0 2", "copy_down 2 3",
                                           "copy_up 1 4", "copy_up 2 5"));
}

// ---- laws, over layouts

std::vector<Case> cases() {
  std::vector<Case> list;
  for (const auto& [replicas, shards] :
       std::vector<std::pair<int, int>>{{1, 1}, {2, 1}, {1, 2}, {2, 2}, {1, 4}, {4, 1}, {3, 2}}) {
    for (const int stage : {1, 2, 3}) {
      if (shards == 1 && stage > 1) continue;
      for (const int microbatches : {replicas * shards, 2 * replicas * shards, 2 * replicas * shards + 3})
        list.push_back({replicas, shards, stage, microbatches, microbatches % 2 == 1});
    }
  }
  for (const char* schedule : {"GPipe", "1F1B", "ZBH1"}) {
    for (const int shards : {1, 2}) {
      list.push_back({.shards = shards, .microbatches = 3 * shards, .pipeline = 2, .schedule = {schedule}});
      list.push_back({.replicas = 2,
                      .shards = shards,
                      .stage = 1,
                      .microbatches = 9,
                      .recompute = true,
                      .pipeline = 3,
                      .schedule = {schedule}});
    }
  }
  return list;
}

TEST(SimulateLaws, BytesAreTheQuotesAndMemoryIsVerifys) {
  std::mt19937 rng(7);
  const UnitCosts costs;
  for (const Case& c : cases()) {
    for (const ModelSpec& spec : {testing::chain(3, 96), testing::random_spec(&rng)}) {
      if (static_cast<int>(spec.units.size()) < c.pipeline) continue;
      const std::vector<Program> world = world_of(spec, c);
      const Simulation s = run(world, spec, costs);
      int64_t bytes = 0;
      for (size_t r = 0; r < world.size(); ++r) {
        const Quote q = quote(world[r], spec);
        int64_t own = 0;
        for (const CollectiveQuote& each : q.collectives) own += each.wire_bytes;
        EXPECT_EQ(s.ranks[r].received_bytes, own);
        bytes += own;
        EXPECT_EQ(s.ranks[r].peak_bytes, q.peak_bytes);
        EXPECT_LE(s.ranks[r].peak_total_bytes, q.total_bytes());
        EXPECT_EQ(s.memory[r].size(), world[r].instructions.size());
      }
      EXPECT_NEAR(static_cast<double>(s.wire_bytes), static_cast<double>(bytes), 1);
    }
  }
}

TEST(SimulateLaws, TimeIsWorkAndWaiting) {
  const ModelSpec spec = testing::chain(3, 96);
  ModelSpec host = spec;
  for (Unit& unit : host.units) unit.offload = true;
  UnitCosts costs;
  costs.machine.device.host_bytes_per_second = 1e4;
  for (const Case& c : cases()) {
    for (const ModelSpec* each : {&spec, static_cast<const ModelSpec*>(&host)}) {
      const Simulation s = run(world_of(*each, c), *each, costs);
      for (const SimulatedRank& rank : s.ranks) {
        EXPECT_NEAR(rank.end_s, rank.compute_s + rank.exposed_s + rank.copying_s, 1e-9) << rank.rank;
        EXPECT_LE(rank.end_s, s.step_s + 1e-9);
        EXPECT_EQ(rank.copying_s > 0, each == &host);
      }
    }
  }
}

// Powers of two scale doubles exactly, so a step that is 2^k times as long is that to the last bit.
TEST(SimulateLaws, StepsOfAnyLengthAreScaledShortOnes) {
  const ModelSpec spec = testing::chain(3, 96);
  const auto costs_of = [](double scale) {
    UnitCosts costs;
    costs.forward = scale / 3;
    costs.backward_input = scale * 0.7;
    costs.backward_weight = scale * 0.37;
    costs.flat = {{Op::kStep, scale / 7}};
    costs.collective = scale / 1.3;
    costs.transfer = scale / 11;
    costs.sums = scale / 13;
    return costs;
  };
  for (const Case& c : cases()) {
    const std::vector<Program> world = world_of(spec, c);
    const Simulation one = run(world, spec, costs_of(1));
    for (const int exponent : {-20, 9, 12, 16, 20, 30}) {  // to steps of 1e4 s, 1e5 s, 1e6 s, 1e7 s and more
      const Simulation scaled = run(world, spec, costs_of(std::ldexp(1, exponent)));
      EXPECT_EQ(scaled.step_s, std::ldexp(one.step_s, exponent));
      EXPECT_EQ(scaled.bubble, one.bubble);
      EXPECT_EQ(scaled.exposed_communication, one.exposed_communication);
    }
  }
}

TEST(SimulateLaws, ARepresentativeStandsForAll) {
  ModelSpec spec = testing::chain(3, 512);
  for (Unit& unit : spec.units) unit.parameters.pop_back();  // 256 grid blocks: parts of equal size
  for (const Case& c : cases()) {
    const int ranks = c.replicas * c.shards;
    if (c.pipeline > 1 || c.microbatches % ranks != 0 || 256 % ranks != 0) continue;
    const std::vector<Program> world = world_of(spec, c);
    const Simulation all = run(world, spec, UnitCosts());
    const Simulation one = run({world[0]}, spec, UnitCosts());
    EXPECT_NEAR(one.step_s, all.step_s, 1e-9);
    EXPECT_NEAR(one.exposed_communication, all.exposed_communication, 1e-9);
    EXPECT_NEAR(one.bubble, all.bubble, 1e-9);
    EXPECT_NEAR(static_cast<double>(one.wire_bytes), static_cast<double>(all.wire_bytes), 1);
  }
}

TEST(SimulateLaws, FasterIsNeverSlower) {
  const ModelSpec spec = testing::chain(3, 96);
  for (const Case& c : cases()) {
    const std::vector<Program> world = world_of(spec, c);
    Cluster cluster = local_cluster({1, 1 << 30, true}, 12);
    cluster.inline_inside = false;
    const double before = simulate(world, spec, *analytic_costs(cluster)).step_s;
    Cluster computes = cluster, talks = cluster;
    computes.device.f32_flops *= 4;
    computes.device.memory_bytes_per_second *= 4;
    talks.inside.bytes_per_second *= 4;
    talks.inside.latency_s /= 4;
    EXPECT_LE(simulate(world, spec, *analytic_costs(computes)).step_s, before * (1 + 1e-12));
    EXPECT_LE(simulate(world, spec, *analytic_costs(talks)).step_s, before * (1 + 1e-12));
  }
}

TEST(SimulateLaws, MoneyIsTimeTimesHosts) {
  const ModelSpec spec = testing::chain(2, 96);
  UnitCosts costs;
  costs.machine.hosts = 4;
  costs.machine.devices = 2;
  costs.machine.price = {36, 9, "EUR"};
  const Simulation s = run(world_of(spec, {.replicas = 3, .microbatches = 3}), spec, costs);
  EXPECT_DOUBLE_EQ(s.cost, s.step_s / 3600 * 36 * 2);
  EXPECT_DOUBLE_EQ(s.spot_cost, s.step_s / 3600 * 9 * 2);
}

TEST(SimulateSpeed, OneThousandRanksTakeOneRepresentative) {
  const ModelSpec spec = testing::chain(100, 64);
  TrainOptions options;
  options.microbatch_sizes.assign(4096, 1);
  options.optimizer_states = 2;
  const Program program = compile_train(spec, data_layout(1, 1024), options);
  Cluster cluster = local_cluster({1, 1 << 30, true}, 8);
  cluster.hosts = 128;
  cluster.network = find_link("infiniband-ndr");
  const auto costs = analytic_costs(cluster);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  constexpr double kMostSeconds = 10;  // every access is checked
#else
  constexpr double kMostSeconds = 1;
#endif
  const std::clock_t begin = std::clock();  // of the processor: the machine may have other work
  const Simulation s = simulate({&program, 1}, spec, *costs);
  EXPECT_GT(s.step_s, 0);
  EXPECT_LT(static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC, kMostSeconds);
}

}  // namespace
}  // namespace furrow::plan
