// [parallelism]: degrees of the mesh axes.  plan::Layout checks their product.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "furrow/config/field.h"

namespace furrow::config {

struct Parallelism {
  int64_t data_parallel_replicate_degree = 1;
  int64_t data_parallel_shard_degree = -1;
  int64_t zero_stage = 3;
  std::string fsdp_reshard_after_forward = "default";
  int64_t fsdp_prefetch_units = 1;
  double bucket_cap_mb = -1;
  int64_t tensor_parallel_degree = 1;
  int64_t pipeline_parallel_degree = 1;
  std::string pipeline_parallel_schedule = "1F1B";
  std::string pipeline_parallel_schedule_csv;
  int64_t pipeline_parallel_stages_per_rank = 0;
  std::vector<int64_t> pipeline_parallel_units_per_stage;
  std::vector<std::string> module_fqns_per_model_part;
  int64_t pipeline_parallel_layers_per_stage = 0;
  int64_t pipeline_parallel_first_stage_less_layers = 1;
  int64_t pipeline_parallel_last_stage_less_layers = 1;
  int64_t pipeline_parallel_receives_ahead = 1;
  int64_t context_parallel_degree = 1;
  int64_t expert_parallel_degree = 1;

  template <class V>
  static void fields(V& v) {
    ranks(v);
    pipeline(v);
    stages(v);
    other_axes(v);
  }
  friend bool operator==(const Parallelism&, const Parallelism&) = default;

 private:
  static constexpr std::string_view kPipeline = "parallelism.pipeline_parallel_degree>1";

  static constexpr FieldSpec degree(std::string_view doc) {
    return {.effect = Effect::kLayout, .min = 1, .max = 1 << 20, .doc = doc};
  }

  template <class V>
  static void ranks(V& v) {
    v("data_parallel_replicate_degree", &Parallelism::data_parallel_replicate_degree,
      degree("Copies of the model, each with its share of the batch. The product of all degrees is the "
             "number of ranks."));
    v("data_parallel_shard_degree", &Parallelism::data_parallel_shard_degree,
      {.effect = Effect::kLayout,
       .min = -1,
       .max = 1 << 20,
       .doc = "Ranks that share one copy's optimizer state, gradients and parameters, as zero_stage says. "
              "-1: all "
              "ranks that the other degrees leave. Replicas and shards together share the batch."});
    v("zero_stage", &Parallelism::zero_stage,
      {.effect = Effect::kLayout,
       .min = 1,
       .max = 3,
       .doc = "What the ranks of data_parallel_shard_degree share: 1, optimizer state; 2, gradients too, "
              "reduced after "
              "every microbatch; 3, parameters too, gathered before use. Counts only where that degree is "
              "above 1."});
    v("fsdp_reshard_after_forward", &Parallelism::fsdp_reshard_after_forward,
      {.effect = Effect::kLayout,
       .choices = "default|always|never",
       .only_if = "parallelism.zero_stage=3",
       .doc = "When a unit's gathered parameters are freed: always, after its forward and after its "
              "backward; default, "
              "the same but for the last unit, whose gather serves both; never, after the last use in the "
              "step."});
    v("fsdp_prefetch_units", &Parallelism::fsdp_prefetch_units,
      {.effect = Effect::kLayout,
       .min = 0,
       .max = 1024,
       .only_if = "parallelism.zero_stage=3",
       .doc = "How many units are gathered ahead of the one at work: more overlap, more memory."});
    v("bucket_cap_mb", &Parallelism::bucket_cap_mb,
      {.effect = Effect::kLayout,
       .min = -1,
       .max = 1 << 20,
       .doc =
           "Units that follow one another and have no more gradients together than so many MiB share their "
           "collectives, whose number is what slows small units down on slow links; larger ones overlap "
           "better alone. 0: every unit has its own. -1: of 0, 0.25, 1, 4 and 25 the one whose step is the "
           "quickest as simulated, where `furrow profile` has measured the machine, else the first in which "
           "the link moves for 8 of its latencies, or 25 where ranks of one host move gradients on their own "
           "cores once a step; the header of a run says which, and why. It changes no bit of a result."});
    v("tensor_parallel_degree", &Parallelism::tensor_parallel_degree,
      degree("Ranks that share every layer: heads, columns and rows of matrices, the vocabulary, and "
             "positions between them; for gpt, llama and mlp. The result is within a stated bound of one "
             "rank's, no longer its bits."));
  }

  template <class V>
  static void pipeline(V& v) {
    v("pipeline_parallel_degree", &Parallelism::pipeline_parallel_degree,
      degree("Ranks of a pipeline: each has one or more stages, runs of units, and every microbatch goes "
             "through "
             "all of them."));
    v("pipeline_parallel_schedule", &Parallelism::pipeline_parallel_schedule,
      {.effect = Effect::kLayout,
       .only_if = kPipeline,
       .doc = "The order of work in a pipeline: GPipe, 1F1B, Interleaved1F1B, LoopedBFS, ZBH1, "
              "InterleavedZeroBubble, ZBVZeroBubble or DualPipeV."});
    v("pipeline_parallel_schedule_csv", &Parallelism::pipeline_parallel_schedule_csv,
      {.effect = Effect::kLayout,
       .only_if = kPipeline,
       .doc = "A file with a schedule of one's own, as PyTorch writes them: a line a rank, a cell an action "
              "(2F0, "
              "2B0, 2I0, 2W0). It takes the place of pipeline_parallel_schedule."});
    v("pipeline_parallel_stages_per_rank", &Parallelism::pipeline_parallel_stages_per_rank,
      {.effect = Effect::kLayout,
       .min = 0,
       .max = 1 << 10,
       .only_if = kPipeline,
       .doc =
           "Stages of each rank of a pipeline. 0: as many as the schedule usually has (1, or 2 of those that "
           "interleave)."});
  }

  template <class V>
  static void stages(V& v) {
    v("pipeline_parallel_units_per_stage", &Parallelism::pipeline_parallel_units_per_stage,
      {.effect = Effect::kLayout,
       .min = 1,
       .max = 1 << 20,
       .doc =
           "How many units each stage has, first to last; `furrow plan` lists the units. Empty: so that the "
           "largest cost of a stage, forward and backward, is as small as it can be."});
    v("module_fqns_per_model_part", &Parallelism::module_fqns_per_model_part,
      {.effect = Effect::kLayout,
       .nested = true,
       .doc =
           "The same by name: an entry a stage, first to last, with the names of its units or of modules in "
           "them, such as [\"wte h.0\", \"h.1 ln_f lm_head\"] or [[\"wte\", \"h.0\"], ...]. Each unit is in "
           "one stage, in the order of the model."});
    v("pipeline_parallel_layers_per_stage", &Parallelism::pipeline_parallel_layers_per_stage,
      {.effect = Effect::kLayout,
       .min = 0,
       .max = 1 << 20,
       .doc =
           "The same by size: as many stages as it takes for so many layers each, spread evenly. Layers are "
           "the units between the first and the last one. 0: not by size."});
    v("pipeline_parallel_first_stage_less_layers", &Parallelism::pipeline_parallel_first_stage_less_layers,
      {.effect = Effect::kLayout,
       .min = 0,
       .max = 1 << 20,
       .only_if = "parallelism.pipeline_parallel_layers_per_stage>0",
       .doc = "How many layers the first unit, an embedding, weighs in that."});
    v("pipeline_parallel_last_stage_less_layers", &Parallelism::pipeline_parallel_last_stage_less_layers,
      {.effect = Effect::kLayout,
       .min = 0,
       .max = 1 << 20,
       .only_if = "parallelism.pipeline_parallel_layers_per_stage>0",
       .doc = "How many layers the last unit, a head, weighs in that."});
    v("pipeline_parallel_receives_ahead", &Parallelism::pipeline_parallel_receives_ahead,
      {.effect = Effect::kLayout,
       .min = 0,
       .max = 1024,
       .only_if = kPipeline,
       .doc = "By how many actions of the schedule a receive is posted before the one that needs it: more "
              "overlap, more memory."});
  }

  template <class V>
  static void other_axes(V& v) {
    v("context_parallel_degree", &Parallelism::context_parallel_degree,
      degree("Ranks that share one sequence. This version has 1 only."));
    v("expert_parallel_degree", &Parallelism::expert_parallel_degree,
      degree("Ranks that share the experts. This version has 1 only."));
  }
};

}  // namespace furrow::config
