// What a layout needs of a device, in closed form: flat buffers by ZeRO stage, activations by what the
// schedule holds.  Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter
// Models", 2020, for the first; the compiled program's own figures replace it for the candidates that are
// simulated. And the pass `recompute`: units that are computed again, as few seconds of them as fit.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <numeric>
#include <set>
#include <utility>

#include "furrow/base/text.h"
#include "furrow/plan/model_states.h"
#include "furrow/plan/search/state.h"
#include "furrow/plan/value_bytes.h"

namespace furrow::plan::search_internal {
namespace {

// Gradient nodes of a unit that wait for others at most, as the tree adds up turns one by one: as many as the
// most ones that a number below `turns` has in base two.
int32_t waiting_nodes(int32_t turns) { return std::bit_width(static_cast<uint32_t>(turns)) - 1; }

// Memory of one rank of a pipeline.
class RankMemory {
 public:
  RankMemory(State* state, const Plan& plan, int32_t rank)
      : state_(*state),
        choice_(plan.candidate.choice),
        pipeline_(*plan.pipeline),
        model_(state->model(choice_)),
        table_(state->table(choice_)),
        buckets_(state->buckets(choice_)),
        rank_(rank) {
    shards_ = choice_.zero_stage > 0 ? choice_.layout.degree(Axis::kShard) : 1;
  }

  int64_t bytes() const {
    return flat() + static_cast<int64_t>(activations()) + state_.costs.workspace_bytes() + table_.axis_bytes;
  }

  int64_t flat() const {
    int64_t whole = 0, gradients = 0, optimizer = 0, largest = 0, uses = 0, foreign = 0;
    int64_t together = 0;  // of a bucket, as far as it has come
    int32_t bucket = -1;
    for_each_unit([&](int32_t u) {
      whole += model_.flat_bytes[u];
      gradients += model_.gradient_bytes[u];
      if (!model_.facts.flat.units[u].offload) optimizer += model_.optimizer_bytes[u];
      const int32_t of = buckets_.empty() ? u : buckets_[u];
      if (std::exchange(bucket, of) != of) together = 0;
      together += model_.flat_bytes[u] + model_.use_bytes[u];
      largest = std::max(largest, together);
      uses += model_.use_bytes[u];
    });
    for (const TiedUse& use : model_.facts.flat.tied) {
      if (holds(use.user_unit) && !holds(use.owner_unit)) foreign += model_.flat_bytes[use.owner_unit];
    }
    const StateBytes all{static_cast<double>(whole), static_cast<double>(gradients),
                         static_cast<double>(optimizer)};
    const double kept = model_state_bytes(1, all, choice_.zero_stage, shards_);
    return static_cast<int64_t>(kept) + foreign + gathered(whole, largest) + nodes(gradients, uses, largest) +
           in_float32();
  }

  double activations() const {
    double most = 0, transient = 0;
    for_each_unit([&](int32_t u) {
      const int64_t out = table_.out_bytes[u], again = choice_.recompute[u] ? table_.saved_bytes[u] + out : 0;
      const int64_t given = u + 1 == state_.units() ? out : 0;  // the loss' gradient is there since then
      transient = std::max(transient, static_cast<double>(table_.work_bytes[u] + again - given));
    });
    const std::vector<TurnBytes> stages = turn_bytes();
    for (const HeldInOrder& order : pipeline_.held) {
      double held = 0;
      for (const Moment& moment : order.moments[rank_]) held = std::max(held, bytes_of(moment, stages));
      most += order.weight * held;
    }
    return most + transient + travelling();
  }

  // What computing a unit again sets free.
  double freed(int32_t u) const {
    const std::vector<int32_t>& stages = pipeline_.stages_of_rank[rank_];
    for (size_t s = 0; s < stages.size(); ++s) {
      const Range& units = pipeline_.stages[stages[s]];
      if (u >= units.begin && u < units.end)
        return most_turns(s) * static_cast<double>(table_.saved_bytes[u]);
    }
    return 0;
  }

  template <class F>
  void for_each_unit(F&& take) const {
    for (const int32_t stage : pipeline_.stages_of_rank[rank_]) {
      for (int32_t u = pipeline_.stages[stage].begin; u < pipeline_.stages[stage].end; ++u) take(u);
    }
  }

 private:
  // Of a turn of a stage.
  struct TurnBytes {
    double forward = 0, deferred = 0;
  };

  // What is received before it is needed, and what is sent until it has arrived.
  double travelling() const {
    double bytes = 0;
    for (const int32_t stage : pipeline_.stages_of_rank[rank_]) {
      const Range& units = pipeline_.stages[stage];
      double own = 0;
      if (units.begin > 0) own += static_cast<double>(table_.out_bytes[units.begin - 1]);
      if (units.end < state_.units()) own += static_cast<double>(table_.out_bytes[units.end - 1]);
      bytes = std::max(bytes, own);
    }
    return bytes;
  }

  // By stage of the rank.  Without a backward (a teacher, what is frozen below all that trains) nothing is
  // kept but the batch.
  std::vector<TurnBytes> turn_bytes() const {
    std::vector<TurnBytes> bytes;
    for (const int32_t stage : pipeline_.stages_of_rank[rank_]) {
      TurnBytes& turn = bytes.emplace_back();
      const Range& units = pipeline_.stages[stage];
      for (int32_t u = units.begin; u < units.end; ++u) {
        const auto in = static_cast<double>(in_bytes(u));
        if (model_.facts.units[u].backward_phase >= 0) {
          turn.forward += in + (choice_.recompute[u] ? 0 : static_cast<double>(table_.saved_bytes[u]));
          turn.deferred += in + static_cast<double>(table_.deferred_bytes[u]);
        } else if (u == 0) {
          turn.forward += in;
        }
      }
      // What follows holds the outputs of the others, as its input.
      const int32_t last = units.end - 1;
      if (!choice_.recompute[last]) turn.forward += static_cast<double>(table_.out_bytes[last]);
      // The loss follows its forward, and its gradient waits for backward.
      if (units.end == state_.units()) turn.forward += static_cast<double>(table_.out_bytes[last]);
    }
    return bytes;
  }

  static double bytes_of(const Moment& moment, const std::vector<TurnBytes>& stages) {
    double bytes = 0;
    for (size_t s = 0; s < moment.size(); ++s)
      bytes += moment[s].forward * stages[s].forward + moment[s].deferred * stages[s].deferred;
    return bytes;
  }

  // Of a stage of the rank, between F and its backward.
  double most_turns(size_t stage) const {
    double turns = 0;
    for (const HeldInOrder& order : pipeline_.held) {
      int32_t most = 0;
      for (const Moment& moment : order.moments[rank_]) most = std::max(most, moment[stage].forward);
      turns += order.weight * most;
    }
    return turns;
  }

  int64_t in_bytes(int32_t u) const {
    const int32_t source = model_.facts.units[u].source;
    return source >= 0 ? table_.out_bytes[source] : table_.batch_bytes;
  }

  bool holds(int32_t unit) const {
    bool found = false;
    for_each_unit([&](int32_t u) { found = found || u == unit; });
    return found;
  }

  // Whole parameters of the units at work.
  int64_t gathered(int64_t whole, int64_t largest) const {
    if (choice_.zero_stage < 3) return 0;
    if (state_.request.ranks.reshard == Reshard::kNever) return whole;
    return std::min<int64_t>(whole, (2 + state_.request.ranks.prefetch_units) * largest);
  }

  // Gradients besides the final one.  Under ZeRO-2 and 3 a turn's gradient is reduced at once; else it is
  // added up whole.  The owner's gradient and those of uses are added at the end.
  int64_t nodes(int64_t gradients, int64_t uses, int64_t largest) const {
    const int64_t all = gradients + uses;
    const int32_t more = std::max(1, waiting_nodes(pipeline_.turns)) - 1;
    const int64_t leaf = pipeline_.turns > 1 ? one_of_each_size() * model_.facts.flat.gradient_bytes() : 0;
    if (choice_.zero_stage >= 2) return (more * all + uses + leaf) / shards_ + 2 * largest;
    const int64_t shard = choice_.zero_stage == 1 ? all / shards_ : 0;
    const int replicas = choice_.layout.degree(Axis::kReplicate);
    const int64_t pieces = replicas > 1 ? all / shards_ / replicas : 0;
    return more * all + uses + leaf + shard + pieces;
  }

  // Elements of gradients.  Units of one size share a buffer.
  int64_t one_of_each_size() const {
    std::set<int64_t> sizes;
    for_each_unit([&](int32_t u) { sizes.insert(model_.facts.flat.units[u].trained_elements); });
    return std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
  }

  // Of gradients of 16 bits: a microbatch's before it is rounded, and what a shard is stepped with.
  int64_t in_float32() const {
    if (!model_.facts.flat.rounds_gradients()) return 0;
    const int64_t leaves = one_of_each_size() * kFloatBytes;
    return leaves + (shards_ > 1 ? leaves / shards_ : 0);
  }

  const State& state_;
  const Choice& choice_;
  const Pipeline& pipeline_;
  const Model& model_;
  const UnitTable& table_;
  const std::vector<int32_t>& buckets_;
  int32_t rank_ = 0;
  int shards_ = 1;
};

std::string gib(int64_t bytes) { return format_fixed(static_cast<double>(bytes) / (1 << 30), 1); }

// Units of a rank that are computed again until it fits: those that free most for a second come first.
bool recompute_until_fits(State* state, Plan* plan, int32_t rank) {
  std::vector<bool>& recompute = plan->candidate.choice.recompute;
  const RankMemory memory(state, *plan, rank);
  const UnitTable& table = state->table(plan->candidate.choice);
  std::vector<int32_t> units;
  memory.for_each_unit([&](int32_t u) {
    if (!recompute[u] && table.saved_bytes[u] > 0) units.push_back(u);
  });
  const auto worth = [&](int32_t u) { return memory.freed(u) / std::max(table.forward_s[u], 1e-12); };
  std::ranges::stable_sort(units, [&](int32_t a, int32_t b) { return worth(a) > worth(b); });
  for (const int32_t u : units) {
    if (memory.bytes() <= state->memory_bytes) return true;
    recompute[u] = true;
  }
  return memory.bytes() <= state->memory_bytes;
}

int64_t most(const std::vector<int64_t>& bytes) { return *std::ranges::max_element(bytes); }

}  // namespace

std::vector<int64_t> memory_of(State* state, const Plan& plan) {
  std::vector<int64_t> bytes;
  const auto ranks = static_cast<int32_t>(plan.pipeline->stages_of_rank.size());
  for (int32_t rank = 0; rank < ranks; ++rank) bytes.push_back(RankMemory(state, plan, rank).bytes());
  return bytes;
}

// The mean of all ranks is no more than the most; nor is what the rank of the largest unit needs for it.  One
// rank needs both.
int64_t least_memory_of(State* state, const Choice& choice) {
  const ModelTotals& all = state->model(choice).totals;
  const ActivationTotals& activations = state->table(choice).totals;
  const double ranks = choice.layout.degree(Axis::kPipeline);
  const double shards = choice.zero_stage > 0 ? choice.layout.degree(Axis::kShard) : 1;
  const StateBytes states{all.flat_bytes, all.gradient_bytes, all.optimizer_bytes};
  const double nodes = (std::max(1, waiting_nodes(turns_of(choice))) - 1) *
                       (all.gradient_bytes + all.use_bytes) / (choice.zero_stage >= 2 ? shards : 1);
  const double mean =
      (model_state_bytes(1, states, choice.zero_stage, static_cast<int>(shards)) + nodes) / ranks;
  const double largest = (choice.zero_stage >= 2 ? 2 : 0) * all.largest_bytes;
  const double least = ranks == 1
                           ? mean + largest + activations.in_bytes + activations.most_bytes
                           : std::max(mean + activations.least_bytes, largest + activations.most_bytes);
  return static_cast<int64_t>(least * (1 - 1e-9)) + state->costs.workspace_bytes() +
         state->table(choice).axis_bytes;
}

void choose_recompute(State* state) {
  const bool on = !state->is_off("recompute");
  std::vector<Plan> plans = std::move(state->plans);
  state->plans.clear();
  for (Plan& plan : plans) {
    bool fits = most(memory_of(state, plan)) <= state->memory_bytes;
    if (!fits && on && !plan.candidate.configured) {
      fits = true;
      const auto ranks = static_cast<int32_t>(plan.pipeline->stages_of_rank.size());
      for (int32_t rank = 0; rank < ranks && fits; ++rank) fits = recompute_until_fits(state, &plan, rank);
      state->fit_by_recompute += fits ? 1 : 0;
    }
    plan.candidate.figures.memory_bytes = most(memory_of(state, plan));
    if (fits || plan.candidate.configured) {
      state->plans.push_back(std::move(plan));
      continue;
    }
    Candidate candidate = std::move(plan.candidate);
    candidate.reason =
        fmt::format("needs {} GiB of {}", gib(candidate.figures.memory_bytes), gib(state->memory_bytes));
    state->too_large.push_back(std::move(candidate));
  }
  state->notes.push_back(fmt::format("{} fit because units are computed again, {} do not fit",
                                     state->fit_by_recompute, state->too_large.size()));
}

}  // namespace furrow::plan::search_internal
