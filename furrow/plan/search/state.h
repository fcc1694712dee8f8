// What the passes of a search share.  Internal to plan.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "furrow/plan/schedule.h"
#include "furrow/plan/search.h"
#include "furrow/plan/share.h"
#include "furrow/plan/unit_facts.h"

namespace furrow::plan::search_internal {

// One microbatch of each unit, in seconds and bytes; what units communicate inside is in the seconds.
struct UnitTable {
  std::vector<double> forward_s, input_s, weight_s;
  std::vector<int64_t> out_bytes, saved_bytes, deferred_bytes, kept_bytes, scratch_bytes;
  double inside_bytes = 0;  // that a rank receives inside all units, of one microbatch
  int64_t batch_bytes = 0;
  double batch_s = 0, loss_s = 0;
};

// What a rank of a pipeline holds at the moment at which it holds most, in turns of each of its stages.
struct Held {
  int32_t stage = 0;
  double forward = 0;   // between F and B or I
  double deferred = 0;  // between I and W
};

// A pipeline's order over the stages of a model: of all candidates that differ in ZeRO or recompute alone.
struct Pipeline {
  std::vector<Range> stages;  // units of each
  std::vector<int32_t> rank_of_stage;
  int32_t turns = 1;
  bool splits_backward = false;
  double makespan_s = 0;                // of its computing and transfers, nothing else
  std::vector<double> busy_s;           // by rank
  std::vector<std::vector<Held>> held;  // by rank
};

struct Plan {
  Candidate candidate;
  std::shared_ptr<const Pipeline> pipeline;  // null until the pass `schedules`
  double score = 0;                          // seconds a sample, or its cost
};

// The model as one rank of a tensor axis runs it.
struct Model {
  Model(ModelSpec spec, const StateForms& optimizer_states);

  ModelSpec spec;
  ModelFacts facts;
  std::vector<int64_t> flat_bytes;                       // by unit: its own parameters, as it computes
  std::vector<int64_t> updated_bytes;                    // ... those of them that are trained
  std::vector<int64_t> gradient_bytes, optimizer_bytes;  // by unit: of those that are trained
  std::vector<int64_t> use_bytes;       // by unit: gradients of the uses of its parameters by others
  std::map<int64_t, UnitTable> tables;  // by samples of a microbatch
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

  // Of the choice's tensor degree and precision.  REQUIRES: the model can be cut so.
  Model& model(const Choice& choice);
  const UnitTable& table(const Choice& choice);
  int32_t units() const { return static_cast<int32_t>(spec.units.size()); }

  // Takes a candidate out, with a reason; of each reason the first two are kept.
  void refuse(Candidate candidate, std::string reason);

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

std::shared_ptr<const Pipeline> pipeline_of(State* state, const Choice& choice);

// Bytes of each pp rank.
std::vector<int64_t> memory_of(State* state, const Plan& plan);

// Fills figures, without memory.
void estimate(State* state, Plan* plan);

// Compiles and simulates; figures, fits and reason follow.
void simulate_plan(State* state, Plan* plan);

double score_of(const SearchRequest& request, const Candidate& candidate);

// Passes.
void choose_degrees(State* state);
void choose_zero_stages(State* state);
void choose_precisions(State* state);
void choose_batches(State* state);
void choose_schedules(State* state);
void choose_recompute(State* state);
void estimate_times(State* state);
void prune(State* state);
void balance_stages(State* state);
void simulate_best(State* state);

// "" where programs can be compiled for a choice, else why not.
std::string refusal_of(const State& state, const Choice& choice);

// Batch or precision are other ones than the request's.
bool changes_recipe(const State& state, const Choice& choice);
std::string recipe_change(const SearchRequest& request, const Choice& choice);

// "16 devices instead of 8, or ...": "" if nothing was found.
std::string smallest_change(const SearchRequest& request);

}  // namespace furrow::plan::search_internal
