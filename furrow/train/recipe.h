// The arithmetic of a training run, from its config: microbatches, steps, recompute.  Torch-free.
#pragma once

#include <cstdint>
#include <vector>

#include "furrow/config/config.h"
#include "furrow/plan/compile.h"
#include "furrow/plan/model_spec.h"

namespace furrow::train {

// The microbatches of all data ranks: local_batch_size, as often as it fits into global_batch_size, and the
// rest, if any.  Error{invalid_argument}: less than one.
std::vector<int64_t> microbatch_sizes(const config::Training& training, int64_t data_ranks = 1);

// [training] steps, or epochs over `train_samples` rounded up to whole steps.
int64_t total_steps(const config::Training& training, int64_t train_samples, int64_t data_ranks = 1);

// Of a rank: [training] threads, else what its launcher or the machine gives it.
int threads_of(const config::Training& training);

// Whether the loss compares with a right answer, so that some share of the answers is right: not that of
// numbers.
inline bool has_accuracy(const config::Training& training) { return training.loss != "mse"; }

// Per unit, from [activation_checkpoint]: none, full, or the units whose name matches one of its patterns;
// without patterns every second unit of a kind, and every second of all where no kind comes twice.
// Error{invalid_argument}: a pattern that matches no unit.
std::vector<bool> recompute_units(const config::ActivationCheckpoint& config, const plan::ModelSpec& spec);

// How ranks share a program of the model, its stages counted and the file of [parallelism]
// pipeline_parallel_schedule_csv read.  Errors of both.
plan::RankOptions rank_options(const config::Config& config, const plan::ModelSpec& spec, int rank);

// What the training program of a rank is compiled from: the one place for `furrow plan` and a run alike.
plan::TrainOptions train_options(const config::Config& config, const plan::ModelSpec& spec,
                                 const plan::Layout& layout = {}, int rank = 0);

}  // namespace furrow::train
