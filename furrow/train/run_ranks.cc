// What a run does besides where it shares the work with other ranks.
#include <fmt/format.h>

#include <sstream>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/version.h"
#include "furrow/plan/quote.h"
#include "furrow/plan/slices.h"
#include "furrow/tensor/flat_buffer_torch.h"
#include "furrow/train/rank_texts.h"
#include "furrow/train/run_torch.h"

namespace furrow::train {
namespace {

// The first line of `other` that `own` does not have at that place.
std::string first_difference(const std::string& own, const std::string& other) {
  std::istringstream a(own), b(other);
  std::string mine, theirs;
  while (true) {
    const bool more_a = static_cast<bool>(std::getline(a, mine));
    const bool more_b = static_cast<bool>(std::getline(b, theirs));
    if (!more_a && !more_b) return "";
    if (!more_a) mine.clear();
    if (!more_b) theirs.clear();
    if (mine != theirs) return fmt::format("'{}' and '{}'", mine, theirs);
  }
}

}  // namespace

std::string layout_text(const plan::Layout& layout) {
  const int stages = layout.degree(plan::Axis::kPipeline);
  return fmt::format("{}dp_replicate {}, dp_shard {}", stages > 1 ? fmt::format("pp {}, ", stages) : "",
                     layout.degree(plan::Axis::kReplicate), layout.degree(plan::Axis::kShard));
}

void Run::check_same_everywhere() const {
  if (bench_.rank.alone()) return;
  const auto own = [this] {
    return fmt::format("furrow {} {}\n{}", furrow_version(), furrow_git_commit(),
                       config::to_toml(bench_.config));
  };
  const std::vector<std::string> all = texts_of_all(bench_.rank.world(), "config", own);
  for (size_t r = 1; r < all.size(); ++r) {
    if (all[r] == all[0]) continue;
    throw Error(
        ErrorCode::kFailedPrecondition,
        fmt::format("ranks 0 and {} do not run the same: {}. Start every rank with one binary and one "
                    "config",
                    r, first_difference(all[0], all[r])));
  }
}

void Run::open_folder() {
  const auto open = [this] {
    folder_.emplace(request_.resume ? observe::RunFolder::resume(request_.run_folder)
                                    : observe::RunFolder::create(request_.run_folder));
    return folder_->path();
  };
  run_folder_ = bench_.rank.alone() ? open() : text_of_first(bench_.rank.world(), "run folder", open);
  if (first()) sinks_.emplace(&*folder_, request_.sinks);
}

// Unit by unit, from the ranks of the first replica that have it to rank 0.
std::vector<UnitState> Run::whole_parameters() const {
  const plan::Placement& placement = trainer_->program().placement;
  const auto live = model_->units();
  if (placement.params_part() == plan::Part::kWhole && placement.pipeline_ranks() == 1)
    return {live.begin(), live.end()};
  std::vector<UnitState> whole(live.size());
  for (size_t u = 0; u < live.size(); ++u) {
    const int64_t elements = model_->flat().units[u].elements;
    if (elements == 0) continue;
    if (first()) whole[u].params = tensor::flat_buffer(elements, MemoryKind::kCheckpoint);
    for (const int rank : plan::ranks_with(placement, static_cast<int32_t>(u))) bring(u, rank, &whole[u]);
  }
  return whole;
}

// What `rank` has of the unit, to rank 0.
void Run::bring(size_t unit, int rank, UnitState* whole) const {
  const plan::Placement& placement = trainer_->program().placement;
  const plan::Slice slice = plan::part_slice(model_->flat(), plan::placement_of(placement, rank),
                                             {static_cast<int>(unit), 0}, placement.params_part());
  if (slice.size() == 0 || (rank != bench_.rank.rank && !first())) return;
  const std::string label = "export " + bench_.spec.units[unit].name;
  const auto floats = [](const at::Tensor& t) {
    return std::span<float>(t.data_ptr<float>(), static_cast<size_t>(t.numel()));
  };
  comm::Group world = bench_.rank.world();
  if (!first()) return world.send<float>(floats(model_->units()[unit].params), 0, label);
  const at::Tensor part = whole->params.narrow(0, slice.begin, slice.size());
  if (rank == 0) {
    part.copy_(model_->units()[unit].params);
  } else {
    world.recv<float>(floats(part), rank, label);
  }
}

void Run::audit() {
  if (bench_.rank.alone()) return;
  const plan::Program& program = trainer_->program();
  observe::RankAudit audit = ledger_.audit(bench_.rank);
  audit.layout = layout_text(layout_);
  audit.deterministic =
      plan::deterministic_line(program.placement, static_cast<int32_t>(program.microbatch_sizes.size()));
  audit_ = std::move(audit);
}

}  // namespace furrow::train
