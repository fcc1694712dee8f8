// [parallelism] -> Layout, and how its ranks share a program.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "furrow/base/error.h"
#include "furrow/config/debug.h"
#include "furrow/config/parallelism.h"
#include "furrow/plan/compile.h"
#include "furrow/plan/layout.h"
#include "furrow/plan/stages.h"

namespace furrow::plan {
namespace {

int degree_of(std::string_view key, int64_t value) {
  if (value >= 1 && value <= std::numeric_limits<int>::max()) return static_cast<int>(value);
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("[parallelism] {} is {}: it must be at least 1", key, value));
}

// What `world` leaves for the shard axis; 0 when the other degrees do not divide it.
int rest_of(const std::array<int, 6>& degrees, int world) {
  int64_t others = 1;
  for (size_t i = 0; i < degrees.size(); ++i) {
    if (i != static_cast<size_t>(Axis::kShard)) others *= degrees[i];
    if (others > world) return 0;
  }
  return world % others == 0 ? static_cast<int>(world / others) : 0;
}

}  // namespace

Layout layout_from(const config::Parallelism& p, int world) {
  const bool fill = p.data_parallel_shard_degree == -1;
  std::array<int, 6> degrees = {
      degree_of("pipeline_parallel_degree", p.pipeline_parallel_degree),
      degree_of("data_parallel_replicate_degree", p.data_parallel_replicate_degree),
      fill ? 1 : degree_of("data_parallel_shard_degree", p.data_parallel_shard_degree),
      degree_of("context_parallel_degree", p.context_parallel_degree),
      degree_of("tensor_parallel_degree", p.tensor_parallel_degree),
      degree_of("expert_parallel_degree", p.expert_parallel_degree),
  };
  if (fill) {
    const int rest = rest_of(degrees, world);
    if (rest > 0) degrees[static_cast<size_t>(Axis::kShard)] = rest;
  }
  try {
    return Layout(degrees, world);
  } catch (const Error& error) {
    throw error.with_context(fill ? "[parallelism], data_parallel_shard_degree -1" : "[parallelism]");
  }
}

RankOptions rank_options_from(const config::Parallelism& p, const config::Debug& debug, int rank) {
  RankOptions options;
  options.rank = rank;
  options.zero_stage = static_cast<int>(p.zero_stage);
  options.prefetch_units = static_cast<int>(p.fsdp_prefetch_units);
  if (p.fsdp_reshard_after_forward == "always") options.reshard = Reshard::kAlways;
  if (p.fsdp_reshard_after_forward == "never") options.reshard = Reshard::kNever;
  options.bucket_bytes = std::max<int64_t>(0, std::llround(p.bucket_cap_mb * (1 << 20)));
  options.pipeline.schedule = p.pipeline_parallel_schedule;
  options.pipeline.stages_per_rank = static_cast<int32_t>(p.pipeline_parallel_stages_per_rank);
  options.pipeline.units_per_stage = p.pipeline_parallel_units_per_stage;
  options.pipeline.receives_ahead = static_cast<int32_t>(p.pipeline_parallel_receives_ahead);
  if (debug.deterministic == "strict") options.deterministic = Deterministic::kStrict;
  if (debug.deterministic == "off") options.deterministic = Deterministic::kOff;
  return options;
}

void name_stages(const config::Parallelism& p, const ModelSpec& spec, PipelineOptions* options) {
  const int64_t ranks = p.pipeline_parallel_degree, layers = p.pipeline_parallel_layers_per_stage;
  const std::vector<std::string>& modules = p.module_fqns_per_model_part;
  if (ranks == 1 || (layers == 0 && modules.empty())) return;
  options->units_per_stage = modules.empty()
                                 ? units_by_layers(spec, {layers, p.pipeline_parallel_first_stage_less_layers,
                                                          p.pipeline_parallel_last_stage_less_layers})
                                 : units_by_modules(spec, modules);
  const auto stages = static_cast<int64_t>(options->units_per_stage.size());
  const std::string_view key =
      modules.empty() ? "pipeline_parallel_layers_per_stage" : "module_fqns_per_model_part";
  if (stages % ranks != 0) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("[parallelism] {} makes {} stages for {} ranks: each rank has as many as any other", key,
                    stages, ranks));
  }
  const int64_t wanted = p.pipeline_parallel_stages_per_rank;
  if (wanted > 0 && wanted != stages / ranks) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("[parallelism] {} makes {} stages for {} ranks, pipeline_parallel_stages_per_rank is {}: "
                    "leave that out",
                    key, stages, ranks, wanted));
  }
  options->stages_per_rank = static_cast<int32_t>(stages / ranks);
}

}  // namespace furrow::plan
