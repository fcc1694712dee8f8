#include "furrow/plan/compatibility.h"

#include <fmt/format.h>

#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/plan/tensor_cut.h"
#include "furrow/plan/topology.h"

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
    {Axis::kTensor, "tensor_parallel_degree", ""},  // for some models: compilable_spec()
    {Axis::kExpert, "expert_parallel_degree", "there is no unit with experts yet"},
};

// What is not compiled for models of more than one chain; of a tensor axis refuses_tensor_cut() says so.
struct ChainsRow {
  bool (*asked)(const Layout& layout, const ModelSpec& spec);
  std::string_view reason;
  std::string_view remedy;
};

constexpr ChainsRow kChainsRows[] = {
    {[](const Layout& layout, const ModelSpec& spec) {
       return layout.degree(Axis::kPipeline) > 1 && !is_one_chain(spec);
     },
     "is more than one chain of units, which no pipeline is cut from yet",
     "[parallelism] pipeline_parallel_degree = 1"},
};

// The first row that refuses; null: none does.
const ChainsRow* chains_row(const Layout& layout, const ModelSpec& spec) {
  const auto* const row =
      std::ranges::find_if(kChainsRows, [&](const ChainsRow& each) { return each.asked(layout, spec); });
  return row != std::end(kChainsRows) ? row : nullptr;
}

std::string axes_text(const Layout& layout, int shards, int tensor) {
  const int stages = layout.degree(Axis::kPipeline);
  return fmt::format("{}dp_replicate {} x dp_shard {}{}", stages > 1 ? fmt::format("pp {} x ", stages) : "",
                     layout.degree(Axis::kReplicate), shards,
                     tensor > 1 ? fmt::format(" x tp {}", tensor) : "");
}

// The layout with the ranks of the axes that are refused given to dp_shard.
std::string nearest(const Layout& layout) {
  int shards = layout.degree(Axis::kShard);
  for (const Row& row : kRows) {
    if (!row.reason.empty()) shards *= layout.degree(row.axis);
  }
  return axes_text(layout, shards, layout.degree(Axis::kTensor));
}

// The largest degree below that the model can be cut by, the ranks that are left over given to dp_shard.
std::string nearest_cut(const Layout& layout, const ModelSpec& whole) {
  const int wanted = layout.degree(Axis::kTensor);
  int degree = 1;
  for (int d = 1; d < wanted; ++d) {
    if (wanted % d == 0 && refuses_tensor_cut(whole, d).empty()) degree = d;
  }
  return axes_text(layout, layout.degree(Axis::kShard) * wanted / degree, degree);
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

std::string refuses_chains(const Layout& layout, const ModelSpec& spec) {
  const ChainsRow* row = chains_row(layout, spec);
  return row != nullptr ? fmt::format("model {} {}", spec.architecture, row->reason) : "";
}

void require_compilable(const Layout& layout, const ModelSpec& spec) {
  if (const ChainsRow* row = chains_row(layout, spec)) {
    throw Error(ErrorCode::kUnimplemented,
                fmt::format("{}: set {}", refuses_chains(layout, spec), row->remedy));
  }
}

ModelSpec compilable_spec(const Layout& layout, const ModelSpec& whole) {
  require_compilable(layout, whole);
  const int degree = layout.degree(Axis::kTensor);
  const std::string reason = refuses_tensor_cut(whole, degree);
  if (reason.empty()) return tensor_cut(whole, degree);
  throw Error(
      ErrorCode::kUnimplemented,
      fmt::format("[parallelism] tensor_parallel_degree is {}: {}; the nearest layout of {} ranks is {}",
                  degree, reason, layout.world(), nearest_cut(layout, whole)));
}

Layout compilable_layout(const config::Parallelism& parallelism, int world) {
  const Layout layout = layout_from(parallelism, world);
  require_compilable(layout);
  return layout;
}

}  // namespace furrow::plan
