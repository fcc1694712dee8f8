// The describe functions behind the rows of architectures.cc, one file each.  Internal to models.
#pragma once

#include <string>

#include "furrow/models/architectures.h"

namespace furrow::models {

plan::ModelSpec describe_mlp(const config::Model& model, const DataShape& data);
plan::ModelSpec describe_convnet(const config::Model& model, const DataShape& data);
plan::ModelSpec describe_gpt(const config::Model& model, const DataShape& data);
plan::ModelSpec describe_blocks(const config::Model& model, const DataShape& data);
plan::ModelSpec describe_llama(const config::Model& model, const DataShape& data);
plan::ModelSpec describe_rnn_model(const config::Model& model, const DataShape& data);
plan::ModelSpec describe_lstm_model(const config::Model& model, const DataShape& data);
plan::ModelSpec describe_resnet18(const config::Model& model, const DataShape& data);
plan::ModelSpec describe_gan(const config::Model& model, const DataShape& data);
plan::ModelSpec describe_resnet20(const config::Model& model, const DataShape& data);

// Error{invalid_argument}: "[model] name = mlp: message".
[[noreturn]] void model_error(const config::Model& model, const std::string& message);

// Error{invalid_argument} unless the data is tokens, int64 [-1, time].
void require_tokens(const config::Model& model, const DataShape& data);

// Appends a unit that reads the output of the last one.  REQUIRES: there is one.
void append(plan::ModelSpec* spec, std::string name, std::string_view kind, plan::Attributes attributes);

}  // namespace furrow::models
