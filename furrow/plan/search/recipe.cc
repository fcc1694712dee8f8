// Passes `precision` and `batch`: what changes the mathematics, and so is tried only where the recipe may
// change.
#include <fmt/format.h>

#include <algorithm>

#include "furrow/base/text.h"
#include "furrow/plan/search/state.h"

namespace furrow::plan::search_internal {
namespace {

// Global batches beside one that is given, as its parts and multiples: what a run learns from is near.
std::vector<int64_t> global_batches(const BatchRecipe& batch) {
  if (batch.global_batch <= 0) return {batch.global_batch};  // it follows the layout
  std::vector<int64_t> sizes = {batch.global_batch, 2 * batch.global_batch, 4 * batch.global_batch};
  if (batch.global_batch % 2 == 0) sizes.push_back(batch.global_batch / 2);
  return sizes;
}

// Powers of two, and the configured one; none where the global one has no microbatch for every rank.
std::vector<int64_t> local_batches(const BatchRecipe& batch, int64_t global, int ranks) {
  const int64_t most = global > 0 ? global / ranks : batch.local_batch * 8;
  std::vector<int64_t> sizes;
  for (int64_t local = 1; local <= most; local *= 2) {
    if (global <= 0 || global % local == 0) sizes.push_back(local);
  }
  const bool fits = batch.local_batch <= most && (global <= 0 || global % batch.local_batch == 0);
  if (fits && std::ranges::find(sizes, batch.local_batch) == sizes.end()) sizes.push_back(batch.local_batch);
  return sizes;
}

}  // namespace

void choose_precisions(State* state) {
  if (!state->request.allow_recipe_change) return;
  const DeviceSpec& device = state->cluster.device;
  const size_t count = state->plans.size();
  for (const Precision& precision : state->request.precisions) {
    if (device.flops(precision.type) <= device.flops(DType::kF32)) {
      state->notes.push_back(
          fmt::format("{} computes {} no faster than float32", device.name, to_string(precision.type)));
      continue;
    }
    for (size_t i = 0; i < count; ++i) {
      state->plans.push_back(state->plans[i]);
      state->plans.back().candidate.choice.precision = precision.type;
    }
  }
}

void choose_batches(State* state) {
  if (!state->request.allow_recipe_change) {
    state->notes.push_back(
        fmt::format("local_batch_size {} is recipe, and so are precision and global_batch_size: "
                    "--allow-recipe-change tries others",
                    state->request.batch.local_batch));
    return;
  }
  std::vector<Plan> plans = std::move(state->plans);
  state->plans.clear();
  for (Plan& plan : plans) {
    const BatchRecipe batch = plan.candidate.choice.batch;
    const int ranks = plan.candidate.choice.layout.data_ranks();
    const size_t before = state->plans.size();
    for (const int64_t global : global_batches(batch)) {
      for (const int64_t local : local_batches(batch, global, ranks)) {
        state->plans.push_back(plan);
        state->plans.back().candidate.choice.batch = {local, global};
      }
    }
    if (state->plans.size() == before) {
      std::string reason = refusal_of_batch(plan.candidate.choice);
      state->refuse(std::move(plan.candidate), std::move(reason));
    }
  }
}

bool recipe_is_searched(const State& state) {
  return state.request.allow_recipe_change && !state.is_off("batch");
}

bool changes_recipe(const State& state, const Choice& choice) {
  return choice.precision.has_value() || choice.batch != state.request.batch;
}

std::string recipe_change(const SearchRequest& request, const Choice& choice) {
  std::vector<std::string> changes;
  if (choice.batch.local_batch != request.batch.local_batch)
    changes.push_back(fmt::format("local_batch_size {} instead of {}", choice.batch.local_batch,
                                  request.batch.local_batch));
  if (choice.batch.global_batch != request.batch.global_batch)
    changes.push_back(fmt::format("global_batch_size {} instead of {}", choice.batch.global_batch,
                                  request.batch.global_batch));
  if (choice.precision) changes.push_back(fmt::format("{} instead of float32", to_string(*choice.precision)));
  return join(changes, ", ");
}

}  // namespace furrow::plan::search_internal
