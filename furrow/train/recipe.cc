#include "furrow/train/recipe.h"

#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/process.h"
#include "furrow/plan/optimizer_spec.h"
#include "furrow/plan/schedule_csv.h"

namespace furrow::train {
namespace {

constexpr uint64_t kMostScheduleBytes = uint64_t{64} << 20;

// Refused here where it is none, by its name.
std::string schedule_text(const std::string& file) {
  std::string text = read_file(file, kMostScheduleBytes);
  plan::parse_schedule_csv(text, file);
  return text;
}

}  // namespace

std::vector<int64_t> microbatch_sizes(const config::Training& training, int64_t data_ranks) {
  const int64_t local = training.local_batch_size;
  const int64_t global = config::global_batch_size(training, data_ranks);
  if (global < local) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("[training] global_batch_size {} is less than one microbatch of local_batch_size {}",
                    global, local));
  }
  std::vector<int64_t> sizes(static_cast<size_t>(global / local), local);
  if (global % local != 0) sizes.push_back(global % local);
  return sizes;
}

int threads_of(const config::Training& training) {
  return training.threads > 0 ? static_cast<int>(training.threads) : default_threads();
}

int64_t total_steps(const config::Training& training, int64_t train_samples, int64_t data_ranks) {
  if (training.epochs <= 0) return training.steps;
  const auto global = static_cast<double>(config::global_batch_size(training, data_ranks));
  return static_cast<int64_t>(std::ceil(training.epochs * static_cast<double>(train_samples) / global));
}

namespace {

// Every second of the units of a kind; of all, where no kind comes twice.
std::vector<bool> every_second(const plan::ModelSpec& spec) {
  std::vector<bool> recompute(spec.units.size(), false);
  std::map<std::string, int> seen;
  for (size_t u = 0; u < spec.units.size(); ++u) recompute[u] = ++seen[spec.units[u].kind] % 2 == 0;
  if (std::ranges::count(recompute, true) > 0) return recompute;
  for (size_t u = 1; u < spec.units.size(); u += 2) recompute[u] = true;
  return recompute;
}

}  // namespace

std::vector<bool> recompute_units(const config::ActivationCheckpoint& config, const plan::ModelSpec& spec) {
  if (config.mode != "selective") return std::vector<bool>(spec.units.size(), config.mode == "full");
  if (config.units.empty()) return every_second(spec);
  std::vector<bool> recompute(spec.units.size(), false);
  for (const std::string& pattern : config.units) {
    bool found = false;
    for (size_t u = 0; u < spec.units.size(); ++u) {
      if (fnmatch(pattern.c_str(), spec.units[u].name.c_str(), 0) != 0) continue;
      recompute[u] = found = true;
    }
    if (found) continue;
    std::string names;
    for (const plan::Unit& unit : spec.units) names += (names.empty() ? "" : ", ") + unit.name;
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("[activation_checkpoint] units: '{}' matches no unit; the units are {}", pattern, names));
  }
  return recompute;
}

namespace {

// Of a microbatch of one row a norm over the microbatch has one value per channel.
void require_rows_for_norms(const plan::ModelSpec& spec, const std::vector<int64_t>& sizes) {
  if (sizes.back() > 1) return;
  for (const plan::Unit& unit : spec.units) {
    if (unit.kind != "batch_norm" || unit.inference) continue;
    if (unit.input.bytes_per_sample() > unit.input.shape[1] * static_cast<int64_t>(sizeof(float))) continue;
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("[training] local_batch_size and global_batch_size make a microbatch of one "
                            "sample, of which unit {} (batch_norm) has one value per channel: let every "
                            "microbatch have two samples",
                            unit.name));
  }
}

}  // namespace

plan::RankOptions rank_options(const config::Config& config, const plan::ModelSpec& spec, int rank) {
  plan::RankOptions options = plan::rank_options_from(config.parallelism, config.debug, rank);
  plan::name_stages(config.parallelism, spec, &options.pipeline);
  const std::string& csv = config.parallelism.pipeline_parallel_schedule_csv;
  if (!csv.empty() && config.parallelism.pipeline_parallel_degree > 1)
    options.pipeline.csv = schedule_text(csv);
  return options;
}

plan::TrainOptions train_options(const config::Config& config, const plan::ModelSpec& spec,
                                 const plan::Layout& layout, int rank) {
  plan::TrainOptions options;
  options.microbatch_sizes = microbatch_sizes(config.training, layout.data_ranks());
  require_rows_for_norms(spec, options.microbatch_sizes);
  options.ranks = rank_options(config, spec, rank);
  options.recompute = recompute_units(config.activation_checkpoint, spec);
  options.optimizer_states =
      plan::forms_of(plan::optimizer_states(config.optimizer, config.lr_scheduler, config.ema));
  return options;
}

}  // namespace furrow::train
