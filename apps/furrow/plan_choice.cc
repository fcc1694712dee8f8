#include "apps/furrow/plan_choice.h"

#include <fmt/format.h>

#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/train/layout_choice.h"

namespace furrow::app {
namespace {

void set_recompute(const plan::ModelSpec& spec, const plan::Choice& choice, config::Config* config) {
  config::ActivationCheckpoint& section = config->activation_checkpoint;
  section.units.clear();
  const auto again = static_cast<size_t>(std::ranges::count(choice.recompute, true));
  section.mode = again == 0 ? "none" : again == spec.units.size() ? "full" : "selective";
  if (section.mode != "selective") return;
  for (size_t u = 0; u < spec.units.size(); ++u) {
    if (choice.recompute[u]) section.units.push_back(spec.units[u].name);
  }
}

void set_layout(const plan::Choice& choice, config::Config* config) {
  config::Parallelism& section = config->parallelism;
  section.pipeline_parallel_degree = choice.layout.degree(plan::Axis::kPipeline);
  section.data_parallel_replicate_degree = choice.layout.degree(plan::Axis::kReplicate);
  section.data_parallel_shard_degree = choice.layout.degree(plan::Axis::kShard);
  section.tensor_parallel_degree = choice.layout.degree(plan::Axis::kTensor);
  if (choice.zero_stage > 0) section.zero_stage = choice.zero_stage;
  if (choice.bucket_bytes) section.bucket_cap_mb = static_cast<double>(*choice.bucket_bytes) / (1 << 20);
  if (section.pipeline_parallel_degree == 1) return;
  section.pipeline_parallel_schedule = choice.pipeline.schedule;
  if (choice.pipeline.csv.empty()) section.pipeline_parallel_schedule_csv.clear();
  section.pipeline_parallel_stages_per_rank = choice.pipeline.stages_per_rank;
  section.pipeline_parallel_units_per_stage = choice.pipeline.units_per_stage;
  section.module_fqns_per_model_part.clear();
  section.pipeline_parallel_layers_per_stage = 0;
}

}  // namespace

std::optional<plan::Choice> configured_choice(const config::Config& config, const plan::ModelSpec& spec,
                                              const plan::Costs& costs, std::string* why) {
  try {
    const plan::Layout layout = plan::layout_from(config.parallelism, costs.cluster().world());
    plan::Choice choice = train::configured_choice(config, spec, layout);
    choice.bucket_bytes = train::chosen_buckets(config, spec, layout, &costs).bytes;
    return choice;
  } catch (const Error& error) {
    *why = error.what();
    return std::nullopt;
  }
}

config::Config planned_config(const config::Config& config, const plan::ModelSpec& spec,
                              const plan::Choice& choice) {
  config::Config planned = config;
  set_layout(choice, &planned);
  set_recompute(spec, choice, &planned);
  planned.training.local_batch_size = choice.batch.local_batch;
  planned.training.global_batch_size = choice.batch.global_batch;
  if (choice.precision) planned.training.mixed_precision_param = std::string(to_string(*choice.precision));
  config::validate(planned);
  return planned;
}

std::string planned_toml(const config::Config& config, const plan::ModelSpec& spec,
                         const plan::Choice& choice) {
  return fmt::format("# {}: furrow train this file with --nproc {}.\n{}", plan::to_text(choice),
                     choice.layout.world(), config::to_toml(planned_config(config, spec, choice)));
}

}  // namespace furrow::app
