// Orders of pipelines over a model's stages, and what candidates share of them.  Internal to plan.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "furrow/plan/schedule_times.h"
#include "furrow/plan/search.h"
#include "furrow/plan/share.h"

namespace furrow::plan::search_internal {

// What a rank of a pipeline holds of a stage at a moment, in turns.
struct Held {
  int32_t forward = 0;   // between F and B or I
  int32_t deferred = 0;  // between I and W
  friend bool operator==(const Held&, const Held&) = default;
};
using Moment = std::vector<Held>;  // by stage of the rank

// Of one order of actions: those moments of each rank at which no other one holds as much of everything.
// Which of them holds most bytes depends on what is computed again.
struct HeldInOrder {
  double weight = 1;                         // its share in the step's order
  std::vector<std::vector<Moment>> moments;  // by rank
};

// How often, of a turn in the mean, an action follows one of the same stage in the other direction: what its
// first unit needs is in use until then, and cannot be gathered ahead.
struct Switches {
  double to_backward = 0, to_forward = 0;
};

// A pipeline's order over the stages of a model: of all candidates that differ in ZeRO or recompute alone.
struct Pipeline {
  std::vector<Range> stages;  // units of each
  std::vector<int32_t> rank_of_stage;
  int32_t turns = 1;
  bool whole = true;           // no backward is in two
  double makespan_s = 0;       // of its computing and transfers, nothing else
  double adding_s = 0;         // ... and of whole gradients that are added up
  std::vector<double> busy_s;  // by rank
  std::vector<std::vector<int32_t>> stages_of_rank;
  std::vector<HeldInOrder> held;   // none in an outline
  std::vector<Switches> switches;  // by stage; none in an outline
};

// A schedule of the table that a pipeline may follow.
struct OrderChoice {
  const ScheduleRow* row = nullptr;
  int32_t stages_per_rank = 1;
};

// Of a schedule, whatever its turns.
struct OrderShape {
  std::vector<int32_t> rank_of_stage;
  bool whole = true;  // no backward is in two
};

// What is made once for all candidates.  Keys hold the names of schedules, which live for ever.
class PipelineCache {
 public:
  using ModelKey = std::pair<int, std::optional<DType>>;  // tensor degree and precision
  // pp, model, turns, samples of a microbatch, schedule, stages a rank
  using Key = std::tuple<int, ModelKey, int32_t, int64_t, std::string_view, int32_t>;

  // Schedules of the table for so many ranks and turns, of a model with so many units; 1F1B alone if not
  // `all`.
  const std::vector<OrderChoice>& orders(int32_t ranks, int32_t turns, int32_t units, bool all);
  const ScheduleClock& clock(const ScheduleRow& row, const ScheduleShape& shape);
  const OrderShape& shape(const ScheduleRow& row, int32_t ranks, int32_t stages_per_rank);
  const std::vector<Range>& stages(const ModelKey& model, const ModelSpec& spec, int32_t stages);

  std::map<Key, std::shared_ptr<const Pipeline>> made, outlines;
  std::map<Key, double> least_s;  // of any schedule: its name is "", its stages 0

 private:
  std::map<std::pair<int32_t, int32_t>, std::vector<OrderChoice>> orders_;
  std::map<std::tuple<std::string_view, int32_t, int32_t, int32_t>, std::unique_ptr<ScheduleClock>> clocks_;
  std::map<std::tuple<std::string_view, int32_t, int32_t>, OrderShape> shapes_;
  std::map<std::pair<ModelKey, int32_t>, std::vector<Range>> stages_;
};

}  // namespace furrow::plan::search_internal
