// Shared by the spec files of unit kinds: naming and initialising parameters, and clear errors.  Internal to
// models.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/plan/model_spec.h"

namespace furrow::models {

inline constexpr int64_t kFloatBytes = 4, kDoubleBytes = 8;

// Of a number between the operations of the unit's block; statistics stay float32.
int64_t number_bytes(const plan::Unit& unit);
// Of a sample of a border tensor.
int64_t numbers_of(const plan::TensorSpec& border);
// The same of numbers of that type.
int64_t border_bytes(const plan::Unit& unit, const plan::TensorSpec& border);

// Attributes of the unit being described.  A missing one, one of another type or one out of range is
// Error{invalid_argument} that names the unit and the key.
bool flag(const plan::Unit& unit, const std::string& key);
int64_t size_of(const plan::Unit& unit, const std::string& key);     // >= 1
int64_t count_of(const plan::Unit& unit, const std::string& key);    // >= 0
double probability(const plan::Unit& unit, const std::string& key);  // 0 <= p < 1
double positive(const plan::Unit& unit, const std::string& key);     // finite, above 0
std::string text(const plan::Unit& unit, const std::string& key);
// The attribute "activation": "none", "relu", "gelu", "gelu_tanh", "silu", "softplus", "tanh", "sigmoid" or
// "leaky_relu" (slope 0.2 where the unit has no attribute "slope").
std::string activation(const plan::Unit& unit);
// Whether backward reads its slope, which is kept; the others read their output.
bool keeps_slope(std::string_view activation);
// Whether a matrix product applies it to what it gives (tensor/ops_torch.h); the others come behind one.
bool in_product(std::string_view activation);

// Error{invalid_argument}: "unit conv1 (conv_relu_pool): message".
[[noreturn]] void unit_error(const plan::Unit& unit, const std::string& message);

// Throws unless the input is of `dtype` with `dims` dims, the microbatch included.
void require_input(const plan::Unit& unit, DType dtype, size_t dims, std::string_view form);

// `suffix` behind the unit's prefix: the attribute "prefix" if there is one, else the unit's name.
std::string parameter_name(const plan::Unit& unit, std::string_view suffix);

void add_parameter(plan::Unit& unit, std::string_view suffix, Shape shape, plan::Init init);

// The same, of a parameter that a tensor axis cuts along `axis` (plan::Parameter::tensor_segments).
void add_cut_parameter(plan::Unit& unit, std::string_view suffix, Shape shape, plan::Init init, int axis,
                       std::vector<int64_t> segments = {});

// What a block that works on positions between its products does over a tensor axis: `branches` times an
// all-gather of [time, width] before a product and a reduce-scatter behind one, mirrored backward; then one
// sum of the gradients of the replicated parameters, which saw a part of the positions each.  Gathers move
// numbers of the unit's type, sums float32.
void add_position_collectives(plan::Unit& unit, int64_t width, int branches);
void add_replicated_sum(plan::Unit& unit);
void add_collective(plan::Unit& unit, plan::UnitCollective::Phase phase, plan::UnitCollective::Op op,
                    int64_t bytes_per_sample);
// The same of a whole unit: a table of tokens, cut along the vocabulary; the last norm with a head whose
// logits are cut, and what cross-entropy exchanges of them (tensor/loss_torch.h).
void cut_embedding(plan::Unit& unit, int64_t width);
void cut_head(plan::Unit& unit, int64_t width);
void add_cross_entropy(plan::Unit& unit, int64_t rows);  // `rows` of logits in a sample

// Batch norm over `channels` as torch.nn.BatchNorm2d has it: <suffix>.weight and .bias, and the statistics
// <suffix>.running_mean, .running_var and .num_batches_tracked, by the attribute "momentum"; with the suffix
// "" they are the unit's own.
void add_batch_norm(plan::Unit& unit, std::string_view suffix, int64_t channels);

// torch.nn.Linear's and Conv2d's default: weight and bias from U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
plan::Init uniform_fan_in(int64_t fan_in);
plan::Init normal(double std);
inline plan::Init zeros() { return {plan::Init::Kind::kZeros, 0}; }
inline plan::Init ones() { return {plan::Init::Kind::kOnes, 0}; }

}  // namespace furrow::models
