// Forward-only programs with outputs: what a whole model on this rank gives for samples.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>

#include "furrow/data/source.h"
#include "furrow/train/executor_torch.h"

namespace furrow::train {

class Predictor {
 public:
  // A program per shape is compiled on first use.  `model` outlives the predictor.  REQUIRES: every unit of
  // the model is whole here.
  Predictor(ModelState& model, const RankContext& rank);

  // For every `batch_size` samples of the source, in order, and for what is left of them: the batch and the
  // model's output, float32, both valid within the call.  Alone, whatever world the rank is of.
  // Error{cancelled} when the rank was asked to stop.
  using Take = std::function<void(const data::Batch& batch, const at::Tensor& output)>;
  void run(const data::Source& source, int64_t batch_size, const Take& take);

 private:
  Executor& executor_for(int64_t samples);
  void run_range(const data::Source& source, int64_t begin, int64_t end, int64_t samples, const Take& take);

  ModelState& model_;
  RankContext rank_;                                        // in a world of one
  std::map<int64_t, std::unique_ptr<Executor>> executors_;  // by samples
};

}  // namespace furrow::train
