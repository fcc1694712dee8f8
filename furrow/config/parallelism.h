// [parallelism]: degrees of the mesh axes.  plan::Layout checks their product.
#pragma once

#include <cstdint>
#include <string>

#include "furrow/config/field.h"

namespace furrow::config {

struct Parallelism {
  int64_t data_parallel_replicate_degree = 1;
  int64_t data_parallel_shard_degree = -1;
  int64_t zero_stage = 3;
  std::string fsdp_reshard_after_forward = "default";
  int64_t fsdp_prefetch_units = 1;
  int64_t tensor_parallel_degree = 1;
  int64_t pipeline_parallel_degree = 1;
  int64_t context_parallel_degree = 1;
  int64_t expert_parallel_degree = 1;

  template <class V>
  static void fields(V& v) {
    const auto degree = [](std::string_view doc) {
      return FieldSpec{.effect = Effect::kLayout, .min = 1, .max = 1 << 20, .doc = doc};
    };
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
    v("tensor_parallel_degree", &Parallelism::tensor_parallel_degree,
      degree("Ranks that share one layer. This version has 1 only."));
    v("pipeline_parallel_degree", &Parallelism::pipeline_parallel_degree,
      degree("Stages of the pipeline. This version has 1 only."));
    v("context_parallel_degree", &Parallelism::context_parallel_degree,
      degree("Ranks that share one sequence. This version has 1 only."));
    v("expert_parallel_degree", &Parallelism::expert_parallel_degree,
      degree("Ranks that share the experts. This version has 1 only."));
  }
  friend bool operator==(const Parallelism&, const Parallelism&) = default;
};

}  // namespace furrow::config
