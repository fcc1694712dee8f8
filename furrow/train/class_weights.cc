#include "furrow/train/class_weights.h"

#include <fmt/format.h>

#include <string>

#include "furrow/base/error.h"
#include "furrow/config/config.h"
#include "furrow/data/class_weights.h"
#include "furrow/preprocess/class_names.h"

namespace furrow::train {
namespace {

bool weighs(const config::Training& training) {
  return training.objective == "supervised" && training.loss != "mse" &&
         (training.balance_classes || !training.class_weights.empty());
}

}  // namespace

std::vector<float> class_weights_of(const config::Config& config, int64_t outputs,
                                    const data::Preprocessing& fitted) {
  const config::Training& training = config.training;
  if (!weighs(training)) return {};
  std::vector<float> weights(training.class_weights.begin(), training.class_weights.end());
  const auto found = fitted.find(preprocess::kClassWeights);
  if (training.balance_classes && found != fitted.end()) weights = data::parse_weights(found->second);
  const int64_t classes = training.loss == "binary" ? 2 : outputs;
  if (static_cast<int64_t>(weights.size()) == classes) return weights;
  throw Error(
      ErrorCode::kInvalidArgument,
      fmt::format("{}training.class_weights has {} numbers, and the model tells {} classes apart: give "
                  "one for each, in the order of the classes",
                  config::where(config, "training.class_weights"), weights.size(), classes));
}

std::vector<float> class_weights_of(const config::Config& config, int64_t outputs, data::Dataset* dataset,
                                    const CancelToken* cancel) {
  data::Preprocessing& fitted = dataset->preprocessing;
  if (weighs(config.training) && config.training.balance_classes &&
      !fitted.contains(preprocess::kClassWeights)) {
    const std::vector<float> weights =
        data::balanced_weights(data::class_counts(*dataset->train, cancel), preprocess::class_names(fitted));
    fitted[preprocess::kClassWeights] = data::weights_text(weights);
  }
  return class_weights_of(config, outputs, fitted);
}

}  // namespace furrow::train
