// Pass `schedules`: for pipelines every schedule and number of stages a rank, cut by cost.  A pipeline's
// order is timed once for all candidates that share it.
#include <fmt/format.h>

#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/plan/schedule_times.h"
#include "furrow/plan/search/state.h"
#include "furrow/plan/stages.h"

namespace furrow::plan::search_internal {
namespace {

constexpr int32_t kMostStagesPerRank = 4;

// Long steps repeat themselves: two shorter ones, a round apart, tell what a round adds.
struct Sampled {
  int32_t turns = 1, more = 0;  // `more` is 0 where `turns` are all
  double rounds = 0;            // from `turns` on, in steps of more - turns
};

Sampled sampled(int32_t ranks, int32_t turns) {
  const int32_t short_one = 2 * ranks, longer = 3 * ranks;
  if (turns <= longer || ranks == 1) return {turns};
  return {short_one, longer, static_cast<double>(turns - short_one) / ranks};
}

class Walk {
 public:
  // Bytes of a turn between F and its backward, and between I and W.
  struct StageBytes {
    double forward = 0, deferred = 0;
  };

  Walk(const Schedule& schedule, std::span<const StageBytes> bytes) : schedule_(schedule), bytes_(bytes) {}

  // The moment at which the rank holds most bytes.
  std::vector<Held> most(int32_t rank) const {
    std::vector<Held> now(static_cast<size_t>(schedule_.stages)), most;
    double bytes = 0, peak = -1;
    for (const Action& action : schedule_.actions[rank]) {
      Held& held = now[action.stage];
      const StageBytes& each = bytes_[action.stage];
      switch (action.phase) {
        case Phase::kForward:
          ++held.forward;
          bytes += each.forward;
          break;
        case Phase::kBackward:
          --held.forward;
          bytes -= each.forward;
          break;
        case Phase::kBackwardInput:
          --held.forward;
          ++held.deferred;
          bytes += each.deferred - each.forward;
          break;
        case Phase::kBackwardWeight:
          --held.deferred;
          bytes -= each.deferred;
          break;
      }
      if (bytes > peak) {
        peak = bytes;
        most = now;
      }
    }
    std::vector<Held> own;
    for (int32_t stage = 0; stage < schedule_.stages; ++stage) {
      if (schedule_.rank_of_stage[stage] != rank) continue;
      own.push_back({stage, most[stage].forward, most[stage].deferred});
    }
    return own;
  }

 private:
  const Schedule& schedule_;
  std::span<const StageBytes> bytes_;
};

double transfer_seconds(const State& state, const Choice& choice, const UnitTable& table) {
  if (choice.layout.degree(Axis::kPipeline) == 1) return 0;
  std::array<int, 6> next{};
  next[static_cast<size_t>(Axis::kPipeline)] = 1;
  const std::array<int, 2> ranks = {0, choice.layout.rank_of(next)};
  std::vector<int64_t> out = table.out_bytes;
  std::nth_element(out.begin(), out.begin() + static_cast<ptrdiff_t>(out.size() / 2), out.end());
  return seconds_of(state.costs.legs(
      {.movement = Movement::kTransfer, .ranks = ranks, .self = 0, .bytes = out[out.size() / 2]}));
}

class PipelineMaker {
 public:
  PipelineMaker(State* state, const Choice& choice)
      : state_(*state), spec_(state->model(choice).spec), table_(state->table(choice)) {
    pipeline_.turns = turns_of(choice);
    ranks_ = choice.layout.degree(Axis::kPipeline);
    if (ranks_ > 1 && !choice.pipeline.csv.empty())
      own_ = schedule_of(choice.layout, choice.pipeline, pipeline_.turns);
    row_ = &find_schedule(ranks_ == 1 ? "1F1B" : choice.pipeline.schedule);
    per_rank_ = ranks_ == 1 ? 1 : own_ ? own_->stages / ranks_ : choice.pipeline.stages_per_rank;
    times_.transfer = transfer_seconds(state_, choice, table_);
    cut(choice);
  }

  std::shared_ptr<const Pipeline> make() {
    const Sampled sample = own_ ? Sampled{pipeline_.turns} : sampled(ranks_, pipeline_.turns);
    add_run(sample.turns, 1 - sample.rounds);
    if (sample.more > 0) add_run(sample.more, sample.rounds);
    return std::make_shared<const Pipeline>(std::move(pipeline_));
  }

 private:
  void cut(const Choice& choice) {
    if (ranks_ == 1) {
      pipeline_.stages = {{0, state_.units()}};
    } else if (choice.pipeline.units_per_stage.empty()) {
      pipeline_.stages = stages_by_cost(spec_, ranks_ * per_rank_);
    } else {
      pipeline_.stages = stages_by_hand(spec_, ranks_ * per_rank_, choice.pipeline.units_per_stage);
    }
    times_.stages.clear();
    for (const Range& stage : pipeline_.stages) {
      StageTimes times{0, 0, 0};
      Walk::StageBytes bytes;
      for (int32_t u = stage.begin; u < stage.end; ++u) {
        times.forward += table_.forward_s[u];
        times.backward_input += table_.input_s[u];
        times.backward_weight += table_.weight_s[u];
        bytes.forward += static_cast<double>(table_.saved_bytes[u]);
        bytes.deferred += static_cast<double>(table_.deferred_bytes[u]);
        const double in = static_cast<double>(u > 0 ? table_.out_bytes[u - 1] : table_.batch_bytes);
        bytes.forward += in;
        bytes.deferred += in;
      }
      if (stage.end == state_.units()) times.backward_input += table_.loss_s;
      times_.stages.push_back(times);
      bytes_.push_back(bytes);
    }
  }

  // Adds a run's figures, times `weight`.
  void add_run(int32_t turns, double weight) {
    const Schedule schedule = own_ ? *own_ : make_schedule(*row_, {ranks_, per_rank_, turns});
    const ScheduleTimes times = time_schedule(schedule, times_);
    pipeline_.rank_of_stage = schedule.rank_of_stage;
    pipeline_.makespan_s += weight * times.makespan;
    pipeline_.busy_s.resize(static_cast<size_t>(ranks_), 0);
    pipeline_.held.resize(static_cast<size_t>(ranks_));
    for (int32_t rank = 0; rank < ranks_; ++rank) {
      pipeline_.busy_s[rank] += weight * times.busy[rank];
      const std::vector<Held> most = Walk(schedule, bytes_).most(rank);
      std::vector<Held>& held = pipeline_.held[rank];
      if (held.empty()) held.resize(most.size());
      for (size_t i = 0; i < most.size(); ++i) {
        held[i].stage = most[i].stage;
        held[i].forward += weight * most[i].forward;
        held[i].deferred += weight * most[i].deferred;
      }
      for (const Action& action : schedule.actions[rank]) {
        if (action.phase == Phase::kBackwardInput) pipeline_.splits_backward = true;
        if (action.phase != Phase::kForward) break;
      }
    }
  }

  State& state_;
  const ModelSpec& spec_;
  const UnitTable& table_;
  const ScheduleRow* row_ = nullptr;
  std::optional<Schedule> own_;  // of a CSV, for just these turns
  int32_t ranks_ = 1, per_rank_ = 1;
  PhaseTimes times_;
  std::vector<Walk::StageBytes> bytes_;
  Pipeline pipeline_;
};

// Stages a rank that a schedule takes here; none where the model has too few units.
std::vector<int32_t> stages_per_rank(const ScheduleRow& row, int32_t ranks, int32_t turns, int32_t units) {
  std::vector<int32_t> choices;
  for (int32_t v = 1; v <= kMostStagesPerRank && v * ranks <= units; ++v) {
    if (row.refuses({ranks, v, turns}).empty()) choices.push_back(v);
  }
  return choices;
}

}  // namespace

std::shared_ptr<const Pipeline> pipeline_of(State* state, const Choice& choice) {
  return PipelineMaker(state, choice).make();
}

void choose_schedules(State* state) {
  // pp, tp, turns, local batch, precision, schedule, stages
  using Key = std::tuple<int, int, int32_t, int64_t, std::optional<DType>, std::string, int32_t>;
  std::map<Key, std::shared_ptr<const Pipeline>> made;
  std::vector<Plan> plans = std::move(state->plans);
  state->plans.clear();
  const auto take = [&](Plan plan, std::string schedule, int32_t per_rank) {
    Choice& choice = plan.candidate.choice;
    choice.pipeline = state->request.ranks.pipeline;
    choice.pipeline.units_per_stage.clear();
    choice.pipeline.csv.clear();
    choice.pipeline.schedule = std::move(schedule);
    choice.pipeline.stages_per_rank = per_rank;
    std::shared_ptr<const Pipeline>& pipeline =
        made[{choice.layout.degree(Axis::kPipeline), choice.layout.degree(Axis::kTensor), turns_of(choice),
              choice.batch.local_batch, choice.precision, choice.pipeline.schedule, per_rank}];
    if (!pipeline) pipeline = pipeline_of(state, choice);
    plan.pipeline = pipeline;
    state->plans.push_back(std::move(plan));
  };
  const bool all = !state->is_off("schedules");
  for (const Plan& plan : plans) {
    const int32_t ranks = plan.candidate.choice.layout.degree(Axis::kPipeline);
    if (ranks == 1) {
      take(plan, "1F1B", 1);
      continue;
    }
    for (const ScheduleRow& row : schedules()) {
      if (!all && row.name != "1F1B") continue;
      for (const int32_t v : stages_per_rank(row, ranks, turns_of(plan.candidate.choice), state->units())) {
        if (v == 1 && row.default_stages_per_rank > 1) continue;  // 1F1B, GPipe and ZBH1 are that
        take(plan, std::string(row.name), v);
      }
    }
  }
  state->notes.push_back(fmt::format("{} orders timed", made.size()));
}

}  // namespace furrow::plan::search_internal
