#include "furrow/observe/rank_audit.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "furrow/observe/json_reader.h"

namespace furrow::observe {
namespace {

std::string percent(double share, int decimals) { return format_fixed(100 * share, decimals) + " %"; }

std::string per_step(int64_t bytes, int64_t steps) {
  const auto each = static_cast<double>(bytes) / static_cast<double>(std::max<int64_t>(1, steps));
  return format_bytes(static_cast<uint64_t>(std::llround(each)));
}

std::string of_bound(const CollectiveAudit& kind) {
  if (kind.bound_bytes == 0) return "-";
  return format_fixed(static_cast<double>(kind.wire_bytes) / static_cast<double>(kind.bound_bytes), 3);
}

CollectiveAudit read_kind(const JsonMember& member) {
  CollectiveAudit kind;
  kind.name = member.name;
  const JsonReader reader(member.value);
  reader.read("calls", kind.calls);
  reader.read("wire", kind.wire_bytes);
  reader.read("bound", kind.bound_bytes);
  return kind;
}

}  // namespace

double RankAudit::latency_overhead() const {
  return step_seconds > 0 ? operations_per_step * operation_latency_us * 1e-6 / step_seconds : 0;
}

void write_audit(JsonWriter& json, const RankAudit& audit) {
  json.field("ranks", audit.ranks).field("layout", audit.layout);
  if (audit.ranks > 1) json.field("backend", audit.backend);
  if (audit.ranks > 1 && !audit.sums.empty()) json.field("gradient_sums", audit.sums);
  json.field("deterministic", audit.deterministic);
  if (audit.ranks == 1) return;
  json.field("audited_steps", audit.steps);
  if (audit.steps == 0) return;
  json.key("bytes").begin_object();
  for (const CollectiveAudit& kind : audit.bytes) {
    json.key(kind.name).begin_object();
    json.field("calls", kind.calls)
        .field("wire", kind.wire_bytes)
        .field("bound", kind.bound_bytes)
        .end_object();
  }
  json.end_object();
  if (audit.bubble) json.field("bubble", *audit.bubble);
  json.field("exposed_communication", audit.exposed_communication);
  if (audit.straggler_wait) json.field("straggler_wait", *audit.straggler_wait);
  json.field("comm_to_compute", audit.comm_to_compute);
  json.field("operations_per_step", audit.operations_per_step)
      .field("operation_latency_us", audit.operation_latency_us)
      .field("step_seconds", audit.step_seconds)
      .field("latency_overhead", audit.latency_overhead());
  json.key("rank_samples_per_second").begin_array();
  for (const double rate : audit.rank_samples_per_second) json.value(rate);
  json.end_array();
  if (audit.scaling_efficiency) json.field("scaling_efficiency", *audit.scaling_efficiency);
  if (audit.weak_scaling_efficiency) json.field("weak_scaling_efficiency", *audit.weak_scaling_efficiency);
}

std::optional<RankAudit> read_audit(const JsonValue& summary) {
  if (summary.find("ranks") == nullptr) return std::nullopt;
  RankAudit audit;
  const JsonReader reader(summary);
  reader.read("ranks", audit.ranks);
  reader.read("layout", audit.layout);
  reader.read("backend", audit.backend);
  reader.read("gradient_sums", audit.sums);
  reader.read("deterministic", audit.deterministic);
  reader.read("audited_steps", audit.steps);
  reader.read("bubble", audit.bubble);
  reader.read("exposed_communication", audit.exposed_communication);
  reader.read("straggler_wait", audit.straggler_wait);
  reader.read("comm_to_compute", audit.comm_to_compute);
  reader.read("operations_per_step", audit.operations_per_step);
  reader.read("operation_latency_us", audit.operation_latency_us);
  reader.read("step_seconds", audit.step_seconds);
  reader.read("scaling_efficiency", audit.scaling_efficiency);
  reader.read("weak_scaling_efficiency", audit.weak_scaling_efficiency);
  const JsonValue* bytes = summary.find("bytes");
  if (bytes != nullptr && bytes->object() != nullptr) {
    for (const JsonMember& member : *bytes->object()) audit.bytes.push_back(read_kind(member));
  }
  const JsonValue* rates = summary.find("rank_samples_per_second");
  if (rates == nullptr) return audit;
  if (const auto* list = std::get_if<JsonValue::Array>(&rates->value)) {
    for (const JsonValue& rate : *list) audit.rank_samples_per_second.push_back(rate.number().value_or(NAN));
  }
  return audit;
}

std::vector<std::array<std::string, 3>> audit_rows(const RankAudit& audit) {
  std::vector<std::array<std::string, 3>> rows;
  if (audit.ranks == 1) return rows;
  const bool ours = audit.backend.empty() || audit.backend == "native";
  const std::string over = ours ? "" : fmt::format(", over {}", audit.backend);
  rows.push_back({"ranks", fmt::format("{} ({}{})", audit.ranks, audit.layout, over), ""});
  if (!audit.sums.empty()) rows.push_back({"sums of gradients", audit.sums, ""});
  rows.push_back({"deterministic", audit.deterministic, ""});
  if (audit.steps == 0) {
    rows.push_back({"audit", "of no step: the first one of a process does not count", ""});
    return rows;
  }
  if (!audit.rank_samples_per_second.empty()) {
    const auto first = audit.rank_samples_per_second.begin();
    const auto [least, most] = std::minmax_element(first, audit.rank_samples_per_second.end());
    rows.push_back({"samples/s per rank",
                    fmt::format("{} (rank {}) to {}, waiting left out", format_count(std::llround(*least)),
                                least - first, format_count(std::llround(*most))),
                    ""});
  }
  const auto add_efficiency = [&](const std::optional<double>& share, const char* of) {
    if (!share) return;
    rows.push_back({"scaling efficiency",
                    fmt::format("{} of {} times one rank, {}", percent(*share, 1), audit.ranks, of), ""});
  };
  add_efficiency(audit.scaling_efficiency, "same batch (strong)");
  add_efficiency(audit.weak_scaling_efficiency, "same batch a rank (weak)");
  if (audit.bubble) rows.push_back({"bubble", percent(*audit.bubble, 1) + " of the ranks' time", ""});
  const std::string late =
      audit.straggler_wait ? fmt::format(", {} for later ones", percent(*audit.straggler_wait, 1)) : "";
  rows.push_back(
      {"waited for ranks", percent(audit.exposed_communication, 1) + " of the steps' time" + late, ""});
  rows.push_back({"comm / compute", format_fixed(audit.comm_to_compute, 3), ""});
  rows.push_back(
      {"latency overhead",
       fmt::format("{} of the steps' time ({} operations x {} us)", percent(audit.latency_overhead(), 1),
                   format_fixed(audit.operations_per_step, 0), format_fixed(audit.operation_latency_us, 1)),
       ""});
  if (audit.bytes.empty()) return rows;
  rows.push_back({"bytes of all ranks", "a step", "times the bound"});
  for (const CollectiveAudit& kind : audit.bytes) {
    rows.push_back({"  " + kind.name, per_step(kind.wire_bytes, audit.steps), of_bound(kind)});
  }
  return rows;
}

}  // namespace furrow::observe
