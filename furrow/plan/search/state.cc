#include "furrow/plan/search/state.h"

#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/plan/buckets.h"
#include "furrow/plan/measured_name.h"
#include "furrow/plan/tensor_cut.h"
#include "furrow/plan/value_bytes.h"
#include "furrow/plan/workspace.h"

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
      memory_bytes(request.memory_bytes > 0 ? request.memory_bytes : cluster.device.memory_bytes) {}

Model::Model(ModelSpec spec_in, const StateForms& optimizer_states)
    : spec(std::move(spec_in)), facts(model_facts(spec)) {
  for (const UnitLayout& unit : facts.flat.units) {
    flat_bytes.push_back(unit.elements * unit.param_bytes());
    updated_bytes.push_back(unit.trained_elements * unit.param_bytes());
    gradient_bytes.push_back(unit.trained_elements * facts.flat.gradient_bytes());
    optimizer_bytes.push_back(state_bytes(optimizer_states, unit, {0, unit.elements}) +
                              elements_to_bytes(unit.trained_elements) * unit.masters());
  }
  use_bytes.assign(spec.units.size(), 0);
  for (const TiedUse& use : facts.flat.tied) {
    if (use.use > 0) use_bytes[use.user_unit] += use.size * facts.flat.gradient_bytes();
  }
  for (size_t u = 0; u < flat_bytes.size(); ++u) {
    totals.flat_bytes += static_cast<double>(flat_bytes[u]);
    totals.gradient_bytes += static_cast<double>(gradient_bytes[u]);
    if (!facts.flat.units[u].offload) totals.optimizer_bytes += static_cast<double>(optimizer_bytes[u]);
    totals.use_bytes += static_cast<double>(use_bytes[u]);
    totals.largest_bytes = std::max(totals.largest_bytes, static_cast<double>(flat_bytes[u] + use_bytes[u]));
  }
}

namespace {

// Its output or the gradient of it, with what a forward needs, or what a backward makes and needs
// (LiveMemory).
int64_t work_bytes(const Unit& unit, bool input_gradient, int64_t samples) {
  const int64_t kept = unit.kept_saved_bytes + unit.kept_grad_bytes;
  const int64_t made =
      std::max<int64_t>(0, unit.deferred_bytes - kept) + (input_gradient ? unit.input.bytes_per_sample() : 0);
  const int64_t backward = made * samples + unit.backward_scratch.bytes(samples);
  return unit.output.bytes_per_sample() * samples + std::max(unit.forward_scratch.bytes(samples), backward);
}

ActivationTotals totals_of(const UnitTable& table, const ModelFacts& facts) {
  ActivationTotals totals;
  for (size_t u = 0; u < table.out_bytes.size(); ++u) {
    const int32_t source = facts.units[u].source;
    const int64_t in = source >= 0 ? table.out_bytes[source] : table.batch_bytes;
    const auto at_work = static_cast<double>(table.work_bytes[u]);
    if (facts.units[u].backward_phase >= 0) totals.in_bytes += static_cast<double>(in);
    totals.least_bytes = u == 0 ? at_work : std::min(totals.least_bytes, at_work);
    totals.most_bytes = std::max(totals.most_bytes, at_work);
  }
  return totals;
}

}  // namespace

Model& State::model(const Choice& choice) {
  const int degree = choice.layout.degree(Axis::kTensor);
  const std::pair key(degree, choice.precision);
  const auto found = models_.find(key);
  if (found != models_.end()) return found->second;
  const ModelSpec* whole = &spec;
  for (const Precision& each : request.precisions) {
    if (choice.precision == each.type) whole = each.spec;
  }
  return models_.try_emplace(key, tensor_cut(*whole, degree), request.optimizer_states).first->second;
}

const std::vector<int32_t>& State::buckets(const Choice& choice) {
  static const std::vector<int32_t> none;
  const int64_t bytes = bucket_bytes_of(request, choice);
  if (choice.layout.data_ranks() == 1 || bytes == 0) return none;
  Model& model = this->model(choice);
  const auto [found, first] = model.buckets.try_emplace(bytes);
  if (first) found->second = buckets_of(model.spec, bytes);
  return found->second;
}

// Seconds of what a unit communicates in a phase; the bytes that a rank receives are added to `bytes`.
double State::inside(const Model& model, const Choice& choice, UnitCollective::Phase phase, size_t unit,
                     bool input_gradient, double* bytes) {
  Placement placement;
  placement.layout = choice.layout;
  const int degree = placement.tensor_ranks();
  double seconds = 0;
  for (const UnitCollective& each : model.spec.units[unit].collectives) {
    if (degree == 1 || each.phase != phase || (each.with_input_gradient && !input_gradient)) continue;
    const int64_t size = each.bytes(choice.batch.local_batch);
    seconds +=
        movement_seconds(placement, movement_of(each.op), GroupAxis::kTensor, size, inside_name(each.op));
    *bytes += static_cast<double>(received_bytes(each.op, size, degree));
  }
  return seconds;
}

const UnitTable& State::table(const Choice& choice) {
  using Phase = UnitCollective::Phase;
  Model& model = this->model(choice);
  const ModelFacts& facts = model.facts;
  const int64_t local_batch = choice.batch.local_batch;
  const auto [found, first] = model.tables.try_emplace(local_batch);
  UnitTable& table = found->second;
  if (!first) return table;
  for (int32_t u = 0; u < units(); ++u) {
    const Unit& unit = model.spec.units[u];
    const bool input_gradient = facts.units[u].passes;
    const auto seconds = [&](Work work, Phase phase) {
      return costs.unit_seconds({&unit, work, local_batch, input_gradient}) +
             inside(model, choice, phase, static_cast<size_t>(u), input_gradient, &table.inside_bytes);
    };
    const bool trained = facts.units[u].trains(), back = facts.units[u].backward_phase >= 0;
    table.forward_s.push_back(seconds(Work::kForward, Phase::kForward));
    table.input_s.push_back(back ? seconds(Work::kBackwardInput, Phase::kBackwardInput) : 0);
    table.weight_s.push_back(trained ? seconds(Work::kBackwardWeight, Phase::kBackwardWeight) : 0);
    table.add_s.push_back(add_seconds(model.gradient_bytes[u] + model.use_bytes[u]));
    table.out_bytes.push_back(unit.output.bytes_per_sample() * local_batch);
    table.saved_bytes.push_back(unit.saved_bytes * local_batch);
    table.deferred_bytes.push_back(unit.deferred_bytes * local_batch);
    table.work_bytes.push_back(work_bytes(unit, input_gradient, local_batch));
  }
  const std::vector<int64_t> sizes = {local_batch};
  const Placement placement;
  const StateForms none;
  const ByteContext bytes = {model.spec, facts.flat, sizes, placement, none};
  table.batch_bytes = value_bytes(bytes, {.kind = ValueKind::kBatch, .index = 0});
  if (cluster.device.kind == DeviceKind::kCpu)  // of others it is unknown
    table.axis_bytes = axis_workspace_bytes(model.spec, local_batch);
  table.batch_s = costs.batch_seconds(table.batch_bytes);
  table.loss_s = costs.loss_seconds(table.out_bytes.back()) +
                 inside(model, choice, Phase::kLoss, spec.units.size() - 1, true, &table.inside_bytes);
  table.totals = totals_of(table, facts);
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

// Two read, one written.
double State::add_seconds(int64_t bytes) const {
  return bytes > 0 ? costs.flat_seconds(Op::kAdd, 3 * bytes) : 0;
}

double State::exchange_seconds(const Placement& placement, Op op, GroupAxis axis, int64_t bytes) {
  const Movement movement = op == Op::kReduceGrads ? Movement::kReduceScatter : Movement::kAllGather;
  return movement_seconds(placement, movement, axis, bytes, measured_name(op, axis, placement));
}

double State::movement_seconds(const Placement& placement, Movement movement, GroupAxis axis, int64_t bytes,
                               std::string_view operation) {
  const Layout& layout = placement.layout;
  const std::array<int, 4> degrees = {placement.pipeline_ranks(), placement.replicas(), placement.shards(),
                                      placement.tensor_ranks()};
  const auto [found, first] = exchanges_.try_emplace({degrees, movement, operation, axis, bytes}, 0);
  if (!first) return found->second;
  const std::vector<int> ranks = group_ranks(placement, axis);
  if (ranks.size() < 2 || bytes == 0) return 0;
  // Groups like this one with members on the same host share its wires.
  const int host = cluster.host_of(ranks[0]);
  const auto here = std::ranges::count_if(ranks, [&](int rank) { return cluster.host_of(rank) == host; });
  const int sharers = std::max(1, std::min(cluster.devices, layout.world()) / static_cast<int>(here));
  found->second = seconds_of(costs.legs({.movement = movement,
                                         .ranks = ranks,
                                         .self = ranks[0],
                                         .bytes = bytes,
                                         .sharers = sharers,
                                         .operation = operation}));
  return found->second;
}

int64_t bucket_bytes_of(const SearchRequest& request, const Choice& choice) {
  return choice.bucket_bytes.value_or(request.ranks.bucket_bytes);
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
