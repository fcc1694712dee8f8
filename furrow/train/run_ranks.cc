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
  return fmt::format("dp_replicate {}, dp_shard {}", layout.degree(plan::Axis::kReplicate),
                     layout.degree(plan::Axis::kShard));
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

// Shards of rank 0's replica travel to it, unit by unit.
std::vector<UnitState> Run::whole_parameters() const {
  const plan::Placement& placement = trainer_->program().placement;
  const auto live = model_->units();
  // Masters are sharded where their optimizer is.
  const auto is_whole = [&](size_t u) {
    const bool masters = model_->flat().units[u].masters() > 0;
    return (masters ? placement.step_part() : placement.params_part()) == plan::Part::kWhole;
  };
  std::vector<UnitState> whole(live.begin(), live.end());
  if (placement.replica() != 0) return whole;
  if (placement.shards() == 1) return whole;
  comm::Group group = bench_.rank.group(plan::GroupAxis::kShard);
  for (size_t u = 0; u < live.size(); ++u) {
    if (is_whole(u)) continue;
    const plan::FlatBuffer buffer{static_cast<int>(u), 0};
    const auto slices = plan::member_slices(model_->flat(), placement, buffer, plan::GroupAxis::kShard);
    const std::string label = "export " + bench_.spec.units[u].name;
    const at::Tensor& own = live[u].params;
    const auto elements = [](const at::Tensor& t) {
      return std::span<float>(t.data_ptr<float>(), static_cast<size_t>(t.numel()));
    };
    if (group.rank() != 0) {
      if (own.defined()) group.send<float>(elements(own), 0, label);
      continue;
    }
    whole[u].params = tensor::flat_buffer(model_->flat().units[u].elements, MemoryKind::kCheckpoint);
    for (size_t m = 0; m < slices.size(); ++m) {
      if (slices[m].size() == 0) continue;
      const at::Tensor part = whole[u].params.narrow(0, slices[m].begin, slices[m].size());
      if (m == 0) {
        part.copy_(own);
      } else {
        group.recv<float>(elements(part), static_cast<int>(m), label);
      }
    }
  }
  return whole;
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
