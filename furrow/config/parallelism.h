// [parallelism]: degrees of the mesh axes.  plan::Layout checks their product.
#pragma once

#include <cstdint>

#include "furrow/config/field.h"

namespace furrow::config {

struct Parallelism {
  int64_t data_parallel_replicate_degree = 1;
  int64_t data_parallel_shard_degree = 1;
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
             "number of ranks, "
             "which is 1 in this version."));
    v("data_parallel_shard_degree", &Parallelism::data_parallel_shard_degree,
      degree("Ranks that share one copy's parameters, gradients and optimizer state."));
    v("tensor_parallel_degree", &Parallelism::tensor_parallel_degree, degree("Ranks that share one layer."));
    v("pipeline_parallel_degree", &Parallelism::pipeline_parallel_degree, degree("Stages of the pipeline."));
    v("context_parallel_degree", &Parallelism::context_parallel_degree,
      degree("Ranks that share one sequence."));
    v("expert_parallel_degree", &Parallelism::expert_parallel_degree,
      degree("Ranks that share the experts."));
  }
  friend bool operator==(const Parallelism&, const Parallelism&) = default;
};

}  // namespace furrow::config
