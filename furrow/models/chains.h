// The describe functions behind the rows of architectures.cc, one file each.  Internal to models.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

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

// Error{invalid_argument} unless the data is float32 samples.
void require_samples(const config::Model& model, const DataShape& data);

// Numbers of a sample: the product of all but the first dimension.
int64_t features_of(const plan::TensorSpec& input);

// Linear layers fc1, fc2, ...: one for each of `hidden`, and one onto `out`.
struct LinearLayers {
  std::string prefix = {};  // of the units' names: "generator."
  std::vector<int64_t> hidden;
  std::string activation;  // of the hidden ones
  int64_t out = 1;
  std::string last = "none";           // activation onto `out`
  int32_t source = plan::kUnitBefore;  // of the first one
  std::string owner = {};              // prefix of the parameters that they tie; "": their own
};

// Appends them; the first reads `input`.
void append_layers(const LinearLayers& layers, plan::TensorSpec input, plan::ModelSpec* spec);

// Error{invalid_argument} unless the data is tokens, int64 [-1, time].
void require_tokens(const config::Model& model, const DataShape& data);

// Appends a unit that reads the output of the last one.  REQUIRES: there is one.
void append(plan::ModelSpec* spec, std::string name, std::string_view kind, plan::Attributes attributes);

}  // namespace furrow::models
