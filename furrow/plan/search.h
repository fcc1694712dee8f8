// The planner: which layout of a model over a cluster is the fastest one that fits.
//
// Passes, each in its file under plan/search/, take a list of candidates and leave a shorter or better known
// one: degrees, ZeRO stages, schedules, memory, recompute and an estimate in closed form over thousands of
// them, those first that a bound says could be the best, until none of the others can; then the best few are
// compiled and simulated (plan/simulate.h).  Pure functions, thread safe; the order of the result is fixed.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/plan/compile.h"
#include "furrow/plan/cost.h"
#include "furrow/plan/layout.h"
#include "furrow/plan/model_spec.h"
#include "furrow/plan/pipeline.h"

namespace furrow::plan {

enum class Objective : uint8_t { kTime, kCost };

// What may not change: samples of a microbatch and of a step.
struct BatchRecipe {
  int64_t local_batch = 1;
  int64_t global_batch =
      -1;  // -1: local_batch times the data ranks, so that the recipe depends on the layout
  friend bool operator==(const BatchRecipe&, const BatchRecipe&) = default;
};

// The same model as it computes in another type.
struct Precision {
  DType type = DType::kF32;
  const ModelSpec* spec = nullptr;  // the whole
};

struct Choice {
  Layout layout;
  int zero_stage = 0;  // 1, 2, 3 where dp_shard is above 1, else 0
  PipelineOptions pipeline;
  std::vector<bool> recompute;  // by unit
  BatchRecipe batch;
  std::optional<DType> precision = {};       // of SearchRequest::precisions; none: as the model computes
  std::optional<int64_t> bucket_bytes = {};  // RankOptions::bucket_bytes; none: of the request
};
// But for buckets, which are chosen last.  Schedules count only in pipelines, ZeRO stages only over shards.
bool same_program(const Choice& a, const Choice& b);

struct Figures {
  double step_s = 0;
  double samples_per_second = 0;
  int64_t memory_bytes = 0;  // of the rank that needs most
  double wire_bytes = 0;     // received by all ranks, a step
  double bubble = 0;
  double exposed_communication = 0;  // share of the step
  double cost = 0, spot_cost = 0;    // of a step; 0: no price

  double paid() const { return cost > 0 ? cost : spot_cost; }  // what Objective::kCost compares
};

struct Candidate {
  Choice choice;
  Figures figures;
  bool configured = false;  // as [parallelism] and [activation_checkpoint] of the config say
  bool simulated = false;   // else figures are estimates
  bool fits = true;
  std::string reason;  // why it is not taken
  std::string
      recipe_change;  // "local_batch_size 8 instead of 4, bfloat16"; "" where the recipe is the request's
};

// What a pass did, for --explain.
struct PassReport {
  std::string_view name;
  double seconds = 0;
  size_t before = 0, after = 0;  // candidates
  bool off = false;
  std::vector<std::string> notes;
};

struct SearchRequest {
  const ModelSpec* spec = nullptr;
  const Costs* costs = nullptr;  // of the cluster that is planned for; its world is used whole
  BatchRecipe batch;
  StateForms optimizer_states = {};  // of the optimizer
  RankOptions ranks;                 // determinism, prefetch, reshard, buckets: as configured
  std::optional<Choice> configured;  // evaluated too, whatever comes of it
  Objective objective = Objective::kTime;
  bool allow_recipe_change = false;
  std::vector<Precision> precisions =
      {};  // others that the recipe may change to, where the device is faster in them
  std::vector<std::string> without;  // names of passes
  size_t keep = 6;                   // that are simulated
  int64_t memory_bytes = 0;          // of a device; 0: as the cluster says
};

struct SearchResult {
  std::vector<Candidate>
      candidates;  // that fit, best first, simulated ones first; then the configured one if not
  std::vector<Candidate>
      refused;  // the nearest ones that do not fit and would be fast enough, and one of each reason
  std::vector<PassReport> passes;
  std::string smallest_change;  // where nothing fits
  int64_t memory_bytes = 0;     // of a device
};

// Error{invalid_argument}: no spec or costs, a pass that does not exist, with the known ones, or that cannot
// be left out.  Error{resource_exhausted}, "does not fit: needs 31.2 GiB of 24.0 per device; smallest change:
// ...", is what `require_fit` throws; search itself reports.
SearchResult search(const SearchRequest& request);
void require_fit(const SearchResult& result);

// One choice, as the search judges it: by the closed form that ranks thousands, and simulated as the best few
// are.  Error{invalid_argument}: no program can be compiled for it.  REQUIRES: spec and costs.
struct Appraisal {
  Figures estimated, simulated;
};
Appraisal appraise(const SearchRequest& request, const Choice& choice);

// Names and one line each, in order.
struct PassInfo {
  std::string_view name;
  std::string_view what;
  bool optional = true;
};
std::vector<PassInfo> search_passes();

// Which units share collectives (buckets.h), of the ladder of sizes that the pass `buckets` tries.
struct BucketChoice {
  int64_t bytes = 0;
  double step_s = 0, alone_s = 0;  // simulated, with them and with none; 0: not simulated
};

// The quickest simulated step of the choice.  Of steps that differ by less than a fiftieth, that of the
// largest buckets up to buckets_by_rule(), else of the smallest.  Errors of appraise().
BucketChoice choose_buckets(const SearchRequest& request, const Choice& choice);

// Without a simulation: the first size of the ladder in which the slowest link between data ranks moves for
// eight of its latencies, so that latency is a ninth of what a bucket takes.  The last one where ranks carry
// out communication themselves, once a step (data parallel, ZeRO-1): large buckets hide no less and hold no
// more, and ranks wait for each other once for each.
struct BucketRule {
  int64_t bytes = 0;
  bool once = false;  // the second case
};
BucketRule buckets_by_rule(const Cluster& cluster, const Layout& layout, int zero_stage);

// What the training program of a rank is compiled from.
TrainOptions train_options_of(const SearchRequest& request, const Choice& choice, int rank);

// "pp 2 x dp_shard 4, ZeRO-3, ZBVZeroBubble"
std::string to_text(const Choice& choice);

}  // namespace furrow::plan
