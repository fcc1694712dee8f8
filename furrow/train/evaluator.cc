#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/data/loader.h"
#include "furrow/train/evaluator_torch.h"
#include "furrow/train/rank_share.h"

namespace furrow::train {

Evaluator::Evaluator(ModelState& model, const Objective& objective, const RankContext& rank,
                     EvaluatorOptions options)
    : model_(model), objective_(objective), rank_(rank), options_(std::move(options)) {}

Executor& Evaluator::executor_for(int64_t samples) {
  std::unique_ptr<Executor>& executor = executors_[samples];
  if (!executor) {
    std::vector<int64_t> sizes(static_cast<size_t>(samples / options_.batch_size), options_.batch_size);
    if (const int64_t rest = samples % options_.batch_size; rest > 0) sizes.push_back(rest);
    const plan::Program program =
        plan::compile_evaluate(model_.spec(), options_.layout, sizes, options_.ranks);
    executor = std::make_unique<Executor>(program, model_, objective_, nullptr, rank_);
  }
  return *executor;
}

// Positions [begin, end), `samples` at a time over all ranks.
LossSums Evaluator::run_range(const data::Source& source, int64_t begin, int64_t end, int64_t samples) {
  LossSums sums;
  if (begin == end) return sums;
  Executor& executor = executor_for(samples);
  data::LoaderOptions options = loader_options(executor.program(), begin);
  options.end = end;
  options.prefetch = options_.prefetch;
  std::optional<data::Loader> loader;  // a rank may be without a microbatch
  if (!options.sizes.empty()) {
    loader.emplace(source, data::SampleOrder(rank_.seed, source.size(), /*shuffle=*/false), options);
  }
  for (int64_t position = begin; position < end; position += samples) {
    RunInputs inputs;
    inputs.loader = loader ? &*loader : nullptr;
    const RunOutputs outputs = executor.run(inputs);
    sums.add(outputs.loss);
    if (outputs.stop != 0) throw Error(ErrorCode::kCancelled, "asked to stop");
  }
  return sums;
}

LossSums Evaluator::run(const data::Source& source) {
  const int64_t at_once = options_.batch_size * options_.layout.data_ranks();
  const int64_t whole = source.size() / at_once * at_once;
  LossSums sums = run_range(source, 0, whole, at_once);
  sums.add(run_range(source, whole, source.size(), source.size() - whole));
  return sums;
}

}  // namespace furrow::train
