#include "furrow/plan/search/state.h"

#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/plan/value_bytes.h"

namespace furrow::plan::search_internal {
namespace {

constexpr size_t kKeptOfAReason = 2;

int64_t elements_to_bytes(int64_t elements) { return elements * kFloatBytes; }

}  // namespace

State::State(const SearchRequest& request)
    : request(request),
      spec(*request.spec),
      costs(*request.costs),
      cluster(request.costs->cluster()),
      facts(model_facts(*request.spec)),
      memory_bytes(request.memory_bytes > 0 ? request.memory_bytes : cluster.device.memory_bytes) {
  for (const UnitLayout& unit : facts.flat.units) {
    flat_bytes.push_back(elements_to_bytes(unit.elements));
    gradient_bytes.push_back(elements_to_bytes(unit.trained_elements));
    optimizer_bytes.push_back(state_bytes(request.optimizer_states, unit, {0, unit.elements}));
  }
  use_bytes.assign(spec.units.size(), 0);
  for (const TiedUse& use : facts.flat.tied) {
    if (use.use > 0) use_bytes[use.user_unit] += elements_to_bytes(use.size);
  }
}

const UnitTable& State::table(int64_t local_batch) {
  const auto [found, first] = tables_.try_emplace(local_batch);
  UnitTable& table = found->second;
  if (!first) return table;
  for (int32_t u = 0; u < units(); ++u) {
    const Unit& unit = spec.units[u];
    const bool input_gradient = facts.units[u].passes;
    const auto seconds = [&](Work work) {
      return costs.unit_seconds({&unit, work, local_batch, input_gradient});
    };
    const bool trained = facts.units[u].trains();
    table.forward_s.push_back(seconds(Work::kForward));
    table.input_s.push_back(facts.units[u].backward_phase < 0 ? 0 : seconds(Work::kBackwardInput));
    table.weight_s.push_back(trained ? seconds(Work::kBackwardWeight) : 0);
    table.out_bytes.push_back(unit.output.bytes_per_sample() * local_batch);
    table.saved_bytes.push_back(unit.saved_bytes * local_batch);
    table.deferred_bytes.push_back(unit.deferred_bytes * local_batch);
    table.kept_bytes.push_back((unit.kept_saved_bytes + unit.kept_grad_bytes) * local_batch);
  }
  const std::vector<int64_t> sizes = {local_batch};
  const Placement placement;
  const StateForms none;
  const ByteContext bytes = {spec, facts.flat, sizes, placement, none};
  table.batch_bytes = value_bytes(bytes, {.kind = ValueKind::kBatch, .index = 0});
  table.batch_s = costs.batch_seconds(table.batch_bytes);
  table.loss_s = costs.loss_seconds(table.out_bytes.back());
  return table;
}

void State::refuse(Candidate candidate, std::string reason) {
  candidate.fits = false;
  candidate.reason = std::move(reason);
  if (candidate.configured || reasons_[candidate.reason]++ < kKeptOfAReason)
    refused.push_back(std::move(candidate));
}

bool State::is_off(std::string_view pass) const {
  return std::ranges::find(request.without, pass) != request.without.end();
}

double State::exchange_seconds(const Placement& placement, Movement movement, GroupAxis axis, int64_t bytes) {
  const Layout& layout = placement.layout;
  const std::array<int, 3> degrees = {placement.pipeline_ranks(), placement.replicas(), placement.shards()};
  const auto [found, first] = exchanges_.try_emplace({degrees, movement, axis, bytes}, 0);
  if (!first) return found->second;
  const std::vector<int> ranks = group_ranks(placement, axis);
  if (ranks.size() < 2 || bytes == 0) return 0;
  // Groups like this one with members on the same host share its wires.
  const int host = cluster.host_of(ranks[0]);
  const auto here = std::ranges::count_if(ranks, [&](int rank) { return cluster.host_of(rank) == host; });
  const int sharers = std::max(1, std::min(cluster.devices, layout.world()) / static_cast<int>(here));
  found->second = seconds_of(costs.legs(
      {.movement = movement, .ranks = ranks, .self = ranks[0], .bytes = bytes, .sharers = sharers}));
  return found->second;
}

int64_t samples_of_step(const Choice& choice) {
  const BatchRecipe& batch = choice.batch;
  return batch.global_batch > 0 ? batch.global_batch : batch.local_batch * choice.layout.data_ranks();
}

int32_t microbatches(const Choice& choice) {
  return static_cast<int32_t>(samples_of_step(choice) / choice.batch.local_batch);
}

int32_t turns_of(const Choice& choice) {
  const int32_t ranks = choice.layout.data_ranks();
  return (microbatches(choice) + ranks - 1) / ranks;
}

}  // namespace furrow::plan::search_internal
