// What the layout of a config leaves to be chosen, as the planner chooses it.  Torch-free.
#pragma once

#include <cstdint>
#include <string>

#include "furrow/config/config.h"
#include "furrow/plan/cost.h"
#include "furrow/plan/layout.h"
#include "furrow/plan/model_spec.h"
#include "furrow/plan/search.h"

namespace furrow::train {

// Everything but costs and options: what the config says of batches, optimizer, ranks.  `spec`, of the whole
// model, must outlive it.
plan::SearchRequest search_request(const config::Config& config, const plan::ModelSpec& spec);

// [parallelism] and [activation_checkpoint] as they stand.
plan::Choice configured_choice(const config::Config& config, const plan::ModelSpec& spec,
                               const plan::Layout& layout);

// [parallelism] bucket_cap_mb as ranks compile it, RankOptions::bucket_bytes, and a line for people, which is
// empty where nothing was chosen.
struct Buckets {
  int64_t bytes = 0;
  std::string why;
};
bool chooses_buckets(const config::Config& config, const plan::Layout& layout);
// `costs`: of the machine; nullptr where it is one that nobody can tell them of.
Buckets chosen_buckets(const config::Config& config, const plan::ModelSpec& spec, const plan::Layout& layout,
                       const plan::Costs* costs);

}  // namespace furrow::train
