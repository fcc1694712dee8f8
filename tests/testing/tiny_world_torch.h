// Steps of a tiny training on a world of ranks that are threads, compared bit by bit with those of one
// process.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "furrow/plan/compile.h"
#include "tests/testing/tiny_training_torch.h"

namespace furrow::testing {

struct WorldOptions {
  int replicate = 1, shard = 1;
  int zero_stage = 3;
  plan::Reshard reshard = plan::Reshard::kDefault;
  plan::Deterministic deterministic = plan::Deterministic::kStrict;
  int prefetch_units = 1;
  int pipeline = 1;
  plan::PipelineOptions stages = {};
  int tensor = 1;
  int64_t bucket_bytes = 0;
  int ranks() const { return pipeline * replicate * shard * tensor; }
  plan::Layout layout() const { return plan::Layout({pipeline, replicate, shard, 1, tensor, 1}, ranks()); }
  std::string name() const;  // "2x4 zero3", "pp2 GPipe 1x2 zero1"
};

// Data parallel alone, every ZeRO stage, an uneven share, both axes at once.
std::vector<WorldOptions> some_layouts();

// One rank after its steps.
struct RankResult {
  int rank = 0;
  const plan::Program& program;
  const train::ModelState& model;
  const train::RunOutputs& outputs;
  const std::vector<int64_t>& samples;            // indices that it read, in order
  const std::vector<observe::TraceEvent>& trace;  // of StepOptions::trace
  const std::vector<double>& losses;              // the mean of every step
};

// Runs the steps on every rank; `prepare`, where given, is called on each rank's thread before, `inspect` at
// its end.
void run_world(const TinyTraining& tiny, const StepOptions& options, const WorldOptions& world,
               const std::function<void(const RankResult&)>& inspect,
               const std::function<void(train::RankContext&)>& prepare = {});

// What each rank of a tensor axis alone ends with, as the whole that a rank of it has.
std::vector<StepResult> run_parts(const TinyTraining& tiny, const StepOptions& options, int degree);

// Where parameters, optimizer state, statistics, loss or norm of any rank differ from the whole ones of one
// process; "" nowhere.
std::string difference(const RankResult& rank, const StepResult& whole);

}  // namespace furrow::testing
