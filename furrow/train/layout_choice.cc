#include "furrow/train/layout_choice.h"

#include <fmt/format.h>

#include <string_view>

#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/plan/buckets.h"
#include "furrow/plan/schedule.h"
#include "furrow/plan/tensor_cut.h"
#include "furrow/train/recipe.h"

namespace furrow::train {
namespace {

constexpr int64_t kOfDevices = 25 << 20;  // bucket_cap_mb of PyTorch's DistributedDataParallel

std::string up_to(int64_t bytes) { return "buckets of up to " + format_bytes(static_cast<uint64_t>(bytes)); }

Buckets by_rule(const plan::ModelSpec& spec, const plan::Layout& layout, int64_t bytes,
                std::string_view reason) {
  const plan::ModelSpec own = plan::tensor_cut(spec, layout.degree(plan::Axis::kTensor));
  if (plan::buckets_of(own, bytes).empty())
    return {0, fmt::format("no buckets: no neighbours have {} or less together",
                           format_bytes(static_cast<uint64_t>(bytes)))};
  return {bytes, fmt::format("{}, {}", up_to(bytes), reason)};
}

// The search knows no smaller microbatch than the others.
int64_t whole_microbatches(const config::Training& training, int64_t data_ranks) {
  return static_cast<int64_t>(microbatch_sizes(training, data_ranks).size()) * training.local_batch_size;
}

Buckets simulated(const config::Config& config, const plan::ModelSpec& spec, const plan::Layout& layout,
                  const plan::Costs& costs) {
  plan::SearchRequest request = search_request(config, spec);
  request.costs = &costs;
  plan::Choice choice = configured_choice(config, spec, layout);
  choice.batch.global_batch = whole_microbatches(config.training, layout.data_ranks());
  const plan::BucketChoice best = plan::choose_buckets(request, choice);
  if (best.alone_s == 0) return {0, "no buckets: neighbours have more together than any of them holds"};
  const std::string alone = format_seconds(best.alone_s);
  if (best.bytes == 0)
    return {0, fmt::format("no buckets: a step of {} as simulated, and none is quicker", alone)};
  return {best.bytes, fmt::format("{}: a step of {} as simulated, {} without", up_to(best.bytes),
                                  format_seconds(best.step_s), alone)};
}

}  // namespace

plan::SearchRequest search_request(const config::Config& config, const plan::ModelSpec& spec) {
  plan::SearchRequest request;
  request.spec = &spec;
  request.batch = {config.training.local_batch_size, config.training.global_batch_size};
  const plan::TrainOptions options = train_options(config, spec);
  request.optimizer_states = options.optimizer_states;
  request.ranks = options.ranks;
  return request;
}

plan::Choice configured_choice(const config::Config& config, const plan::ModelSpec& spec,
                               const plan::Layout& layout) {
  plan::Choice choice;
  choice.layout = layout;
  const plan::SearchRequest request = search_request(config, spec);
  if (layout.degree(plan::Axis::kShard) > 1) choice.zero_stage = request.ranks.zero_stage;
  choice.pipeline = request.ranks.pipeline;
  if (choice.pipeline.stages_per_rank == 0 && layout.degree(plan::Axis::kPipeline) > 1) {
    choice.pipeline.stages_per_rank = plan::find_schedule(choice.pipeline.schedule).default_stages_per_rank;
  }
  choice.recompute = recompute_units(config.activation_checkpoint, spec);
  choice.batch = request.batch;
  return choice;
}

bool chooses_buckets(const config::Config& config, const plan::Layout& layout) {
  return config.parallelism.bucket_cap_mb < 0 && layout.data_ranks() > 1;
}

Buckets chosen_buckets(const config::Config& config, const plan::ModelSpec& spec, const plan::Layout& layout,
                       const plan::Costs* costs) {
  if (!chooses_buckets(config, layout)) return {search_request(config, spec).ranks.bucket_bytes, ""};
  if (costs == nullptr || config.training.device != "cpu")
    return by_rule(spec, layout, kOfDevices, "as DistributedDataParallel has them");
  try {
    if (costs->source() == "profiled") return simulated(config, spec, layout, *costs);
  } catch (const Error& error) {  // of a layout that has no program, which says so itself
    if (error.code() == ErrorCode::kInternal) throw;
  }
  const int zero_stage = configured_choice(config, spec, layout).zero_stage;
  const plan::BucketRule rule = plan::buckets_by_rule(costs->cluster(), layout, zero_stage);
  const std::string_view why =
      rule.once ? "as ranks move gradients themselves, once a step, and wait for each other in each bucket"
                : "which the link between ranks moves in 8 of its latencies or more";
  return by_rule(spec, layout, rule.bytes,
                 fmt::format("{}; `furrow profile` has them chosen by the simulated step", why));
}

}  // namespace furrow::train
