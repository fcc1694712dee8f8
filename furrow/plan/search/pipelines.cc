// Orders of pipelines: stages cut by cost, a schedule's actions timed, what each rank holds.  A schedule is
// made once for all stages that follow it, and a pipeline once for all candidates that share it.
#include "furrow/plan/search/pipelines.h"

#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/plan/search/state.h"
#include "furrow/plan/stages.h"

namespace furrow::plan::search_internal {
namespace {

constexpr int32_t kMostStagesPerRank = 4;
constexpr int32_t kTurnsPerRank = 2;  // of a step after which it repeats itself
constexpr std::string_view kPlainOrder = "1F1B";
constexpr double kRounding = 1e-9;  // sums in another order

// Long steps repeat themselves: two shorter ones, a round apart, tell what a round adds.
struct Sampled {
  int32_t turns = 1, more = 0;  // `more` is 0 where `turns` are all
  double rounds = 0;            // from `turns` on, in steps of more - turns
};

Sampled sampled(int32_t ranks, int32_t turns) {
  const int32_t short_one = kTurnsPerRank * ranks, longer = short_one + ranks;
  if (turns <= longer || ranks == 1) return {turns};
  return {short_one, longer, static_cast<double>(turns - short_one) / ranks};
}

bool holds_all_of(const Moment& moment, const Moment& other) {
  return std::ranges::equal(moment, other, [](const Held& a, const Held& b) {
    return a.forward >= b.forward && a.deferred >= b.deferred;
  });
}

// Of the moments behind the actions of a rank, those that hold all of no other one's.
std::vector<Moment> largest_moments(const std::vector<Action>& actions, const std::vector<int32_t>& stages) {
  Moment now(stages.size());
  std::vector<Moment> largest;
  for (const Action& action : actions) {
    Held& held = now[static_cast<size_t>(std::ranges::find(stages, action.stage) - stages.begin())];
    if (action.phase == Phase::kForward) ++held.forward;
    if (action.phase == Phase::kBackward || action.phase == Phase::kBackwardInput) --held.forward;
    if (action.phase == Phase::kBackwardInput) ++held.deferred;
    if (action.phase == Phase::kBackwardWeight) --held.deferred;
    if (std::ranges::any_of(largest, [&](const Moment& each) { return holds_all_of(each, now); })) continue;
    std::erase_if(largest, [&](const Moment& each) { return holds_all_of(now, each); });
    largest.push_back(now);
  }
  return largest;
}

// Gradients of weights need no gathered parameters: what goes before them still is the one before.
void add_switches(const std::vector<Action>& actions, double weight, std::vector<Switches>* switches) {
  const Action* before = nullptr;
  for (const Action& action : actions) {
    if (action.phase == Phase::kBackwardWeight) continue;
    if (before != nullptr && before->stage == action.stage) {
      const bool forward = action.phase == Phase::kForward, was_forward = before->phase == Phase::kForward;
      Switches& of = (*switches)[action.stage];
      if (was_forward && !forward) of.to_backward += weight;
      if (forward && !was_forward) of.to_forward += weight;
    }
    before = &action;
  }
}

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

bool is_whole(const Schedule& schedule) {
  return std::ranges::none_of(schedule.actions, [](const std::vector<Action>& actions) {
    return std::ranges::any_of(actions,
                               [](const Action& action) { return action.phase == Phase::kBackwardInput; });
  });
}

class PipelineMaker {
 public:
  PipelineMaker(State* state, const Choice& choice)
      : state_(*state), model_(state->model(choice)), table_(state->table(choice)) {
    pipeline_.turns = turns_of(choice);
    ranks_ = choice.layout.degree(Axis::kPipeline);
    if (ranks_ > 1 && !choice.pipeline.csv.empty()) {
      own_ = std::make_unique<ScheduleClock>(schedule_of(choice.layout, choice.pipeline, pipeline_.turns));
    }
    row_ = &find_schedule(ranks_ == 1 ? kPlainOrder : choice.pipeline.schedule);
    per_rank_ = ranks_ == 1 ? 1 : own_ ? own_->schedule().stages / ranks_ : choice.pipeline.stages_per_rank;
    times_.transfer = transfer_seconds(state_, choice, table_);
    cut(choice);
    time_stages();
  }

  // Without its order: the least that any order of its actions takes, and holds nothing.
  std::shared_ptr<const Pipeline> outline() {
    const OrderShape& shape = state_.pipelines.shape(*row_, ranks_, per_rank_);
    pipeline_.rank_of_stage = shape.rank_of_stage;
    pipeline_.whole = shape.whole;
    pipeline_.makespan_s = least(shape.whole);
    pipeline_.switches.resize(pipeline_.stages.size());
    pipeline_.busy_s.resize(static_cast<size_t>(ranks_), 0);
    list_stages();
    for (size_t s = 0; s < pipeline_.stages.size(); ++s)
      pipeline_.busy_s[pipeline_.rank_of_stage[s]] += pipeline_.turns * times_.stages[s].all();
    return std::make_shared<const Pipeline>(std::move(pipeline_));
  }

  std::shared_ptr<const Pipeline> make() {
    const Sampled sample = own_ ? Sampled{pipeline_.turns} : sampled(ranks_, pipeline_.turns);
    add_run(sample.turns, 1 - sample.rounds);
    if (sample.more > 0) add_run(sample.more, sample.rounds);
    pipeline_.makespan_s = std::max(pipeline_.makespan_s, least(pipeline_.whole));
    return std::make_shared<const Pipeline>(std::move(pipeline_));
  }

 private:
  void cut(const Choice& choice) {
    if (ranks_ == 1) {
      pipeline_.stages = {{0, state_.units()}};
    } else if (choice.pipeline.units_per_stage.empty()) {
      const PipelineCache::ModelKey key(choice.layout.degree(Axis::kTensor), choice.precision);
      pipeline_.stages = state_.pipelines.stages(key, model_.spec, ranks_ * per_rank_);
    } else {
      pipeline_.stages = stages_by_hand(model_.spec, ranks_ * per_rank_, choice.pipeline.units_per_stage);
    }
  }

  void time_stages() {
    adding_.transfer = times_.transfer;
    for (const Range& stage : pipeline_.stages) {
      StageTimes times{0, 0, 0};
      for (int32_t u = stage.begin; u < stage.end; ++u) {
        times.forward += table_.forward_s[u];
        times.backward_input += table_.input_s[u];
        times.backward_weight += table_.weight_s[u];
      }
      if (stage.end == state_.units()) times.backward_input += table_.loss_s;
      times_.stages.push_back(times);
      for (int32_t u = stage.begin; u < stage.end; ++u) times.add += table_.add_s[u];
      adding_.stages.push_back(times);
    }
  }

  void list_stages() {
    pipeline_.stages_of_rank.assign(static_cast<size_t>(ranks_), {});
    for (size_t s = 0; s < pipeline_.stages.size(); ++s)
      pipeline_.stages_of_rank[pipeline_.rank_of_stage[s]].push_back(static_cast<int32_t>(s));
  }

  double least(bool whole) const {
    return least_makespan(pipeline_.rank_of_stage, whole, pipeline_.turns, times_) * (1 - kRounding);
  }

  // Adds a run's figures, times `weight`.
  void add_run(int32_t turns, double weight) {
    const ScheduleClock& clock = own_ ? *own_ : state_.pipelines.clock(*row_, {ranks_, per_rank_, turns});
    const Schedule& schedule = clock.schedule();
    const ScheduleTimes times = clock.time(times_);
    pipeline_.adding_s += weight * (clock.time(adding_).makespan - times.makespan);
    pipeline_.rank_of_stage = schedule.rank_of_stage;
    pipeline_.makespan_s += weight * times.makespan;
    pipeline_.busy_s.resize(static_cast<size_t>(ranks_), 0);
    pipeline_.switches.resize(pipeline_.stages.size());
    list_stages();
    HeldInOrder held{weight, {}};
    for (int32_t rank = 0; rank < ranks_; ++rank) {
      add_switches(schedule.actions[rank], weight / pipeline_.turns, &pipeline_.switches);
      pipeline_.busy_s[rank] += weight * times.busy[rank];
      held.moments.push_back(largest_moments(schedule.actions[rank], pipeline_.stages_of_rank[rank]));
    }
    pipeline_.held.push_back(std::move(held));
    pipeline_.whole = pipeline_.whole && is_whole(schedule);
  }

  State& state_;
  const Model& model_;
  const UnitTable& table_;
  const ScheduleRow* row_ = nullptr;
  std::unique_ptr<const ScheduleClock> own_;  // of a CSV, for just these turns
  int32_t ranks_ = 1, per_rank_ = 1;
  PhaseTimes times_, adding_;
  Pipeline pipeline_;
};

PipelineCache::Key key_of(const Choice& choice) {
  return {choice.layout.degree(Axis::kPipeline),
          {choice.layout.degree(Axis::kTensor), choice.precision},
          turns_of(choice),
          choice.batch.local_batch,
          find_schedule(choice.pipeline.schedule).name,
          choice.pipeline.stages_per_rank};
}

}  // namespace

const std::vector<OrderChoice>& PipelineCache::orders(int32_t ranks, int32_t turns, int32_t units, bool all) {
  const auto [found, first] = orders_.try_emplace({ranks, turns});
  std::vector<OrderChoice>& choices = found->second;
  if (!first) return choices;
  if (ranks == 1) choices.push_back({&find_schedule(kPlainOrder), 1});  // there is nothing to choose
  for (const ScheduleRow& row : schedules()) {
    if (ranks == 1 || (!all && row.name != kPlainOrder)) continue;
    for (int32_t v = 1; v <= kMostStagesPerRank && v * ranks <= units; ++v) {
      if (v == 1 && row.default_stages_per_rank > 1) continue;  // 1F1B, GPipe and ZBH1 are that
      if (row.refuses({ranks, v, turns}).empty()) choices.push_back({&row, v});
    }
  }
  return choices;
}

const ScheduleClock& PipelineCache::clock(const ScheduleRow& row, const ScheduleShape& shape) {
  auto& clock = clocks_[{row.name, shape.ranks, shape.stages_per_rank, shape.turns}];
  if (!clock) clock = std::make_unique<ScheduleClock>(make_schedule(row, shape));
  return *clock;
}

const OrderShape& PipelineCache::shape(const ScheduleRow& row, int32_t ranks, int32_t stages_per_rank) {
  const auto [found, first] = shapes_.try_emplace({row.name, ranks, stages_per_rank});
  if (first) {
    const Schedule schedule = make_schedule(row, {ranks, stages_per_rank, kTurnsPerRank * ranks});
    found->second = {schedule.rank_of_stage, is_whole(schedule)};
  }
  return found->second;
}

const std::vector<Range>& PipelineCache::stages(const ModelKey& model, const ModelSpec& spec,
                                                int32_t stages) {
  const auto [found, first] = stages_.try_emplace({model, stages});
  if (first) found->second = stages_by_cost(spec, stages);
  return found->second;
}

std::shared_ptr<const Pipeline> pipeline_of(State* state, const Choice& choice) {
  return PipelineMaker(state, choice).make();
}

std::shared_ptr<const Pipeline> shared_pipeline(State* state, const Choice& choice) {
  auto& pipeline = state->pipelines.made[key_of(choice)];
  if (!pipeline) pipeline = PipelineMaker(state, choice).make();
  return pipeline;
}

std::shared_ptr<const Pipeline> outline_of(State* state, const Choice& choice) {
  auto& pipeline = state->pipelines.outlines[key_of(choice)];
  if (!pipeline) pipeline = PipelineMaker(state, choice).outline();
  return pipeline;
}

Choice with_order(const State& state, Choice choice, const OrderChoice& order) {
  choice.pipeline = state.request.ranks.pipeline;
  choice.pipeline.units_per_stage.clear();
  choice.pipeline.csv.clear();
  choice.pipeline.schedule = order.row->name;
  choice.pipeline.stages_per_rank = order.stages_per_rank;
  return choice;
}

const std::vector<OrderChoice>& orders_of(State* state, const Choice& choice) {
  return state->pipelines.orders(choice.layout.degree(Axis::kPipeline), turns_of(choice), state->units(),
                                 !state->is_off("schedules"));
}

}  // namespace furrow::plan::search_internal
