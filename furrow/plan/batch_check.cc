#include "furrow/plan/batch_check.h"

#include <fmt/format.h>

#include <numeric>

#include "furrow/base/error.h"

namespace furrow::plan {

void check_microbatches(const std::vector<int64_t>& sizes, const Layout& layout) {
  const auto k = static_cast<int64_t>(sizes.size());
  if (k >= layout.data_ranks()) return;
  const int64_t samples = std::accumulate(sizes.begin(), sizes.end(), int64_t{0}), local = sizes[0];
  throw Error(
      ErrorCode::kInvalidArgument,
      fmt::format(
          "global batch {} / local batch {} = {} microbatches, for dp_replicate {} x dp_shard {} = {} "
          "data ranks: each needs at least one; raise [training] global_batch_size to {}, lower "
          "local_batch_size, or use at most {} ranks",
          samples, local, k, layout.degree(Axis::kReplicate), layout.degree(Axis::kShard),
          layout.data_ranks(), local * layout.data_ranks(), k));
}

}  // namespace furrow::plan
