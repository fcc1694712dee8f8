// What the passes of a search share.  Internal to plan.
#pragma once

#include <array>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "furrow/plan/search.h"
#include "furrow/plan/search/pipelines.h"
#include "furrow/plan/unit_facts.h"

namespace furrow::plan::search_internal {

// Of all units together.
struct ModelTotals {
  double flat_bytes = 0, gradient_bytes = 0, optimizer_bytes = 0, use_bytes = 0;
  double largest_bytes = 0;  // parameters of a unit, and gradients of its parameters' uses
};
struct ActivationTotals {
  double in_bytes = 0;  // of those that have a backward
  double least_bytes = 0,
         most_bytes = 0;  // UnitTable::work_bytes of a unit
};

// One microbatch of each unit, in seconds and bytes; what units communicate inside is in the seconds.
struct UnitTable {
  std::vector<double> forward_s, input_s, weight_s;
  std::vector<double> add_s;  // its gradients to those of another
  std::vector<int64_t> out_bytes, saved_bytes, deferred_bytes;
  std::vector<int64_t> work_bytes;  // while it is at work, beside what it holds before
  double inside_bytes = 0;          // that a rank receives inside all units, of one microbatch
  int64_t batch_bytes = 0;
  int64_t axis_bytes = 0;  // what a rank copies for a tensor axis, beside Costs::workspace_bytes
  double batch_s = 0, loss_s = 0;
  ActivationTotals totals;
};

struct Plan {
  Candidate candidate;
  std::shared_ptr<const Pipeline> pipeline;  // null until the pass `schedules`
  double score = 0;                          // seconds a sample, or its cost
  double least_score = 0;                    // no schedule makes it less: pass `bound`
  int64_t least_memory = 0;                  // ... nor what the rank needs that needs most
  size_t order = 0;                          // of equal scores the lower one is the better
};

inline constexpr size_t kNearest = 3;  // of the candidates that do not fit: those that results show

// Scores above which a candidate changes nothing, whatever it is: as many are known already as are kept.
struct Limits {
  double any = std::numeric_limits<double>::infinity();
  double as_given = std::numeric_limits<double>::infinity();  // of candidates of the request's recipe
};

// The model as one rank of a tensor axis runs it.
struct Model {
  Model(ModelSpec spec, const StateForms& optimizer_states);

  ModelSpec spec;
  ModelFacts facts;
  std::vector<int64_t> flat_bytes;                       // by unit: its own parameters, as it computes
  std::vector<int64_t> updated_bytes;                    // ... those of them that are trained
  std::vector<int64_t> gradient_bytes, optimizer_bytes;  // by unit: of those that are trained
  std::vector<int64_t> use_bytes;  // by unit: gradients of the uses of its parameters by others
  ModelTotals totals;
  std::map<int64_t, UnitTable> tables;              // by samples of a microbatch
  std::map<int64_t, std::vector<int32_t>> buckets;  // Placement::buckets, by their size
};

class State {
 public:
  explicit State(const SearchRequest& request);

  const SearchRequest& request;
  const ModelSpec& spec;  // whole
  const Costs& costs;
  const Cluster& cluster;
  int64_t memory_bytes = 0;  // of a device

  std::vector<Plan> plans;
  std::vector<Candidate> refused;  // by rules, not by memory
  std::vector<Candidate> too_large;
  std::vector<std::string> notes;     // of the pass at work
  size_t simulated_first = SIZE_MAX;  // of plans: those that the simulation is for
  size_t fit_by_recompute = 0;
  PipelineCache pipelines;
  Limits limits;

  // Of the choice's tensor degree and precision.  REQUIRES: the model can be cut so.
  Model& model(const Choice& choice);
  const UnitTable& table(const Choice& choice);
  const std::vector<int32_t>& buckets(const Choice& choice);  // Placement::buckets
  int32_t units() const { return static_cast<int32_t>(spec.units.size()); }

  // Takes a candidate out, with a reason; of each reason the first two are kept.
  void refuse(Candidate candidate, std::string reason);

  double add_seconds(int64_t bytes) const;  // of gradients of so many bytes to others
  // A movement of one buffer over an axis of a placement's layout, alone on its wires but for its like.
  double exchange_seconds(const Placement& placement, Op op, GroupAxis axis, int64_t bytes);

  bool is_off(std::string_view pass) const;

 private:
  using Exchange = std::tuple<std::array<int, 4>, Movement, std::string_view, GroupAxis, int64_t>;

  // `operation`: a name that lives for ever, as profiles have it (MovementCall::operation).
  double movement_seconds(const Placement& placement, Movement movement, GroupAxis axis, int64_t bytes,
                          std::string_view operation);
  double inside(const Model& model, const Choice& choice, UnitCollective::Phase phase, size_t unit,
                bool input_gradient, double* bytes);

  std::map<std::pair<int, std::optional<DType>>, Model> models_;  // by tensor degree and precision
  std::map<Exchange, double> exchanges_;
  std::map<std::string, size_t> reasons_;
};

// Microbatches of a step, and of the rank that has most.
int32_t microbatches(const Choice& choice);
int32_t turns_of(const Choice& choice);
int64_t samples_of_step(const Choice& choice);

int64_t bucket_bytes_of(const SearchRequest& request, const Choice& choice);

// Schedules that are tried for the choice's layout and batch.
const std::vector<OrderChoice>& orders_of(State* state, const Choice& choice);
Choice with_order(const State& state, Choice choice, const OrderChoice& order);

// `shared`: of stages cut by cost, and no CSV; made once.
std::shared_ptr<const Pipeline> pipeline_of(State* state, const Choice& choice);
std::shared_ptr<const Pipeline> shared_pipeline(State* state, const Choice& choice);
// Of such a one: no order of its actions is quicker, and what it holds is not said.
std::shared_ptr<const Pipeline> outline_of(State* state, const Choice& choice);

// Bytes of each pp rank.
std::vector<int64_t> memory_of(State* state, const Plan& plan);

// What the rank that needs most does not need less of, whatever is computed again.
int64_t least_memory_of(State* state, const Choice& choice);

// Fills figures, without memory.
void estimate(State* state, Plan* plan);
// What the estimate's score is not below, whatever is computed again.  REQUIRES: the pipeline or an outline.
double least_estimate(State* state, Plan plan);

// The step's length, and what follows from it.
void set_step(const State& state, const Choice& choice, double step_s, Figures* figures);

// What has been taken of each layout and ZeRO stage: little of what differs in the schedule or recipe alone,
// of which estimates are close.
class Variety {
 public:
  bool adds(const Choice& choice) const;
  void take(const Choice& choice) { taken_[key(choice)].insert(choice.pipeline.schedule); }

 private:
  using Key = std::pair<std::array<int, 4>, int>;
  static Key key(const Choice& choice);
  std::map<Key, std::set<std::string>> taken_;  // schedules
};

// Which candidates, best first, are kept for a simulation, which are listed besides, and when neither changes
// any more, whatever follows.
class Choosing {
 public:
  enum class What : uint8_t { kSimulated, kListed, kLeft };

  explicit Choosing(const State& state) : state_(state) {}
  What next(const Candidate& candidate);
  bool done() const;           // but for those of the request's recipe
  bool done_as_given() const;  // and for those too

 private:
  const State& state_;
  Variety variety_;
  size_t simulated_ = 0, listed_ = 0, as_given_ = 0;
};

// The passes from `schedules` to `estimate` take plans in rounds: those first that could be the best.
class Rounds {
 public:
  // Of state->plans.
  explicit Rounds(State* state);
  bool next();    // fills state->plans; false: no plan is left that could change the result
  void close();   // takes them back
  void finish();  // state->plans: all that came back, best first
  std::string note() const;

 private:
  void next_to_fit();

  State& state_;
  bool bounded_ = false;
  std::vector<Plan> waiting_, too_large_, known_;
  size_t at_ = 0, at_too_large_ = 0, size_ = 0, looked_at_ = 0;
};

// Compiles and simulates; figures, fits and reason follow.
void simulate_plan(State* state, Plan* plan);

// The same plan in the buckets of choose_buckets().  REQUIRES: it has been simulated.
Plan in_best_buckets(State* state, const Plan& plan);

double score_of(const SearchRequest& request, const Candidate& candidate);

// Passes.
void choose_degrees(State* state);
void choose_zero_stages(State* state);
void choose_precisions(State* state);
void choose_batches(State* state);
void bound_scores(State* state);
void choose_schedules(State* state);
void choose_recompute(State* state);
void estimate_times(State* state);
void prune(State* state);
void balance_stages(State* state);
void simulate_best(State* state);
void choose_bucket_sizes(State* state);

// "" where programs can be compiled for a choice, else why not: for its layout, for its batch, for either.
std::string refusal_of_layout(const State& state, const Choice& choice);
std::string refusal_of_batch(const Choice& choice);
std::string refusal_of(const State& state, const Choice& choice);

// Pass `batch` tries others.
bool recipe_is_searched(const State& state);

// False: the score is above what could change the result.
bool is_worth(const State& state, const Choice& choice, double score);

// Batch or precision are other ones than the request's.
bool changes_recipe(const State& state, const Choice& choice);
std::string recipe_change(const SearchRequest& request, const Choice& choice);

// "16 devices instead of 8, or ...": "" if nothing was found.
std::string smallest_change(const SearchRequest& request);

}  // namespace furrow::plan::search_internal
