// What the classes of a run count in its loss.  Torch-free.
#pragma once

#include <cstdint>
#include <vector>

#include "furrow/base/clock.h"
#include "furrow/data/dataset.h"

namespace furrow::config {
struct Config;
}

namespace furrow::train {

// Those of [training] class_weights; with balance_classes those that the fitted state of `dataset` holds, or
// else those of its training split, which the state then holds for the run's folder and its model.  None:
// every class counts alike.  `outputs` of the model.  Error{invalid_argument}: another number of them.
std::vector<float> class_weights_of(const config::Config& config, int64_t outputs, data::Dataset* dataset,
                                    const CancelToken* cancel);

// The same of a model whose fitted state is there, and no data.
std::vector<float> class_weights_of(const config::Config& config, int64_t outputs,
                                    const data::Preprocessing& fitted);

}  // namespace furrow::train
