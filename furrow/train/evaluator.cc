#include <algorithm>

#include "furrow/data/loader.h"
#include "furrow/plan/compile.h"
#include "furrow/train/evaluator_torch.h"

namespace furrow::train {

Evaluator::Evaluator(ModelState& model, const Objective& objective, const RankContext& rank,
                     int64_t batch_size, int prefetch)
    : model_(model), objective_(objective), rank_(rank), batch_size_(batch_size), prefetch_(prefetch) {}

Executor& Evaluator::executor_for(int64_t samples) {
  std::unique_ptr<Executor>& executor = executors_[samples];
  if (!executor) {
    const plan::Program program = plan::compile_evaluate(model_.spec(), plan::Layout(), {samples});
    executor = std::make_unique<Executor>(program, model_, objective_, nullptr, rank_);
  }
  return *executor;
}

LossSums Evaluator::run(const data::Source& source) {
  LossSums sums;
  data::LoaderOptions options;
  options.sizes = {batch_size_};
  options.end = source.size();
  options.prefetch = prefetch_;
  data::Loader loader(source, data::SampleOrder(rank_.seed, source.size(), /*shuffle=*/false), options);
  for (int64_t position = 0; position < source.size(); position += batch_size_) {
    RunInputs inputs;
    inputs.loader = &loader;
    sums.add(executor_for(std::min(batch_size_, source.size() - position)).run(inputs).loss);
  }
  return sums;
}

}  // namespace furrow::train
