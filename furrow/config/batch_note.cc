#include "furrow/config/batch_note.h"

#include <fmt/format.h>

#include "furrow/config/config.h"

namespace furrow::config {

std::string batch_by_ranks(const Training& training, int64_t data_ranks) {
  if (training.global_batch_size > 0 || data_ranks == 1) return "";
  const int64_t global = global_batch_size(training, data_ranks);
  return fmt::format(
      "the recipe depends on the number of ranks: global_batch_size = -1 takes local_batch_size {} for each "
      "of {} data ranks, {} samples a step, so other ranks train otherwise; --training.global_batch_size {} "
      "is "
      "the same on any",
      training.local_batch_size, data_ranks, global, global);
}

}  // namespace furrow::config
