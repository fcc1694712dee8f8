// Pass `estimate`: the seconds of a step in closed form.
//
//   a rank's computing (and computing again, and adding gradients), beside what its ZeRO stage gathers and
//   reduces in every turn, through the pipeline's order, then what is left to reduce after the last turn, the
//   optimizer, and parameters gathered anew.
//
// Beside what a turn's communication is hidden: gathers beside the unit before (pass_prefetch.cc), but for
// the first unit of an action that follows one of its own stage; reductions beside the backward of the unit
// below, or where backward is in two beside its gradients of weights alone (pass_reduce.cc).
//
// Exact sums of bytes, no queues: good enough to tell which few dozens of thousands to simulate.
#include <algorithm>
#include <cmath>
#include <numeric>

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
    placement_.buckets = state->buckets(choice_);
  }

  void run() {
    const auto ranks = static_cast<int32_t>(pipeline_.stages_of_rank.size());
    double busiest = 0, base = 0, tail = 0, computing = 0, wire = 0, hidden_busiest = 0, added = 0;
    for (int32_t rank = 0; rank < ranks; ++rank) {
      const Work work = work_of_rank(rank);
      const double busy = work.turn_s * pipeline_.turns;
      busiest = std::max(busiest, busy);
      hidden_busiest = std::max(hidden_busiest, work.compute_s * pipeline_.turns);
      base = std::max(base, pipeline_.busy_s[rank]);
      tail = std::max(tail, work.tail_s);
      computing += work.compute_s * pipeline_.turns + work.add_s * (pipeline_.turns - 1);
      added = std::max(added, work.add_s);
      wire += work.wire_bytes;
    }
    const double order = base > 0 ? pipeline_.makespan_s / base : 1;  // what waiting stretches computing to
    const double body = busiest * order + adding_seconds(added);
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
    double add_s = 0;       // of its gradients to others
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
    for (const int32_t stage : pipeline_.stages_of_rank[rank]) {
      const Range& units = pipeline_.stages[stage];
      for (int32_t u = units.end; u-- > units.begin;) {
        add_unit(u, &work);
        add_turn(u, stage, &work);
      }
      if (units.end == state_.units()) {
        work.compute_s += table_.loss_s;
        work.turn_s += table_.loss_s;
      }
    }
    finish(&work);
    return work;
  }

  struct Seconds {
    double forward = 0, input = 0, weight = 0;  // of a turn; computing again is `input`'s
    double backward() const { return input + weight; }
  };

  Seconds seconds_of(int32_t u) const {
    const double again = choice_.recompute[u] ? table_.forward_s[u] : 0;
    return {table_.forward_s[u], again + table_.input_s[u], table_.weight_s[u]};
  }

  void add_unit(int32_t u, Work* work) {
    const Seconds seconds = seconds_of(u);
    work->compute_s += seconds.forward + seconds.backward();
    work->add_s += choice_.zero_stage >= 2 ? shard_add_seconds(u) : table_.add_s[u];
    add_tail(u, seconds.backward(), work);
  }

  // A unit's work, and what goes on beside it.
  struct Beside {
    double work = 0;
    double reduces = 0;
    double gathers = 0;    // for what comes next
    double switches = 0;   // share of turns in which that is the same unit, which holds the gather up
    double hidden_by = 0;  // work between, that needs no gathered parameters
  };

  // Whatever the switches, if an order is not known yet.
  double seconds_of(const Beside& of) const {
    const double along = together(of.work, of.reduces + of.gathers);
    if (state_.cluster.inline_inside) return along;
    const double after = together(of.work, of.reduces) + std::max(0.0, of.gathers - of.hidden_by);
    return least_ ? std::min(along, after) : along + of.switches * (after - along);
  }

  // Beside a unit goes what the next unit of its action needs; beside the last what the next action does. And
  // the reduction of the unit above, which is waited for at the end; the lowest's goes on beside other
  // actions.
  void add_turn(int32_t u, int32_t stage, Work* work) {
    const Range& units = pipeline_.stages[stage];
    const Switches& switches = pipeline_.switches[stage];
    const bool top = u + 1 == units.end, bottom = u == units.begin, whole = pipeline_.whole;
    const Seconds seconds = seconds_of(u);
    const double reduces = top ? left_of_reduction(units) : reduction(u + 1).seconds;
    Beside forward{seconds.forward, 0, first_gather(top ? units.begin : u + 1).seconds};
    Beside backward{whole ? seconds.backward() : seconds.input, whole ? reduces : 0,
                    second_gather(bottom ? units.end - 1 : u - 1).seconds};
    if (top && whole) forward.switches = switches.to_forward;
    if (top) forward.hidden_by = table_.weight_s[units.begin];
    if (bottom) backward.switches = switches.to_backward;
    work->turn_s += seconds_of(forward) + seconds_of(backward);
    if (!whole) work->turn_s += together(seconds.weight, reduces);
    work->wire_bytes +=
        pipeline_.turns * (first_gather(u).bytes + second_gather(u).bytes + reduction(u).bytes);
    if (reshard() == Reshard::kNever) work->wire_bytes += gather(u).bytes;
  }

  // Of the lowest unit of a stage, what forward does not hide.
  double left_of_reduction(const Range& units) {
    if (choice_.zero_stage < 2) return 0;
    double idle = 0;
    for (int32_t u = units.begin; u < units.end; ++u) idle += table_.forward_s[u] - first_gather(u).seconds;
    const double seconds = reduction(units.begin).seconds;
    return state_.cluster.inline_inside ? seconds : std::max(0.0, seconds - std::max(0.0, idle));
  }

  Reshard reshard() const { return state_.request.ranks.reshard; }
  int64_t gradient_bytes(int32_t u) const { return model_.gradient_bytes[u] + model_.use_bytes[u]; }

  // What a bucket moves at a time, with its first unit; one that two stages share, with the first of them.
  int64_t bucket_bytes(const std::vector<int64_t>& of_units, int32_t u) const {
    if (placement_.bucket_of(u) != u) return 0;
    return std::accumulate(of_units.begin() + u, of_units.begin() + placement_.bucket_end(u), int64_t{0});
  }
  int64_t reduced_bytes(int32_t u) const {
    return bucket_bytes(model_.gradient_bytes, u) + model_.use_bytes[u];
  }
  Exchange reduction(int32_t u) {
    return choice_.zero_stage >= 2 ? exchange(&reduce_, reduced_bytes(u)) : Exchange{};
  }
  Exchange gather(int32_t u) {
    return choice_.zero_stage == 3 ? exchange(&gather_, bucket_bytes(model_.flat_bytes, u)) : Exchange{};
  }
  Exchange first_gather(int32_t u) { return reshard() == Reshard::kNever ? Exchange{} : gather(u); }
  // The head's backward follows its forward.
  Exchange second_gather(int32_t u) {
    const bool again =
        reshard() == Reshard::kAlways || (reshard() == Reshard::kDefault && u + 1 < state_.units());
    return again ? gather(u) : Exchange{};
  }

  double shard_add_seconds(int32_t u) {
    const int64_t bytes = gradient_bytes(u) / placement_.shards();
    if (bytes != added_bytes_) added_s_ = state_.add_seconds(added_bytes_ = bytes);
    return added_s_;
  }

  // Of `added`, one addition on the rank that adds most.  After some turns there are several, and the ranks
  // of a pipeline, which come to such a turn one after the other, wait for each other's.
  double adding_seconds(double added) const {
    const double alone = added * (pipeline_.turns - 1);
    return least_ || choice_.zero_stage >= 2 ? alone : std::max(alone, pipeline_.adding_s);
  }

  // Reduced once a step, beside what is left of the last turn's backward; then stepped and gathered.
  void add_tail(int32_t u, double backward, Work* work) {
    const int64_t trained = model_.gradient_bytes[u], gradient = reduced_bytes(u);
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
      add_host(trained / shards, model_.updated_bytes[u] / shards, 2 * model_.optimizer_bytes[u] / shards);
    } else {
      step_bytes_ += (3 * trained + 2 * model_.optimizer_bytes[u]) / shards;
    }
    if (choice_.zero_stage == 1 || choice_.zero_stage == 2) {
      const Exchange updated = exchange(&update_, bucket_bytes(model_.updated_bytes, u));
      updated_s_ += updated.seconds;
      work->wire_bytes += updated.bytes;
    }
  }

  // Copies go beside the steps of other units; beside those of a unit alone, nothing does.
  void add_host(int64_t gradient, int64_t updated, int64_t optimizer) {
    const double copies =
        host_copy_seconds(state_.costs, gradient) + host_copy_seconds(state_.costs, updated);
    host_steps_s_ += host_step_seconds(state_.costs, gradient + updated + optimizer);
    host_copies_s_ += copies;
    host_alone_s_ = std::max(host_alone_s_, copies);
  }

  void finish(Work* work) {
    const double left = state_.cluster.inline_inside ? sent_s_ : std::max(0.0, sent_s_ - computed_s_);
    const double host = std::max(host_steps_s_ + host_alone_s_, host_copies_s_);
    step_seconds_ = host + state_.costs.flat_seconds(Op::kStep, step_bytes_);
    work->tail_s = left + step_seconds_ + updated_s_;
    computed_s_ = sent_s_ = updated_s_ = host_steps_s_ = host_copies_s_ = host_alone_s_ = 0;
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
  int64_t step_bytes_ = 0, added_bytes_ = -1;
  double added_s_ = 0;
  double host_steps_s_ = 0, host_copies_s_ = 0;  // of units that the host steps
  double host_alone_s_ = 0;                      // of copies, those of the largest of them
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
