#include "furrow/plan/compatibility.h"

#include <fmt/format.h>

#include "furrow/base/error.h"

namespace furrow::plan {
namespace {

struct Row {
  Axis axis;
  std::string_view key;     // of [parallelism]
  std::string_view reason;  // "" where programs are compiled for it
};

constexpr Row kRows[] = {
    {Axis::kPipeline, "pipeline_parallel_degree", ""},
    {Axis::kReplicate, "data_parallel_replicate_degree", ""},
    {Axis::kShard, "data_parallel_shard_degree", ""},
    {Axis::kContext, "context_parallel_degree", "attention does not pass keys and values between ranks yet"},
    {Axis::kTensor, "tensor_parallel_degree", "no unit is cut inside yet"},
    {Axis::kExpert, "expert_parallel_degree", "there is no unit with experts yet"},
};

// The layout with the ranks of the axes that are refused given to dp_shard.
std::string nearest(const Layout& layout) {
  int shards = layout.degree(Axis::kShard);
  for (const Row& row : kRows) {
    if (!row.reason.empty()) shards *= layout.degree(row.axis);
  }
  const int stages = layout.degree(Axis::kPipeline);
  return fmt::format("{}dp_replicate {} x dp_shard {}", stages > 1 ? fmt::format("pp {} x ", stages) : "",
                     layout.degree(Axis::kReplicate), shards);
}

}  // namespace

void require_compilable(const Layout& layout) {
  for (const Row& row : kRows) {
    if (row.reason.empty() || layout.degree(row.axis) == 1) continue;
    throw Error(ErrorCode::kUnimplemented,
                fmt::format("[parallelism] {} is {}: {}; the nearest layout of {} ranks is {}", row.key,
                            layout.degree(row.axis), row.reason, layout.world(), nearest(layout)));
  }
}

Layout compilable_layout(const config::Parallelism& parallelism, int world) {
  const Layout layout = layout_from(parallelism, world);
  require_compilable(layout);
  return layout;
}

}  // namespace furrow::plan
