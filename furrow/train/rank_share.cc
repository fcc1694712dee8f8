#include "furrow/train/rank_share.h"

#include <numeric>
#include <vector>

#include "furrow/plan/share.h"

namespace furrow::train {

data::LoaderOptions loader_options(const plan::Program& program, int64_t position) {
  data::LoaderOptions options;
  const auto k = static_cast<int32_t>(program.microbatch_sizes.size());
  std::vector<int64_t> offsets;
  for (const int64_t size : program.microbatch_sizes) {
    offsets.push_back(options.stride);
    options.stride += size;
  }
  for (const int32_t m : plan::microbatches_of(program.placement, k)) {
    options.sizes.push_back(program.microbatch_sizes[static_cast<size_t>(m)]);
    options.offsets.push_back(offsets[static_cast<size_t>(m)]);
  }
  options.position = position;
  return options;
}

int64_t samples_of(const plan::Program& program) {
  const std::vector<int64_t> sizes = loader_options(program, 0).sizes;
  return std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
}

}  // namespace furrow::train
