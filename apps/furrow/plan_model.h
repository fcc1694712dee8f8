// The model that a config describes, for `furrow plan`: from the data's shapes, without opening libtorch.
#pragma once

#include <cstdint>

#include "furrow/config/config.h"
#include "furrow/models/architectures.h"
#include "furrow/plan/model_spec.h"

namespace furrow::app {

struct PlannedModel {
  plan::ModelSpec spec;
  models::DataShape shape;
  int64_t classes = 0;
  int64_t train_samples = 0;  // 0: the data is not there
};

// Error{invalid_argument}: [model] name is none of models::architectures().  Needs no data.
void check_architecture(const config::Config& config);

// Where the data of a language model is missing but [model] vocab_size is given, shapes come from that and
// [training] seq_len, with a line on stderr.  Error{not_found}: no data otherwise.
PlannedModel planned_model(const config::Config& config);

// The same model under another config, such as one of another precision.
plan::ModelSpec planned_spec(const config::Config& config, const models::DataShape& shape);

}  // namespace furrow::app
