#include "apps/furrow/plan_tables.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "furrow/base/text.h"

namespace furrow::app {
namespace {

std::string gib(double bytes) { return format_fixed(bytes / (1 << 30), bytes < (1 << 28) ? 3 : 1); }

// Three digits of what a step costs, however little.
int price_decimals(double cost) { return std::max(5, 2 - static_cast<int>(std::floor(std::log10(cost)))); }

std::string how(const plan::Candidate& candidate) {
  return fmt::format("{}{}", candidate.simulated ? "simulated" : "estimated",
                     candidate.configured ? ", as configured" : "");
}

void write_choice(const plan::Choice& choice, JsonWriter* json) {
  json->key("layout").begin_object();
  for (size_t axis = 0; axis < plan::kAxisNames.size(); ++axis) {
    json->key(plan::kAxisNames[axis]).value(choice.layout.degree(static_cast<plan::Axis>(axis)));
  }
  json->end_object();
  json->key("text").value(plan::to_text(choice)).key("zero_stage").value(choice.zero_stage);
  json->key("schedule")
      .value(choice.pipeline.schedule)
      .key("stages_per_rank")
      .value(choice.pipeline.stages_per_rank);
  json->key("units_per_stage").begin_array();
  for (const int64_t units : choice.pipeline.units_per_stage) json->value(units);
  json->end_array().key("recompute").begin_array();
  for (size_t u = 0; u < choice.recompute.size(); ++u) {
    if (choice.recompute[u]) json->value(u);
  }
  json->end_array().key("local_batch_size").value(choice.batch.local_batch);
  json->key("global_batch_size").value(choice.batch.global_batch);
  json->key("bucket_cap_mb").value(static_cast<double>(choice.bucket_bytes.value_or(0)) / (1 << 20));
}

void write_candidate(const plan::Candidate& candidate, JsonWriter* json) {
  const plan::Figures& figures = candidate.figures;
  json->begin_object();
  write_choice(candidate.choice, json);
  json->key("step_time_ms")
      .value(figures.step_s * 1e3)
      .key("samples_per_second")
      .value(figures.samples_per_second);
  json->key("memory_bytes")
      .value(figures.memory_bytes)
      .key("wire_bytes")
      .value(std::round(figures.wire_bytes));
  json->key("bubble").value(figures.bubble).key("exposed_communication").value(figures.exposed_communication);
  json->key("cost_per_step").value(figures.cost).key("spot_cost_per_step").value(figures.spot_cost);
  json->key("fits").value(candidate.fits).key("reason").value(candidate.reason);
  json->key("recipe_change").value(candidate.recipe_change);
  json->key("simulated")
      .value(candidate.simulated)
      .key("configured")
      .value(candidate.configured)
      .end_object();
}

void write_candidates(std::string_view key, const std::vector<plan::Candidate>& candidates,
                      JsonWriter* json) {
  json->key(key).begin_array();
  for (const plan::Candidate& candidate : candidates) write_candidate(candidate, json);
  json->end_array();
}

}  // namespace

Table candidates_table(const std::vector<plan::Candidate>& candidates, const std::string& currency) {
  const plan::Figures first = candidates.empty() ? plan::Figures() : candidates[0].figures;
  const bool priced = first.cost > 0, spot = first.spot_cost > 0;
  std::vector<Column> columns = {{"layout"},    {"s/step", "", 4}, {"samples/s", "", 1}, {"GiB a rank"},
                                 {"GiB moved"}, {"bubble", "", 3}, {"exposed", "", 3}};
  if (priced) columns.push_back({currency + "/step", "", price_decimals(first.cost)});
  if (spot) columns.push_back({"spot " + currency + "/step", "", price_decimals(first.spot_cost)});
  columns.push_back({"by"});
  const bool changes = std::ranges::any_of(
      candidates, [](const plan::Candidate& each) { return !each.recipe_change.empty(); });
  if (changes) columns.push_back({"recipe", "recipe_change"});
  Table table(std::move(columns));
  for (const plan::Candidate& candidate : candidates) {
    const plan::Figures& figures = candidate.figures;
    std::vector<Cell> row = {plan::to_text(candidate.choice),
                             figures.step_s,
                             figures.samples_per_second,
                             gib(static_cast<double>(figures.memory_bytes)),
                             gib(figures.wire_bytes),
                             std::abs(figures.bubble),
                             std::abs(figures.exposed_communication)};
    if (priced) row.emplace_back(figures.cost);
    if (spot) row.emplace_back(figures.spot_cost);
    row.emplace_back(how(candidate));
    if (changes)
      row.emplace_back(candidate.recipe_change.empty() ? "as configured" : candidate.recipe_change);
    table.add_row(std::move(row));
  }
  return table;
}

Table refused_table(const std::vector<plan::Candidate>& refused) {
  Table table({{"refused"}, {"reason"}});
  for (const plan::Candidate& candidate : refused) {
    table.add_row(
        {fmt::format("{}{}", plan::to_text(candidate.choice), candidate.configured ? ", as configured" : ""),
         candidate.reason});
  }
  return table;
}

Table passes_table(const std::vector<plan::PassReport>& passes) {
  Table table({{"pass"}, {"ms", "", 2}, {"before"}, {"after"}, {"notes"}});
  for (const plan::PassReport& pass : passes) {
    std::string notes = join(pass.notes, "; ");
    if (pass.off) notes = notes.empty() ? "off" : "off; " + notes;
    table.add_row({std::string(pass.name), pass.seconds * 1e3, static_cast<int64_t>(pass.before),
                   static_cast<int64_t>(pass.after), notes});
  }
  return table;
}

std::string search_json(const plan::SearchRequest& request, const plan::SearchResult& result) {
  const plan::Cluster& cluster = request.costs->cluster();
  JsonWriter json(2);
  json.begin_object().key("cluster").value(cluster.name).key("devices").value(cluster.world());
  json.key("device").value(cluster.device.name).key("device_memory_bytes").value(result.memory_bytes);
  json.key("model")
      .value(request.spec->architecture)
      .key("parameters")
      .value(request.spec->parameter_count());
  json.key("costs").value(request.costs->source()).key("currency").value(cluster.price.currency);
  write_candidates("candidates", result.candidates, &json);
  write_candidates("refused", result.refused, &json);
  json.key("smallest_change").value(result.smallest_change).key("passes").begin_array();
  for (const plan::PassReport& pass : result.passes) {
    json.begin_object().key("name").value(pass.name).key("milliseconds").value(pass.seconds * 1e3);
    json.key("before")
        .value(pass.before)
        .key("after")
        .value(pass.after)
        .key("off")
        .value(pass.off)
        .key("notes")
        .begin_array();
    for (const std::string& note : pass.notes) json.value(note);
    json.end_array().end_object();
  }
  json.end_array().end_object();
  return json.text() + "\n";
}

}  // namespace furrow::app
