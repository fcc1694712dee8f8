// Single and recurrent layers on sizes (sized_blocks.h).  Internal to models.
#pragma once

#include "furrow/models/sized_operations.h"

namespace furrow::models {

// In training, where a unit drops anything.
bool drops(const plan::Unit& unit, const char* probability = "dropout");

namespace sized_layers {

using Tensor = MemoryTape::Tensor;

Tensor linear(const plan::Unit& unit, const Tensor& input, SizedOperations* ops);
Tensor pool_linear(const plan::Unit& unit, const Tensor& input, SizedOperations* ops);
Tensor conv(const plan::Unit& unit, const Tensor& input, SizedOperations* ops);
Tensor conv_relu_pool(const plan::Unit& unit, const Tensor& input, SizedOperations* ops);
Tensor rnn(const plan::Unit& unit, const Tensor& input, SizedOperations* ops);
Tensor lstm(const plan::Unit& unit, const Tensor& input, SizedOperations* ops);
Tensor activation_layer(const plan::Unit& unit, const Tensor& input, SizedOperations* ops);
Tensor dropout(const plan::Unit& unit, const Tensor& input, SizedOperations* ops);
Tensor max_pool(const plan::Unit& unit, const Tensor& input, SizedOperations* ops);
Tensor resampled(const plan::Unit& unit, const Tensor& input, SizedOperations* ops);
Tensor layer_norm(const plan::Unit& unit, const Tensor& input, SizedOperations* ops);
Tensor group_norm(const plan::Unit& unit, const Tensor& input, SizedOperations* ops);
Tensor batch_norm(const plan::Unit& unit, const Tensor& input, SizedOperations* ops);

}  // namespace sized_layers
}  // namespace furrow::models
