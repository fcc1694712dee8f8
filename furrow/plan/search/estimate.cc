// Pass `estimate`: the seconds of a step in closed form.
//
//   a rank's computing (and computing again), beside what its ZeRO stage gathers and reduces in every turn,
//   through the pipeline's order, then what is left to reduce after the last turn, the optimizer, and
//   parameters gathered anew.
//
// Exact sums of bytes, no queues: good enough to tell which few dozens of thousands to simulate.
#include <algorithm>
#include <cmath>

#include "furrow/plan/search/state.h"
#include "furrow/plan/value_bytes.h"

namespace furrow::plan::search_internal {
namespace {

class Estimator {
 public:
  // `least`: what the tail is if everything is computed again, where more of it is hidden.
  Estimator(State* state, Plan* plan, bool least)
      : state_(*state),
        least_(least),
        plan_(*plan),
        choice_(plan->candidate.choice),
        pipeline_(*plan->pipeline),
        model_(state->model(choice_)),
        table_(state->table(choice_)) {
    placement_.layout = choice_.layout;
    placement_.zero_stage = choice_.zero_stage;
  }

  void run() {
    const auto ranks = static_cast<int32_t>(pipeline_.held.size());
    double busiest = 0, base = 0, tail = 0, computing = 0, wire = 0, hidden_busiest = 0;
    for (int32_t rank = 0; rank < ranks; ++rank) {
      const Work work = work_of_rank(rank);
      const double busy = work.turn_s * pipeline_.turns;
      busiest = std::max(busiest, busy);
      hidden_busiest = std::max(hidden_busiest, work.compute_s * pipeline_.turns);
      base = std::max(base, pipeline_.busy_s[rank]);
      tail = std::max(tail, work.tail_s);
      computing += work.compute_s * pipeline_.turns;
      wire += work.wire_bytes;
    }
    const double order = base > 0 ? pipeline_.makespan_s / base : 1;  // what waiting stretches computing to
    const double body = busiest * order;
    Figures& figures = plan_.candidate.figures;
    set_step(state_, choice_, body + tail + pipeline_.turns * table_.batch_s, &figures);
    figures.bubble = body > 0 ? 1 - computing / (ranks * body) : 0;
    figures.exposed_communication =
        (busiest - hidden_busiest + std::max(0.0, tail - step_seconds_)) / figures.step_s;
    const double alike = choice_.layout.data_ranks() * choice_.layout.degree(Axis::kTensor);
    const double inside = choice_.layout.degree(Axis::kTensor) * table_.inside_bytes * microbatches(choice_);
    figures.wire_bytes = alike * wire + transfers() + inside;
    plan_.score = score_of(state_.request, plan_.candidate);
  }

 private:
  struct Work {
    double compute_s = 0;   // of a turn
    double turn_s = 0;      // of a turn, with what communication adds to it
    double tail_s = 0;      // once, after the last turn
    double wire_bytes = 0;  // received in a step
  };

  struct Exchange {
    double seconds = 0;
    double bytes = 0;  // received by a member
  };

  // Of one buffer over an axis.  Units that follow one another are mostly alike: what the last one took is
  // kept.
  struct Exchanges {
    Op op;
    GroupAxis axis;
    int64_t last_bytes = -1;
    Exchange last = {};
  };

  Exchange exchange(Exchanges* of, int64_t bytes) {
    const double n = of->axis == GroupAxis::kShard ? placement_.shards() : placement_.replicas();
    if (n < 2) return {};
    if (bytes != of->last_bytes) {
      of->last_bytes = bytes;
      of->last = {state_.exchange_seconds(placement_, of->op, of->axis, bytes),
                  static_cast<double>(bytes) * (n - 1) / n};
    }
    return of->last;
  }

  // Communication beside computing, or by the thread that computes.
  double together(double compute, double communication) const {
    return state_.cluster.inline_inside ? compute + communication : std::max(compute, communication);
  }

  Work work_of_rank(int32_t rank) {
    Work work;
    for (const Held& stage : pipeline_.held[rank]) {
      const Range& units = pipeline_.stages[stage.stage];
      for (int32_t u = units.end; u-- > units.begin;) add_unit(u, &work);
      if (units.end == state_.units()) {
        work.compute_s += table_.loss_s;
        work.turn_s += table_.loss_s;
      }
    }
    finish(&work);
    return work;
  }

  void add_unit(int32_t u, Work* work) {
    const double again = choice_.recompute[u] ? table_.forward_s[u] : 0;
    const double forward = table_.forward_s[u], backward = table_.input_s[u] + table_.weight_s[u] + again;
    const int64_t bytes = model_.flat_bytes[u];
    const int64_t gradient = model_.gradient_bytes[u] + model_.use_bytes[u];
    work->compute_s += forward + backward;
    Exchange gather, reduce;
    if (choice_.zero_stage == 3) gather = exchange(&gather_, bytes);
    if (choice_.zero_stage >= 2) reduce = exchange(&reduce_, gradient);
    work->turn_s += together(forward, gather.seconds) + together(backward, gather.seconds + reduce.seconds);
    work->wire_bytes += pipeline_.turns * (2 * gather.bytes + reduce.bytes);
    add_tail(u, backward, work);
  }

  // Reduced once a step, beside what is left of the last turn's backward; then stepped and gathered.
  void add_tail(int32_t u, double backward, Work* work) {
    const int64_t trained = model_.gradient_bytes[u], gradient = trained + model_.use_bytes[u];
    Exchange once;
    const auto add = [&](Exchanges* of, int64_t size) {
      const Exchange part = exchange(of, size);
      once.seconds += part.seconds;
      once.bytes += part.bytes;
    };
    const int shards = choice_.zero_stage > 0 ? choice_.layout.degree(Axis::kShard) : 1;
    if (choice_.zero_stage == 1) add(&reduce_, gradient);
    add(&reduce_replicas_, gradient / shards);
    add(&gather_replicas_, gradient / shards);
    computed_s_ += backward + (least_ && !choice_.recompute[u] ? table_.forward_s[u] : 0);
    sent_s_ = std::max(sent_s_, state_.cluster.inline_inside ? 0 : computed_s_) + once.seconds;
    work->wire_bytes += once.bytes;
    if (model_.facts.flat.units[u].offload) {
      host_s_ += host_step_seconds(state_.costs, (trained + 2 * model_.optimizer_bytes[u]) / shards) +
                 host_copy_seconds(state_.costs, trained / shards) +
                 host_copy_seconds(state_.costs, model_.updated_bytes[u] / shards);
    } else {
      step_bytes_ += (3 * trained + 2 * model_.optimizer_bytes[u]) / shards;
    }
    if (choice_.zero_stage == 1 || choice_.zero_stage == 2) {
      const Exchange updated = exchange(&update_, model_.updated_bytes[u]);
      updated_s_ += updated.seconds;
      work->wire_bytes += updated.bytes;
    }
  }

  void finish(Work* work) {
    const double left = state_.cluster.inline_inside ? sent_s_ : std::max(0.0, sent_s_ - computed_s_);
    step_seconds_ = host_s_ + state_.costs.flat_seconds(Op::kStep, step_bytes_);
    work->tail_s = left + step_seconds_ + updated_s_;
    computed_s_ = sent_s_ = updated_s_ = host_s_ = 0;
    step_bytes_ = 0;
  }

  // Activations and gradients between stages on different ranks.
  double transfers() const {
    double bytes = 0;
    for (size_t s = 1; s < pipeline_.stages.size(); ++s) {
      if (pipeline_.rank_of_stage[s] == pipeline_.rank_of_stage[s - 1]) continue;
      bytes += 2.0 * static_cast<double>(table_.out_bytes[pipeline_.stages[s].begin - 1]);
    }
    return bytes * microbatches(choice_) * choice_.layout.degree(Axis::kTensor);
  }

  State& state_;
  const bool least_;
  Plan& plan_;
  const Choice& choice_;
  const Pipeline& pipeline_;
  const Model& model_;
  const UnitTable& table_;
  Placement placement_;
  Exchanges gather_{Op::kGatherParams, GroupAxis::kShard}, reduce_{Op::kReduceGrads, GroupAxis::kShard},
      update_{Op::kGatherUpdated, GroupAxis::kShard},
      reduce_replicas_{Op::kReduceGrads, GroupAxis::kReplicate},
      gather_replicas_{Op::kGatherGrads, GroupAxis::kReplicate};
  double computed_s_ = 0, sent_s_ = 0, updated_s_ = 0, step_seconds_ = 0;
  int64_t step_bytes_ = 0;
  double host_s_ = 0;  // of units that the host steps
};

}  // namespace

double score_of(const SearchRequest& request, const Candidate& candidate) {
  const double samples = candidate.figures.samples_per_second * candidate.figures.step_s;
  const bool priced = request.objective == Objective::kCost && candidate.figures.paid() > 0;
  return (priced ? candidate.figures.paid() : candidate.figures.step_s) / samples;
}

void estimate(State* state, Plan* plan) { Estimator(state, plan, false).run(); }

double least_estimate(State* state, Plan plan) {
  Estimator(state, &plan, true).run();
  return plan.score;
}

void set_step(const State& state, const Choice& choice, double step_s, Figures* figures) {
  figures->step_s = step_s;
  figures->samples_per_second = static_cast<double>(samples_of_step(choice)) / step_s;
  const double hosts_hours = state.cluster.hosts * step_s / 3600;
  figures->cost = hosts_hours * state.cluster.price.on_demand_per_host_hour;
  figures->spot_cost = hosts_hours * state.cluster.price.spot_per_host_hour;
}

void estimate_times(State* state) {
  for (Plan& plan : state->plans) estimate(state, &plan);
}

}  // namespace furrow::plan::search_internal
