// The describe functions behind the rows of kinds.cc, one file each.  Internal to models.
//
// FLOPs count the matrix products alone, two per multiply-add (Hoffmann et al., "Training compute-optimal
// large language models", 2022, appendix F); biases, norms and activations are left out.  saved_bytes and
// deferred_bytes are what the blocks in nn/ keep, without input and output, which the program counts as
// values of their own.
#pragma once

#include "furrow/plan/model_spec.h"

namespace furrow::models {

void describe_conv_relu_pool(plan::Unit& unit);
void describe_linear(plan::Unit& unit);
void describe_token_embedding(plan::Unit& unit);
void describe_transformer_block(plan::Unit& unit);
void describe_lm_head(plan::Unit& unit);
void describe_embedding(plan::Unit& unit);
void describe_llama_block(plan::Unit& unit);
void describe_llama_head(plan::Unit& unit);
void describe_rnn(plan::Unit& unit);
void describe_lstm(plan::Unit& unit);
void describe_delay(plan::Unit& unit);
void describe_conv_norm(plan::Unit& unit);
void describe_residual_block(plan::Unit& unit);
void describe_bottleneck_block(plan::Unit& unit);
void describe_pool_linear(plan::Unit& unit);
void describe_latent(plan::Unit& unit);
void describe_conv(plan::Unit& unit);
void describe_activation(plan::Unit& unit);
void describe_dropout(plan::Unit& unit);
void describe_max_pool(plan::Unit& unit);
void describe_avg_pool(plan::Unit& unit);
void describe_global_avg_pool(plan::Unit& unit);
void describe_layer_norm(plan::Unit& unit);
void describe_group_norm(plan::Unit& unit);
void describe_batch_norm(plan::Unit& unit);

}  // namespace furrow::models
