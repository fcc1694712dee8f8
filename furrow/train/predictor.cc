#include <utility>

#include "furrow/data/loader.h"
#include "furrow/plan/compile.h"
#include "furrow/train/predictor_torch.h"

namespace furrow::train {

Predictor::Predictor(ModelState& model, const RankContext& rank) : model_(model) {
  rank_.threads = rank.threads;
  rank_.seed = rank.seed;
  rank_.cancel = rank.cancel;
  rank_.clock = rank.clock;
  rank_.device = rank.device;
}

// No loss is computed: the objective is never asked.
Executor& Predictor::executor_for(int64_t samples) {
  std::unique_ptr<Executor>& executor = executors_[samples];
  if (!executor) {
    executor = std::make_unique<Executor>(plan::compile_predict(model_.spec(), {samples}), model_,
                                          find_objective("supervised"), nullptr, rank_);
  }
  return *executor;
}

void Predictor::run_range(const data::Source& source, int64_t begin, int64_t end, int64_t samples,
                          const Take& take) {
  if (begin == end) return;
  Executor& executor = executor_for(samples);
  data::Loader loader(source, data::SampleOrder(rank_.seed, source.size(), /*shuffle=*/false),
                      {.sizes = {samples}, .position = begin, .end = end, .prefetch = end - begin > samples});
  RunInputs inputs;
  inputs.loader = &loader;
  inputs.take = take;
  for (int64_t position = begin; position < end; position += samples) executor.run(inputs);
}

void Predictor::run(const data::Source& source, int64_t batch_size, const Take& take) {
  const int64_t whole = source.size() / batch_size * batch_size;
  run_range(source, 0, whole, batch_size, take);
  run_range(source, whole, source.size(), source.size() - whole, take);
}

}  // namespace furrow::train
