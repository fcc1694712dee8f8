#include "furrow/plan/search.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/base/text.h"
#include "furrow/plan/search/state.h"

namespace furrow::plan {
namespace {

using namespace search_internal;

struct PassRow {
  PassInfo info;
  void (*run)(State* state);
  bool runs_when_off = false;  // and then does less
  bool in_rounds = false;      // takes the plans in parts (Rounds)
};

// The order of a search.
constexpr PassRow kPasses[] = {
    {{"degrees", "every pp x dp_replicate x dp_shard x tp that is the world, tp inside a host", false},
     &choose_degrees},
    {{"zero", "ZeRO-1, 2 and 3 where dp_shard is above 1; off: as configured"}, &choose_zero_stages, true},
    {{"precision", "bfloat16 where the device is faster in it, where the recipe may change"},
     &choose_precisions},
    {{"batch", "other microbatches and global batches, where the recipe may change"}, &choose_batches},
    {{"bound",
      "what no schedule makes better; the passes up to estimate take the best first, and stop early"},
     &bound_scores},
    {{"schedules", "every schedule and number of stages a rank; off: 1F1B"}, &choose_schedules, true, true},
    {{"recompute", "units computed again until it fits; off: none are"}, &choose_recompute, true, true},
    {{"estimate", "seconds of a step in closed form", false}, &estimate_times, false, true},
    {{"prune", "the few that are worth a simulation; off: all are"}, &prune},
    {{"balance", "units moved between stages where the pipeline ends sooner"}, &balance_stages},
    {{"simulate", "the best few compiled and simulated; off: estimates stand"}, &simulate_best},
    {{"buckets", "units that share collectives, where a simulated step ends sooner; off: as configured"},
     &choose_bucket_sizes},
};

void check_names(const std::vector<std::string>& without) {
  std::vector<std::string> known;
  for (const PassRow& row : kPasses) {
    if (row.info.optional) known.emplace_back(row.info.name);
  }
  for (const std::string& name : without) {
    if (std::ranges::find(known, name) != known.end()) continue;
    throw Error(ErrorCode::kInvalidArgument, unknown_name_message("pass that can be left out", name, known));
  }
}

// The configured layout takes part from the pass that makes pipelines on.
void add_configured(State* state) {
  if (!state->request.configured) return;
  Plan plan;
  plan.order = SIZE_MAX;
  plan.candidate.configured = true;
  plan.candidate.choice = *state->request.configured;
  std::string reason = refusal_of(*state, plan.candidate.choice);
  if (reason.empty()) {
    try {
      plan.pipeline = pipeline_of(state, plan.candidate.choice);
      state->plans.push_back(std::move(plan));
      return;
    } catch (const Error& error) {
      reason = error.message();
    }
  }
  state->refuse(std::move(plan.candidate), std::move(reason));
}

// Adds what the pass did to its report; notes are of all rounds already.
void run_pass(const PassRow& row, State* state, PassReport* report) {
  report->before += state->plans.size();
  const auto start = std::chrono::steady_clock::now();
  if (!report->off || row.runs_when_off) row.run(state);
  report->seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  report->after += state->plans.size();
  report->notes = std::move(state->notes);
  state->notes.clear();
}

// The rows from `row` on that take plans in rounds; the first one after them.
size_t run_rounds(size_t row, State* state, std::vector<PassReport>* reports) {
  size_t end = row;
  while (kPasses[end].in_rounds) ++end;
  Rounds rounds(state);
  for (bool first = true; rounds.next() || first; first = false) {
    for (size_t i = row; i < end; ++i) {
      run_pass(kPasses[i], state, &(*reports)[i]);
      if (first && kPasses[i].run == &choose_schedules) add_configured(state);
    }
    rounds.close();
  }
  rounds.finish();
  if (!(*reports)[row - 1].off) (*reports)[row - 1].notes.push_back(rounds.note());
  return end;
}

// Those that are the nearest to fitting.
void take_refused(State* state, SearchResult* result) {
  std::ranges::stable_sort(state->too_large, {},
                           [](const Candidate& each) { return each.figures.memory_bytes; });
  for (size_t i = 0; i < std::min(kNearest, state->too_large.size()); ++i) {
    state->too_large[i].fits = false;
    result->refused.push_back(std::move(state->too_large[i]));
  }
  for (Candidate& each : state->refused) result->refused.push_back(std::move(each));
}

}  // namespace

SearchResult search(const SearchRequest& request) {
  FURROW_CHECK(request.spec != nullptr && request.costs != nullptr);
  check_names(request.without);
  State state(request);
  SearchResult result;
  result.memory_bytes = state.memory_bytes;
  for (const PassRow& row : kPasses) {
    PassReport& report = result.passes.emplace_back();
    report.name = row.info.name;
    report.off = state.is_off(row.info.name);
  }
  for (size_t i = 0; i < std::size(kPasses);) {
    if (kPasses[i].in_rounds) {
      i = run_rounds(i, &state, &result.passes);
    } else {
      run_pass(kPasses[i], &state, &result.passes[i]);
      ++i;
    }
  }
  bool any = false;
  for (Plan& plan : state.plans) {
    Candidate& candidate = plan.candidate;
    candidate.fits = candidate.figures.memory_bytes <= state.memory_bytes;
    any = any || candidate.fits;
    if (!candidate.fits) candidate.reason = "does not fit";
    (candidate.fits ? result.candidates : result.refused).push_back(std::move(candidate));
  }
  take_refused(&state, &result);
  for (auto* list : {&result.candidates, &result.refused}) {
    for (Candidate& each : *list) each.recipe_change = recipe_change(request, each.choice);
  }
  if (!any) result.smallest_change = smallest_change(request);
  return result;
}

Appraisal appraise(const SearchRequest& request, const Choice& choice) {
  State state(request);
  const std::string reason = refusal_of(state, choice);
  if (!reason.empty()) throw Error(ErrorCode::kInvalidArgument, reason);
  Plan plan;
  plan.candidate.choice = choice;
  plan.pipeline = pipeline_of(&state, choice);
  estimate(&state, &plan);
  plan.candidate.figures.memory_bytes = std::ranges::max(memory_of(&state, plan));
  Appraisal appraisal{plan.candidate.figures, {}};
  simulate_plan(&state, &plan);
  appraisal.simulated = plan.candidate.figures;
  return appraisal;
}

void require_fit(const SearchResult& result) {
  if (!result.candidates.empty()) return;
  const auto gib = [](int64_t bytes) { return format_fixed(static_cast<double>(bytes) / (1 << 30), 1); };
  for (const Candidate& nearest : result.refused) {
    if (nearest.figures.memory_bytes == 0) continue;
    throw Error(
        ErrorCode::kResourceExhausted,
        fmt::format("does not fit: needs {} GiB of {} per device ({}); smallest change: {}",
                    gib(nearest.figures.memory_bytes), gib(result.memory_bytes), to_text(nearest.choice),
                    result.smallest_change.empty() ? "a smaller model" : result.smallest_change));
  }
  throw Error(
      ErrorCode::kInvalidArgument,
      fmt::format("no layout: {}", result.refused.empty() ? "none was tried" : result.refused[0].reason));
}

std::vector<PassInfo> search_passes() {
  std::vector<PassInfo> infos;
  for (const PassRow& row : kPasses) infos.push_back(row.info);
  return infos;
}

bool same_program(const Choice& a, const Choice& b) {
  if (a.layout != b.layout || a.zero_stage != b.zero_stage || a.recompute != b.recompute ||
      a.batch != b.batch || a.precision != b.precision) {
    return false;
  }
  const PipelineOptions &p = a.pipeline, &q = b.pipeline;
  return a.layout.degree(Axis::kPipeline) == 1 ||
         (p.schedule == q.schedule && p.csv == q.csv && p.stages_per_rank == q.stages_per_rank &&
          p.units_per_stage == q.units_per_stage);
}

TrainOptions train_options_of(const SearchRequest& request, const Choice& choice, int rank) {
  TrainOptions options;
  options.microbatch_sizes.assign(static_cast<size_t>(microbatches(choice)), choice.batch.local_batch);
  options.recompute = choice.recompute;
  options.optimizer_states = request.optimizer_states;
  options.ranks = request.ranks;
  options.ranks.rank = rank;
  options.ranks.pipeline = choice.pipeline;
  if (choice.zero_stage > 0) options.ranks.zero_stage = choice.zero_stage;
  options.ranks.bucket_bytes = bucket_bytes_of(request, choice);
  return options;
}

std::string to_text(const Choice& choice) {
  const auto degree = [&](Axis axis) { return choice.layout.degree(axis); };
  std::vector<std::string> axes;
  if (degree(Axis::kPipeline) > 1) axes.push_back(fmt::format("pp {}", degree(Axis::kPipeline)));
  if (degree(Axis::kReplicate) > 1) axes.push_back(fmt::format("dp_replicate {}", degree(Axis::kReplicate)));
  if (degree(Axis::kShard) > 1) axes.push_back(fmt::format("dp_shard {}", degree(Axis::kShard)));
  if (degree(Axis::kTensor) > 1) axes.push_back(fmt::format("tp {}", degree(Axis::kTensor)));
  std::string text = axes.empty() ? "one rank" : join(axes, " x ");
  if (choice.zero_stage > 0) text += fmt::format(", ZeRO-{}", choice.zero_stage);
  if (degree(Axis::kPipeline) > 1) {
    text += fmt::format(", {}", choice.pipeline.csv.empty() ? choice.pipeline.schedule : "a CSV");
    if (choice.pipeline.csv.empty() && choice.pipeline.stages_per_rank > 1)
      text += fmt::format(" x {}", choice.pipeline.stages_per_rank);
  }
  const auto again = std::ranges::count(choice.recompute, true);
  if (again > 0) text += fmt::format(", {} of {} units again", again, choice.recompute.size());
  if (choice.bucket_bytes.value_or(0) > 0)
    text += fmt::format(", buckets of {}", format_bytes(static_cast<uint64_t>(*choice.bucket_bytes)));
  return text;
}

}  // namespace furrow::plan
