#include "furrow/plan/verify.h"

#include <fmt/format.h>

#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/plan/compile.h"
#include "furrow/plan/tensor_cut.h"
#include "furrow/plan/verify_rules.h"

namespace furrow::plan {
namespace rules {
namespace {

// Keep sums of bytes far away from what int64 holds.
constexpr int64_t kMostBytes = int64_t{1} << 48;
constexpr int kMostRanks = 1 << 16;

}  // namespace

Facts::Facts(const Program& program_in, const ModelSpec& spec_in)
    : program(program_in),
      spec(spec_in),
      model(model_facts(spec_in)),
      tree(program.placement, static_cast<int32_t>(program.microbatch_sizes.size())) {
  values.reserve(program.instructions.size() * 3);
  for (const Value& value : program.inputs) {
    values.add(value);
    with_state = with_state || value.kind == ValueKind::kState;
  }
  for (const Instruction& instruction : program.instructions) {
    for (const Value& value : instruction.reads) values.add(value);
    for (const Value& value : instruction.writes) values.add(value);
    for (const Value& value : instruction.drops) values.add(value);
  }
}

void Facts::fail(size_t instruction, const std::string& message) const {
  const auto& list = program.instructions;
  const std::string place = instruction < list.size()
                                ? fmt::format("#{} {}", instruction, to_string(list[instruction]))
                                : fmt::format("end of {} after #{}", program.name, list.size());
  throw Error(ErrorCode::kFailedPrecondition, fmt::format("{}: {}", place, message));
}

namespace {

// "" or why the stages do not cut the units of the program.
std::string fault_of_stages(const Program& program) {
  const Placement& place = program.placement;
  const std::vector<Stage>& stages = place.stages;
  if (place.pipeline_ranks() == 1) return stages.empty() ? "" : "one rank of the pipeline has no stages";
  std::vector<bool> used(static_cast<size_t>(place.pipeline_ranks()), false);
  int32_t next = 0;
  for (size_t s = 0; s < stages.size(); ++s) {
    if (stages[s].begin != next || stages[s].end <= stages[s].begin) {
      return fmt::format("stage {} has units {} to {}: unit {} is due, and each stage has one", s,
                         stages[s].begin, stages[s].end - 1, next);
    }
    if (stages[s].rank < 0 || stages[s].rank >= place.pipeline_ranks()) {
      return fmt::format("stage {} is on rank {} of a pipeline of {}", s, stages[s].rank,
                         place.pipeline_ranks());
    }
    used[static_cast<size_t>(stages[s].rank)] = true;
    next = stages[s].end;
  }
  if (next != static_cast<int32_t>(program.units.size()))
    return fmt::format("its stages end with unit {}, it has {} units", next - 1, program.units.size());
  const auto idle = std::find(used.begin(), used.end(), false);
  return idle == used.end() ? "" : fmt::format("rank {} of the pipeline has no stage", idle - used.begin());
}

std::string fault_of_buckets(const Program& program) {
  const std::vector<int32_t>& buckets = program.placement.buckets;
  if (buckets.empty()) return "";
  if (program.placement.data_ranks() == 1) return "one data rank has no buckets";
  if (buckets.size() != program.units.size())
    return fmt::format("its buckets are of {} units, it has {}", buckets.size(), program.units.size());
  for (size_t u = 0; u < buckets.size(); ++u) {
    const bool opens = buckets[u] == static_cast<int32_t>(u);
    if (!opens && (u == 0 || buckets[u] != buckets[u - 1])) return fmt::format("unit {} is in no bucket", u);
  }
  return "";
}

}  // namespace

void check_placement(const Program& program) {
  auto fail = [&](const std::string& message) {
    throw Error(ErrorCode::kFailedPrecondition, fmt::format("program {}: {}", program.name, message));
  };
  const Placement& place = program.placement;
  if (place.data_ranks() * place.pipeline_ranks() * place.tensor_ranks() != place.layout.world()) {
    fail(fmt::format("layout {}: programs are made for pp, dp_replicate, dp_shard and tp alone",
                     place.layout.to_string()));
  }
  if (place.layout.world() > kMostRanks) fail(fmt::format("more than {} ranks", kMostRanks));
  if (place.rank < 0 || place.rank >= place.layout.world())
    fail(fmt::format("it has no rank {}", place.rank));
  if ((place.zero_stage == 0) != (place.shards() == 1) || place.zero_stage < 0 || place.zero_stage > 3) {
    fail(fmt::format("ZeRO stage {} with dp_shard {}: it is 1 to 3 above one shard, else 0", place.zero_stage,
                     place.shards()));
  }
  if (place.tree == TreeKind::kByRanks && place.data_ranks() == 1)
    fail("one rank adds along the canonical tree");
  for (const std::string& fault : {fault_of_stages(program), fault_of_buckets(program)}) {
    if (!fault.empty()) fail(fault);
  }
}

void check_header(const Facts& facts) {
  const Program& program = facts.program;
  auto fail = [&](const std::string& message) {
    throw Error(ErrorCode::kFailedPrecondition, fmt::format("program {}: {}", program.name, message));
  };
  if (tensor_degree(facts.spec) != program.placement.tensor_ranks()) {
    fail(fmt::format("it is for tp {}, the model is a part of {}", program.placement.tensor_ranks(),
                     tensor_degree(facts.spec)));
  }
  if (program.units.size() != facts.spec.units.size()) {
    fail(fmt::format("it has {} units, the model has {}", program.units.size(), facts.spec.units.size()));
  }
  for (size_t u = 0; u < program.units.size(); ++u) {
    if (program.units[u] == facts.spec.units[u].name) continue;
    fail(fmt::format("unit {} is '{}', in the model it is '{}'", u, program.units[u],
                     facts.spec.units[u].name));
  }
  for (size_t u = 1; u < program.placement.buckets.size(); ++u) {
    const Unit &unit = facts.spec.units[u], &before = facts.spec.units[u - 1];
    if (program.placement.bucket_of(static_cast<int32_t>(u)) == static_cast<int32_t>(u)) continue;
    if (unit.compute != before.compute || unit.offload || before.offload)
      fail(fmt::format("units {} and {} cannot share a bucket", before.name, unit.name));
  }
  for (size_t m = 0; m < program.microbatch_sizes.size(); ++m) {
    const int64_t size = program.microbatch_sizes[m];
    if (size < 1 || size > kMostMicrobatchSamples) {
      fail(fmt::format("microbatch {} has {} samples: it must be 1 to {}", m, size, kMostMicrobatchSamples));
    }
  }
  for (size_t s = 0; s < program.slots.size(); ++s) {
    if (program.slots[s].bytes >= 0 && program.slots[s].bytes <= kMostBytes) continue;
    fail(fmt::format("slot {} has {} bytes: it must be 0 to {}", s, program.slots[s].bytes, kMostBytes));
  }
  for (const Value& value : program.inputs) {
    const Placement& place = program.placement;
    const bool known =
        value.unit >= 0 && value.unit <= facts.last_unit() && keeps_params(facts.model, place, value.unit);
    const bool scales = facts.model.scales_loss && program.name == "train";
    const int32_t phase = value.index / 2;
    if (scales && phase < facts.phases() && value == loss_scale_value(0, phase)) continue;
    if (known && value == params_value(value.unit, 0, place.params_part())) continue;
    if (known && facts.holds(value.unit) && facts.model.units[value.unit].steps &&
        value == state_value(value.unit, 0, place.step_part()))
      continue;
    if (known && facts.holds(value.unit) && value == stats_value(value.unit, 0) &&
        facts.model.units[value.unit].has_statistics)
      continue;
    fail(fmt::format(
        "input {}: a program starts from params(u,0), state(u,0) and stats(u,0) of units that have them, as "
        "its rank holds them",
        to_string(value)));
  }
}

}  // namespace rules

VerifyReport verify(const Program& program, const ModelSpec& spec) {
  validate(spec);
  rules::check_placement(program);
  rules::Facts facts(program, spec);
  rules::check_header(facts);
  rules::check_purpose(facts);
  rules::check_operands(facts);
  rules::check_values(&facts);
  rules::check_gathers(facts);
  rules::check_copies(facts);
  rules::check_gradients(facts);
  rules::check_coverage(facts);
  rules::check_slots(facts);
  return rules::report(facts);
}

}  // namespace furrow::plan
