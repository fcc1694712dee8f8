// The makers that the table in blocks.cc names: one file each.
#pragma once

#include <memory>

#include "furrow/nn/block_torch.h"

namespace furrow::nn {

std::unique_ptr<Block> make_linear(const plan::Unit& unit);
std::unique_ptr<Block> make_conv_relu_pool(const plan::Unit& unit);
std::unique_ptr<Block> make_token_embedding(const plan::Unit& unit);
std::unique_ptr<Block> make_transformer_block(const plan::Unit& unit);
std::unique_ptr<Block> make_lm_head(const plan::Unit& unit);
std::unique_ptr<Block> make_embedding(const plan::Unit& unit);
std::unique_ptr<Block> make_llama_block(const plan::Unit& unit);
std::unique_ptr<Block> make_llama_head(const plan::Unit& unit);
std::unique_ptr<Block> make_rnn(const plan::Unit& unit);
std::unique_ptr<Block> make_lstm(const plan::Unit& unit);
std::unique_ptr<Block> make_delay(const plan::Unit& unit);
std::unique_ptr<Block> make_conv_norm(const plan::Unit& unit);
std::unique_ptr<Block> make_residual_block(const plan::Unit& unit);
std::unique_ptr<Block> make_bottleneck_block(const plan::Unit& unit);
std::unique_ptr<Block> make_pool_linear(const plan::Unit& unit);
std::unique_ptr<Block> make_latent(const plan::Unit& unit);
std::unique_ptr<Block> make_conv(const plan::Unit& unit);
std::unique_ptr<Block> make_activation(const plan::Unit& unit);
std::unique_ptr<Block> make_dropout(const plan::Unit& unit);
std::unique_ptr<Block> make_max_pool(const plan::Unit& unit);
std::unique_ptr<Block> make_avg_pool(const plan::Unit& unit);
std::unique_ptr<Block> make_global_avg_pool(const plan::Unit& unit);
std::unique_ptr<Block> make_layer_norm(const plan::Unit& unit);
std::unique_ptr<Block> make_group_norm(const plan::Unit& unit);
std::unique_ptr<Block> make_batch_norm(const plan::Unit& unit);

}  // namespace furrow::nn
