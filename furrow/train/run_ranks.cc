// What a run does besides where it shares the work with other ranks.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/base/version.h"
#include "furrow/config/difference.h"
#include "furrow/models/precision.h"
#include "furrow/observe/run_folder.h"
#include "furrow/plan/quote.h"
#include "furrow/plan/slices.h"
#include "furrow/tensor/arithmetic.h"
#include "furrow/tensor/composition_torch.h"
#include "furrow/tensor/flat_buffer_torch.h"
#include "furrow/train/library_build.h"
#include "furrow/train/rank_texts.h"
#include "furrow/train/run_torch.h"

namespace furrow::train {
std::string layout_text(const plan::Layout& layout) {
  const int stages = layout.degree(plan::Axis::kPipeline);
  const int parts = layout.degree(plan::Axis::kTensor);
  return fmt::format("{}dp_replicate {}, dp_shard {}{}", stages > 1 ? fmt::format("pp {}, ", stages) : "",
                     layout.degree(plan::Axis::kReplicate), layout.degree(plan::Axis::kShard),
                     parts > 1 ? fmt::format(", tp {}", parts) : "");
}

void Run::check_same_everywhere() const {
  if (bench_.rank.alone()) return;
  const auto own = [this] {
    return fmt::format("[furrow]\nversion = {}\ncommit = {}\n\n{}", furrow_version(), furrow_git_commit(),
                       config::to_toml(bench_.config));
  };
  const std::vector<std::string> all = texts_of_all(bench_.rank.world(), "config", own);
  for (size_t r = 1; r < all.size(); ++r) {
    if (all[r] == all[0]) continue;
    const auto [key, mine, theirs] =
        config::first_difference(all[0], all[r]).value_or(config::Difference{"text", "another", "another"});
    throw Error(
        ErrorCode::kFailedPrecondition,
        fmt::format("rank {} has {} = {}, but rank 0 has {} = {}: start every rank with one binary and "
                    "one config",
                    r, key, theirs, key, mine));
  }
}

// What bits depend on that no configuration says.  A rank that differs is only seen here: its numbers are as
// good as any, but not those of one process.
void Run::check_same_arithmetic() {
  if (bench_.rank.alone()) return;
  const auto own = [this] {
    const DType precision = models::lowest_precision(bench_.spec);
    return fmt::format("instruction set {}\n{}\n{} threads", tensor::instruction_set_of(precision),
                       library_build(), bench_.rank.threads);
  };
  const std::vector<std::string> all = texts_of_all(bench_.rank.world(), "arithmetic", own);
  const std::vector<std::string> zero = split(all[0], '\n');
  for (size_t r = 1; r < all.size() && unlike_.empty(); ++r) {
    const std::vector<std::string> other = split(all[r], '\n');
    const auto [mine, theirs] = std::ranges::mismatch(zero, other);
    if (theirs != other.end())
      unlike_ = fmt::format("rank {} computes with {}, rank 0 with {}", r, *theirs, *mine);
  }
  if (unlike_.empty() || bench_.config.debug.deterministic != "strict") return;
  throw Error(
      ErrorCode::kFailedPrecondition,
      fmt::format("{}, and [debug] deterministic = \"strict\" promises the bits of one process: start all "
                  "ranks on one kind of machine, with one libtorch and as many threads each ([training] "
                  "threads), or set it to \"auto\"",
                  unlike_));
}

// Ranks may have been started in other folders than rank 0.
void Run::open_folder() {
  const auto open = [this] {
    const bool goes_on = request_.resume && observe::holds_run(request_.run_folder);
    folder_.emplace(goes_on ? observe::RunFolder::resume(request_.run_folder)
                            : observe::RunFolder::create(request_.run_folder));
    return std::filesystem::absolute(folder_->path()).string();
  };
  run_folder_ = bench_.rank.alone() ? open() : text_of_first(bench_.rank.world(), "run folder", open);
  if (!first()) return;
  run_folder_ = folder_->path();
  sinks_.emplace(&*folder_, request_.sinks);
}

std::vector<UnitState> Run::whole_unit(int unit) const {
  std::vector<UnitState> parts;
  for (int rank = 0; rank < layout_.degree(plan::Axis::kTensor); ++rank)
    parts.push_back(whole_part(unit, rank));
  return parts;
}

// From the ranks of the first replica that have the unit, stages and shards, to rank 0.
UnitState Run::whole_part(int unit, int tensor_rank) const {
  const plan::Placement& placement = trainer_->program().placement;
  const plan::UnitLayout& layout = model_->flat().units[static_cast<size_t>(unit)];
  // Masters are where their optimizer is.
  const plan::Part part = layout.masters() > 0 ? placement.step_part() : placement.params_part();
  const std::vector<int> ranks = plan::ranks_with(placement, unit, part, tensor_rank);
  const plan::Slice own = plan::part_slice(model_->flat(), placement, {unit, 0}, part);
  const bool has = std::ranges::find(ranks, bench_.rank.rank) != ranks.end();
  UnitState whole{has && own.size() > 0 ? tensor::on_host(model_->values(unit, own)) : at::Tensor(),
                  {},
                  model_->unit(unit).statistics};
  if (ranks == std::vector<int>{0} || layout.elements == 0) return whole;
  const at::Tensor values = whole.params;
  if (first()) whole.params = tensor::flat_buffer(layout.elements, MemoryKind::kCheckpoint);
  for (const int rank : ranks) {
    const plan::Slice slice =
        plan::part_slice(model_->flat(), plan::placement_of(placement, rank), {unit, 0}, part);
    if (slice.size() == 0) continue;
    bring(unit, rank, values, first() ? whole.params.narrow(0, slice.begin, slice.size()) : at::Tensor());
  }
  if (layout.statistic_elements == 0 || ranks[0] == 0 || tensor_rank > 0) return whole;
  if (first()) whole.statistics = tensor::flat_buffer(layout.kept_statistics(), MemoryKind::kCheckpoint);
  bring(unit, ranks[0], model_->unit(unit).statistics, whole.statistics);
  return whole;
}

// `own` of `rank`, to `place` on rank 0.
void Run::bring(int unit, int rank, const at::Tensor& own, const at::Tensor& place) const {
  if (rank != bench_.rank.rank && !first()) return;
  const std::string label = "export " + bench_.spec.units[static_cast<size_t>(unit)].name;
  const auto floats = [](const at::Tensor& t) {
    return std::span<float>(t.data_ptr<float>(), static_cast<size_t>(t.numel()));
  };
  comm::Group world = bench_.rank.world();
  if (!first()) return world.send<float>(floats(own), 0, label);
  if (rank != 0) return world.recv<float>(floats(place), rank, label);
  at::Tensor(place).copy_(own);
}

void Run::audit() {
  observe::RankAudit audit;  // of one rank: the layout alone
  if (!bench_.rank.alone()) audit = ledger_.audit(bench_.rank);
  audit.sums = sums_of_gradients(bench_.rank, model_->flat().reduce);
  audit.layout = layout_text(layout_);
  measured_.bubble = audit.bubble.value_or(0);
  if (layout_.degree(plan::Axis::kPipeline) == 1) audit.bubble.reset();
  audit.deterministic = deterministic_;
  audit_ = std::move(audit);
}

}  // namespace furrow::train
