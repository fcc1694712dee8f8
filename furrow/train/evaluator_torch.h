// Forward-only programs over a whole split, with exact metric sums: the result depends neither on the batch
// size of evaluation nor on the order of samples.
#pragma once

#include <map>
#include <memory>

#include "furrow/data/source.h"
#include "furrow/train/executor_torch.h"

namespace furrow::train {

class Evaluator {
 public:
  // All references outlive the evaluator.  `batch_size` samples at a time; a program per shape is compiled on
  // first use.
  Evaluator(ModelState& model, const Objective& objective, const RankContext& rank, int64_t batch_size,
            int prefetch);

  LossSums run(const data::Source& source);

 private:
  Executor& executor_for(int64_t samples);

  ModelState& model_;
  const Objective& objective_;
  RankContext rank_;
  int64_t batch_size_;
  int prefetch_;
  std::map<int64_t, std::unique_ptr<Executor>> executors_;
};

}  // namespace furrow::train
