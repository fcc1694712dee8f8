#include "furrow/plan/profile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string_view>

#include "furrow/base/error.h"
#include "furrow/plan/compile.h"
#include "furrow/plan/roofline.h"
#include "furrow/plan/testing/specs.h"

namespace furrow::plan {
namespace {

using ::testing::HasSubstr;

UnitSample sample(const Unit& unit, Work work, int64_t samples, double seconds) {
  const Roofline roofline = roofline_of({&unit, work, samples});
  return {unit.kind, unit_key(unit), work, samples, roofline.flops, roofline.bytes, seconds};
}

Cluster machine() {
  Cluster cluster = local_cluster({2, 1 << 30, true}, 2);
  cluster.inside = {.name = "wires", .bytes_per_second = 1e6};
  return cluster;
}

Profile profile() {
  const Unit unit = testing::unit(0, 64, true);
  Profile p{"some machine, 2 cores", "libtorch", {{2, 1, 1e-6, {}, {}, {}}}};
  p.sections[0].units = {sample(unit, Work::kForward, 16, 10e-6), sample(unit, Work::kForward, 64, 34e-6)};
  p.sections[0].flats = {{"step", 1000, 2e-6}, {"step", 3000, 4e-6}, {"load", 100, 5e-6}};
  p.sections[0].movements = {{"all_gather", 2, 1000, 7e-6}, {"all_gather", 2, 2000, 9e-6}};
  return p;
}

TEST(Profile, SurvivesItsTextForm) {
  EXPECT_EQ(parse_profile(to_text(profile())), profile());
  EXPECT_EQ(parse_profile(to_text(Profile())), Profile());
}

// What a device took, and the thread to tell it; beside the section of the cores.
Profile profile_of_device() {
  Profile p = profile();
  ProfileSection device = p.sections[0];
  device.device = {"cuda", "NVIDIA H100 80GB HBM3", int64_t{80} << 30};
  for (UnitSample& unit : device.units) unit.launch_s = 20e-6;
  device.units[1].launch_s = 30e-6;
  for (FlatSample& flat : device.flats) flat.launch_s = flat.op == "load" ? 0 : 3e-6;
  device.movements.push_back({"copy_down", 1, 1000, 1e-6});
  p.sections.push_back(std::move(device));
  return p;
}

TEST(Profile, OfADeviceSurvivesItsTextForm) {
  EXPECT_EQ(parse_profile(to_text(profile_of_device())), profile_of_device());
}

TEST(Profile, SectionsAreOfTheDeviceThatIsAskedFor) {
  const Profile p = profile_of_device();
  EXPECT_EQ(p.section(1), p.sections.data());
  EXPECT_EQ(p.section(1, {"cuda"}), &p.sections[1]) << "whichever it is";
  EXPECT_EQ(p.section(1, {"cuda", "NVIDIA H100 80GB HBM3"}), &p.sections[1]);
  EXPECT_EQ(p.section(1, {"cuda", "NVIDIA L4"}), nullptr);
  EXPECT_EQ(p.section(1, {"composed"}), nullptr);
  Profile both = profile();
  merge_profile(p, &both);
  EXPECT_EQ(both, p) << "one beside the other";
}

TEST(Profile, RefusesWhatIsNone) {
  const auto refusal = [](std::string_view text) {
    try {
      parse_profile(text);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kDataLoss);
      return error.message();
    }
    return std::string("accepted");
  };
  const std::string head = "furrow-profile 3\nsection 2 1\n";
  EXPECT_EQ(refusal(head), "accepted");
  for (const char* before : {"furrow-profile 1\nsection 2 1\n", "furrow-profile 2\nsection 2 1\n"})
    EXPECT_EQ(refusal(before), "accepted");
  EXPECT_THAT(refusal("furrow-profile 4\n"), HasSubstr("line 1: expected 'furrow-profile 3'"));
  EXPECT_THAT(refusal(""), HasSubstr("line 1"));
  EXPECT_THAT(refusal("furrow-profile 3\noverhead 1\n"), HasSubstr("line 2: 'section"));
  EXPECT_THAT(refusal(head + "device cuda 8\n"), HasSubstr("a type, bytes of memory and a name"));
  EXPECT_THAT(refusal(head + "device cuda much A100\n"), HasSubstr("is not a number from 0"));
  EXPECT_EQ(refusal(head + "flat step 1 2 3\n"), "accepted");
  EXPECT_THAT(refusal(head + "flat step 1 2 3 4\n"), HasSubstr("'flat' has 3 words after it"));
  EXPECT_THAT(refusal(head + "unit a b c\n"), HasSubstr("line 3: 'unit' has 7 words after it"));
  EXPECT_THAT(refusal(head + "unit a b sideways 1 2 3 4\n"), HasSubstr("none of forward"));
  EXPECT_THAT(refusal(head + "flat step -1 2\n"), HasSubstr("is not a number from 0"));
  EXPECT_THAT(refusal(head + "flat step 1 nan\n"), HasSubstr("no measured number"));
  EXPECT_THAT(refusal(head + "walk step 1 2\n"), HasSubstr("'walk' is not"));
}

TEST(Profile, SectionsAreOfAsManyRanksOrTheNextMore) {
  Profile p;
  EXPECT_EQ(p.section(1), nullptr);
  for (const int ranks : {4, 1, 2}) p.sections.push_back({ranks, 1, 0, {}, {}, {}});
  EXPECT_EQ(p.section(2)->ranks, 2);
  EXPECT_EQ(p.section(3)->ranks, 4);
  EXPECT_EQ(p.section(8)->ranks, 4);
}

TEST(Profile, NewMeasurementsReplaceOldOnes) {
  Profile newer = profile(), both = profile();
  newer.sections[0].units[1].seconds = 40e-6;
  newer.sections[0].flats.push_back({"add", 10, 1e-6});
  newer.sections.push_back({1, 2, 0, {}, {}, {}});
  merge_profile(newer, &both);
  EXPECT_EQ(both, newer);
}

TEST(ProfiledCosts, InterpolateOverSamples) {
  const Unit unit = testing::unit(0, 64, true);
  const auto costs = profiled_costs(machine(), profile().sections[0]);
  const auto seconds = [&](int64_t samples) { return costs->unit_seconds({&unit, Work::kForward, samples}); };
  EXPECT_DOUBLE_EQ(seconds(16), 10e-6);
  EXPECT_DOUBLE_EQ(seconds(40), 22e-6);
  EXPECT_DOUBLE_EQ(seconds(64), 34e-6);
  EXPECT_DOUBLE_EQ(seconds(128), 66e-6);
  EXPECT_DOUBLE_EQ(seconds(8), 6e-6);
  EXPECT_GE(seconds(1), 1e-6);
  EXPECT_DOUBLE_EQ(costs->flat_seconds(Op::kStep, 2000), 3e-6);
  EXPECT_DOUBLE_EQ(costs->batch_seconds(200), 10e-6);
  EXPECT_DOUBLE_EQ(costs->overhead_seconds(), 1e-6);
  EXPECT_DOUBLE_EQ(costs->flat_seconds(Op::kAdd, 1000),
                   analytic_costs(machine())->flat_seconds(Op::kAdd, 1000));
}

TEST(ProfiledCosts, MoreWorkTakesNoLess) {
  ProfileSection section{2, 1, 0, {}, {}, {}};
  section.flats = {{"step", 1000, 1e-6}, {"step", 4000, 6e-6}, {"step", 4004, 4e-6}, {"step", 5000, 5.5e-6}};
  section.movements = {{"all_gather", 2, 1000, 3e-6}, {"all_gather", 2, 2000, 1e-6}};
  const Unit unit = testing::unit(0, 64, true);
  section.units = {sample(unit, Work::kForward, 16, 30e-6), sample(unit, Work::kForward, 64, 20e-6)};
  const auto costs = profiled_costs(machine(), section);
  EXPECT_DOUBLE_EQ(costs->flat_seconds(Op::kStep, 1000), 1e-6);
  EXPECT_DOUBLE_EQ(costs->flat_seconds(Op::kStep, 4000), 5e-6);
  EXPECT_DOUBLE_EQ(costs->flat_seconds(Op::kStep, 4002), 5e-6);
  EXPECT_DOUBLE_EQ(costs->flat_seconds(Op::kStep, 4004), 5e-6);
  EXPECT_DOUBLE_EQ(costs->flat_seconds(Op::kStep, 5000), 5.5e-6);
  const std::vector<int> ranks = {0, 1};
  EXPECT_NEAR(seconds_of(costs->legs({Movement::kAllGather, ranks, 0, 2000})), 2e-6, 1e-15);
  EXPECT_DOUBLE_EQ(costs->unit_seconds({&unit, Work::kForward, 64}), 25e-6);
}

TEST(ProfiledCosts, SizesNearlyAsLargeTellNoSlope) {
  ProfileSection section{2, 1, 0, {}, {}, {}};
  section.flats = {{"step", 1000, 1e-6}, {"step", 3990, 4e-6}, {"step", 4000, 5e-6}};
  const auto at = [&section](int64_t bytes) {
    return profiled_costs(machine(), section)->flat_seconds(Op::kStep, bytes);
  };
  EXPECT_DOUBLE_EQ(at(7000), 9e-6) << "along the line from 1000 to 4000";
  section.flats.erase(section.flats.begin());
  EXPECT_DOUBLE_EQ(at(8000), 10e-6) << "in proportion";
  section.flats = {{"step", 0, 3e-6}};
  EXPECT_DOUBLE_EQ(at(8000), 3e-6) << "of nothing, which has no proportion";
}

TEST(ProfiledCosts, OfADeviceHaveTwoLanes) {
  Unit unit = testing::unit(0, 64, true);
  const Profile p = profile_of_device();
  const auto cpu = profiled_costs(machine(), p.sections[0]),
             device = profiled_costs(machine(), p.sections[1]);
  const UnitWork work{&unit, Work::kForward, 40};
  EXPECT_FALSE(cpu->launch_seconds(work));
  EXPECT_FALSE(cpu->launch_seconds("step", 1000));
  EXPECT_DOUBLE_EQ(device->unit_seconds(work), 22e-6);
  EXPECT_DOUBLE_EQ(*device->launch_seconds(work), 25e-6);
  const UnitWork larger{&unit, Work::kForward, 6400}, smaller{&unit, Work::kForward, 1};
  EXPECT_DOUBLE_EQ(*device->launch_seconds(larger), 30e-6) << "as many operations of whatever size";
  EXPECT_DOUBLE_EQ(*device->launch_seconds(smaller), 20e-6);
  EXPECT_DOUBLE_EQ(*device->launch_seconds("step", 1 << 30), 3e-6);
  EXPECT_DOUBLE_EQ(*device->launch_seconds("add", 8), 1e-6) << "not measured: as an instruction";
  EXPECT_DOUBLE_EQ(device->flat_seconds(Op::kStep, 3000), 4e-6);
  unit = testing::unit(0, 96, true);
  EXPECT_DOUBLE_EQ(*device->launch_seconds(work), 30e-6) << "as the kind, at its largest";
}

// Rates that were reached, for the proportions of other sizes.
TEST(ProfiledCosts, ADeviceIsWhatWasMeasuredOfIt) {
  ProfileSection section = profile_of_device().sections[1];
  section.units = {{"linear", "a", Work::kForward, 1, 8e9, 10, 1e-3, 1e-6},
                   {"linear", "b", Work::kForward, 1, 8e9, 10, 2e-3, 1e-6},
                   {"linear.bfloat16", "a", Work::kForward, 1, 8e9, 10, 1e-4, 1e-6}};
  section.movements = {{"copy_down", 1, 1000, 1e-6}, {"all_gather", 2, 1 << 30, 1e-6}};
  const DeviceSpec device = measured_device(section);
  EXPECT_EQ(device.name, "NVIDIA H100 80GB HBM3");
  EXPECT_EQ(device.kind, DeviceKind::kGpu);
  EXPECT_EQ(device.memory_bytes, int64_t{80} << 30);
  EXPECT_DOUBLE_EQ(device.f32_flops, 8e12);
  EXPECT_DOUBLE_EQ(device.half_flops, 8e13);
  EXPECT_DOUBLE_EQ(device.memory_bytes_per_second, 3000 / 4e-6) << "a load is the host's";
  EXPECT_DOUBLE_EQ(device.host_bytes_per_second, 1e9);
}

TEST(ProfiledCosts, OtherSizesTakeTheRatioOfTheirNeighbours) {
  // Measured: three times what the roofline says, and the overhead, at every size.
  const Cluster cluster = machine();
  ProfileSection section{2, 1, 1e-6, {}, {}, {}};
  const auto analytic = analytic_costs(cluster);
  for (const int width : {16, 64, 256}) {
    const Unit unit = testing::unit(0, width, true);
    for (const Work work : {Work::kForward, Work::kBackwardWeight}) {
      const double bare = analytic->unit_seconds({&unit, work, 32}) - analytic->overhead_seconds();
      section.units.push_back(sample(unit, work, 32, 1e-6 + 3 * bare));
    }
  }
  const auto costs = profiled_costs(cluster, section);
  for (const int width : {32, 128, 1024}) {
    const Unit unit = testing::unit(0, width, true);
    for (const int64_t samples : {8, 32, 100}) {
      const UnitWork work{&unit, Work::kForward, samples};
      const double bare = analytic->unit_seconds(work) - analytic->overhead_seconds();
      EXPECT_NEAR(costs->unit_seconds(work), 1e-6 + 3 * bare, 1e-12);
    }
  }
  Unit other = testing::unit(0, 32, true);
  other.kind = "other";  // never measured: as the rest
  const UnitWork work{&other, Work::kForward, 32};
  const double bare = analytic->unit_seconds(work) - analytic->overhead_seconds();
  EXPECT_NEAR(costs->unit_seconds(work), 1e-6 + 3 * bare, 1e-12);
}

TEST(ProfiledCosts, AUnitInLessThanFloat32IsMeasuredByItself) {
  Unit unit = testing::unit(0, 64, true);
  unit.kind = "mult";
  ProfileSection section{2, 1, 0, {}, {}, {}};
  section.units.push_back({work_kind(unit), unit_key(unit), Work::kForward, 16, 1, 1, 8e-6});
  unit.compute = DType::kBF16;
  EXPECT_EQ(work_kind(unit), "mult.bfloat16");
  const UnitWork work{&unit, Work::kForward, 16};
  EXPECT_NE(profiled_costs(machine(), section)->unit_seconds(work), 8e-6);  // in proportion
  section.units.push_back({work_kind(unit), unit_key(unit), Work::kForward, 16, 1, 1, 3e-6});
  EXPECT_DOUBLE_EQ(profiled_costs(machine(), section)->unit_seconds(work), 3e-6);
  unit.compute = DType::kF32;
  EXPECT_DOUBLE_EQ(profiled_costs(machine(), section)->unit_seconds(work), 8e-6);
}

TEST(ProfiledCosts, APartOfAUnitIsMeasuredByItself) {
  Unit unit = testing::unit(0, 64, true);
  unit.kind = "mult";
  ProfileSection section{2, 1, 0, {}, {}, {}};
  section.units.push_back({work_kind(unit), unit_key(unit), Work::kForward, 16, 1, 1, 8e-6});
  unit.tensor_degree = 2;
  EXPECT_EQ(work_kind(unit), "mult.tp2");
  const UnitWork work{&unit, Work::kForward, 16};
  EXPECT_NE(profiled_costs(machine(), section)->unit_seconds(work), 8e-6);  // in proportion
  section.units.push_back({work_kind(unit), unit_key(unit), Work::kForward, 16, 1, 1, 5e-6});
  EXPECT_DOUBLE_EQ(profiled_costs(machine(), section)->unit_seconds(work), 5e-6);
  unit.compute = DType::kBF16;
  EXPECT_EQ(work_kind(unit), "mult.bfloat16.tp2");
  section.units.push_back({work_kind(unit), unit_key(unit), Work::kForward, 16, 1, 1, 4e-6});
  EXPECT_DOUBLE_EQ(profiled_costs(machine(), section)->unit_seconds(work), 4e-6);
  unit.tensor_degree = 1;
  unit.compute = DType::kF32;
  EXPECT_DOUBLE_EQ(profiled_costs(machine(), section)->unit_seconds(work), 8e-6);
}

TEST(ProfiledCosts, CollectivesInsideUnitsAreMeasuredThere) {
  ProfileSection section{2, 1, 0, {}, {}, {}};
  section.movements.push_back({"all_gather", 2, 1000, 2e-6});
  const std::vector<int> ranks = {0, 1};
  MovementCall call{Movement::kAllGather, ranks, 0, 1000};
  call.operation = inside_name(UnitCollective::Op::kAllGather);
  EXPECT_NEAR(seconds_of(profiled_costs(machine(), section)->legs(call)), 2e-6, 1e-15);
  section.movements.push_back({"tensor.all_gather", 2, 1000, 7e-6});
  EXPECT_NEAR(seconds_of(profiled_costs(machine(), section)->legs(call)), 7e-6, 1e-15);
}

TEST(ProfiledCosts, MovementsAreMeasuredInsideAHost) {
  const auto costs = profiled_costs(machine(), profile().sections[0]);
  const std::vector<int> ranks = {0, 1};
  EXPECT_NEAR(seconds_of(costs->legs({Movement::kAllGather, ranks, 0, 1500})), 8e-6, 1e-15);
  EXPECT_NEAR(seconds_of(costs->legs({Movement::kAllGather, ranks, 0, 3000, 2})), 16e-6, 1e-15);
  const MovementCall reduce{Movement::kReduceScatter, ranks, 0, 1500};
  EXPECT_EQ(seconds_of(costs->legs(reduce)), seconds_of(legs_of(machine(), reduce)));
}

TEST(ProfiledCosts, AnOperationInAStepIsMoreThanItsMovement) {
  ProfileSection section = profile().sections[0];
  section.movements.push_back({"gather_params", 2, 1000, 50e-6});
  const auto costs = profiled_costs(machine(), section);
  const std::vector<int> ranks = {0, 1};
  MovementCall call{Movement::kAllGather, ranks, 0, 1000};
  EXPECT_NEAR(seconds_of(costs->legs(call)), 7e-6, 1e-15);
  call.operation = "gather_updated";
  EXPECT_NEAR(seconds_of(costs->legs(call)), 7e-6, 1e-15);
  call.operation = "gather_params";
  EXPECT_NEAR(seconds_of(costs->legs(call)), 50e-6, 1e-15);
}

// What a program of a layout of two ranks calls its reductions of gradients.
std::set<std::string_view> reductions_of(const Layout& layout, int zero_stage) {
  const ModelSpec spec = testing::chain(3);
  TrainOptions options{
      .microbatch_sizes = std::vector<int64_t>(4, 2), .recompute = {}, .optimizer_states = 1};
  options.ranks.zero_stage = zero_stage;
  const Program program = compile_train(spec, layout, options);
  const auto costs = analytic_costs(machine());
  const ProgramCosts rows(*costs, spec, program, 1);
  std::set<std::string_view> names;
  for (const Instruction& instruction : program.instructions) {
    if (instruction.op == Op::kReduceGrads) names.insert(rows.moved(instruction).call.operation);
  }
  return names;
}

TEST(ProfiledCosts, AReductionIsMeasuredAsItIsRun) {
  using Names = std::set<std::string_view>;
  const Layout replicas({1, 2, 1, 1, 1, 1}, 2), shards({1, 1, 2, 1, 1, 1}, 2);
  EXPECT_EQ(reductions_of(replicas, 3), Names{"replicate.reduce_grads"});
  EXPECT_EQ(reductions_of(shards, 1), Names{"shard.reduce_grads"});
  EXPECT_EQ(reductions_of(shards, 2), Names{"microbatch.reduce_grads"});
  EXPECT_EQ(reductions_of(shards, 3), Names{"microbatch.reduce_grads"});

  ProfileSection section{2, 1, 0, {}, {}, {}};
  section.movements = {{"replicate.reduce_grads", 2, 1000, 2e-6}, {"microbatch.reduce_grads", 2, 1000, 9e-6}};
  const std::vector<int> ranks = {0, 1};
  const auto seconds = [&](std::string_view operation) {
    MovementCall call{Movement::kReduceScatter, ranks, 0, 1000};
    call.operation = operation;
    return seconds_of(profiled_costs(machine(), section)->legs(call));
  };
  EXPECT_NEAR(seconds("replicate.reduce_grads"), 2e-6, 1e-15);
  EXPECT_NEAR(seconds("microbatch.reduce_grads"), 9e-6, 1e-15);
  section.movements.push_back({"reduce_grads", 2, 1000, 5e-6});
  EXPECT_NEAR(seconds("shard.reduce_grads"), 5e-6, 1e-15) << "an older profile";
}

TEST(ProfiledCosts, OtherSizesAreComparedAtAsManySamples) {
  // The efficiency falls with the samples and not with the width.
  const auto analytic = analytic_costs(machine());
  const auto times = [](int64_t samples) { return 2.0 + static_cast<double>(samples) / 32; };
  ProfileSection section{2, 1, 0, {}, {}, {}};
  for (const int64_t samples : {8, 16, 32, 64}) {
    const Unit unit = testing::unit(0, 64, true);
    const UnitWork work{&unit, Work::kForward, samples};
    const double bare = analytic->unit_seconds(work) - analytic->overhead_seconds();
    section.units.push_back(sample(unit, Work::kForward, samples, times(samples) * bare));
  }
  const auto costs = profiled_costs(machine(), section);
  for (const int64_t samples : {8, 32, 64}) {
    const Unit wide = testing::unit(0, 256, true);
    const UnitWork work{&wide, Work::kForward, samples};
    const double bare = analytic->unit_seconds(work) - analytic->overhead_seconds();
    EXPECT_NEAR(costs->unit_seconds(work), times(samples) * bare, 1e-6 * bare);
  }
}

TEST(UnitKey, IsWhatCostsTheSame) {
  Unit a = testing::unit(0, 64, true), b = testing::unit(1, 64, true);
  EXPECT_EQ(unit_key(a), unit_key(b));
  b.attributes["bias"] = true;
  EXPECT_NE(unit_key(a), unit_key(b));
  b.attributes["note"] = std::string("two words");
  EXPECT_EQ(unit_key(b).find(' '), std::string::npos);
  EXPECT_NE(unit_key(a), unit_key(testing::unit(0, 32, true)));
}

TEST(AnalyticCosts, AreTheRoofline) {
  Cluster cluster = machine();
  cluster.device = {.name = "d",
                    .f32_flops = 100,
                    .half_flops = 400,
                    .memory_bytes_per_second = 10,
                    .efficiency = 0.5,
                    .overhead_s = 1};
  Unit unit = testing::unit(0, 10, false);  // 40 bytes in, 40 out, 12 saved; 200 flops a sample
  const UnitWork work{&unit, Work::kForward, 2};
  EXPECT_DOUBLE_EQ(analytic_costs(cluster)->unit_seconds(work), 1 + 184.0 / 10);
  cluster.device.memory_bytes_per_second = 1000;
  EXPECT_DOUBLE_EQ(analytic_costs(cluster)->unit_seconds(work), 1 + 400.0 / 50);
  EXPECT_DOUBLE_EQ(analytic_costs(cluster, DType::kBF16)->unit_seconds(work), 1 + 400.0 / 200);
}

// A block of scratch for each thread's kernels and one for communication; what a profile measured is of a
// rank that has both, on as many threads.
TEST(Costs, WorkspaceIsOfWhatARankDoes) {
  constexpr int64_t kBlock = int64_t{1} << 20, kKernels = 4 * kBlock;
  const auto analytic = analytic_costs(machine()),
             alone = analytic_costs(local_cluster({2, 1 << 30, true}, 1));
  EXPECT_EQ(analytic->workspace_bytes(), kKernels + kBlock);
  EXPECT_EQ(analytic->workspace_bytes(false), kBlock);
  EXPECT_EQ(alone->workspace_bytes(), 2 * kKernels);
  EXPECT_EQ(alone->workspace_bytes(true, 3), 3 * kKernels);
  EXPECT_EQ(alone->workspace_bytes(false), 0);
  ProfileSection section{2, 1, 1e-6, {}, {}, {}};
  section.workspace_bytes = 5 * kBlock;
  const auto measured = profiled_costs(machine(), section);
  EXPECT_EQ(measured->workspace_bytes(true, 1), 5 * kBlock);
  EXPECT_EQ(measured->workspace_bytes(true, 2), 2 * kKernels + kBlock);
  EXPECT_EQ(measured->workspace_bytes(false), kBlock);
}

// A unit that sleeps takes what it says on any device, however many samples there are, measured or not.
TEST(Costs, OfADelayAreItsAttributes) {
  Unit unit = testing::unit(0, 10, false);
  unit.kind = "delay";
  unit.attributes = {{"forward_ms", 10.0}, {"backward_input_ms", 20.0}, {"backward_weight_ms", 0.0}};
  unit.flops = {1e12, 1e12, 1e12};
  ProfileSection section{2, 1, 1e-6, {}, {}, {}};
  section.units = {sample(unit, Work::kForward, 16, 3.0)};
  Cluster fast = machine();
  fast.device = find_device("h100-sxm");
  std::vector<std::unique_ptr<Costs>> all;
  all.push_back(analytic_costs(machine()));
  all.push_back(analytic_costs(fast));
  all.push_back(profiled_costs(machine(), section));
  for (const auto& costs : all) {
    for (const int64_t samples : {1, 16}) {
      EXPECT_EQ(costs->unit_seconds({&unit, Work::kForward, samples}), 0.01);
      EXPECT_EQ(costs->unit_seconds({&unit, Work::kBackwardInput, samples, false}), 0.02);
      EXPECT_EQ(costs->unit_seconds({&unit, Work::kBackwardWeight, samples}), costs->overhead_seconds());
    }
  }
}

}  // namespace
}  // namespace furrow::plan
