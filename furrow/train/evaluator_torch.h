// Forward-only programs over a whole split, with exact metric sums: the result depends neither on the batch
// size of evaluation nor on the order of samples, nor on the number of ranks that share them.
#pragma once

#include <map>
#include <memory>

#include "furrow/data/source.h"
#include "furrow/plan/compile.h"
#include "furrow/train/executor_torch.h"

namespace furrow::train {

struct EvaluatorOptions {
  int64_t batch_size = 1;  // samples of a microbatch; every data rank takes one at a time
  int prefetch = 0;
  plan::Layout layout = {};
  plan::RankOptions ranks = {};
};

class Evaluator {
 public:
  // All references outlive the evaluator.  A program per shape is compiled on first use.
  Evaluator(ModelState& model, const Objective& objective, const RankContext& rank, EvaluatorOptions options);

  // Every rank calls it and gets the sums of all.  Error{cancelled} on every rank when one was asked to stop.
  LossSums run(const data::Source& source);

 private:
  Executor& executor_for(int64_t samples);
  LossSums run_range(const data::Source& source, int64_t begin, int64_t end, int64_t samples);

  ModelState& model_;
  const Objective& objective_;
  RankContext rank_;
  EvaluatorOptions options_;
  std::map<int64_t, std::unique_ptr<Executor>> executors_;  // by samples of all ranks
};

}  // namespace furrow::train
