#include "apps/furrow/one_rank.h"

#include <filesystem>
#include <optional>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/process.h"
#include "furrow/observe/run_folder.h"
#include "furrow/plan/layout.h"
#include "furrow/train/recipe.h"

namespace furrow::app {
namespace {

// What two runs must have in common; what is in effect of batch and threads is compared apart.
std::string comparable(const config::Config& config) {
  config::Config same = config;
  same.training.global_batch_size = same.training.local_batch_size;
  same.training.threads = 0;
  std::string text = config::section_toml(config, "activation_checkpoint");
  text += config.training.device;
  text += config.training.enable_cpu_offload ? ", offloaded" : "";
  for (const auto& [name, value] : config::recipe_of(same)) text += "\n" + name + " = " + value;
  return text;
}

struct OneRankRun {
  int64_t global_batch = 0;
  double samples_per_second = 0;
  std::filesystem::file_time_type written;
};

// The run in `folder`, where it is one that compares.
std::optional<OneRankRun> comparable_run(const std::string& folder, const std::string& wanted, int threads) {
  const std::string summary_path = folder + "/summary.json";
  if (!observe::holds_run(folder) || !path_exists(summary_path)) return std::nullopt;
  try {
    const observe::Summary summary = observe::parse_summary(read_file(summary_path));
    if (summary.audit && summary.audit->ranks > 1) return std::nullopt;
    if (summary.samples_per_second <= 0) return std::nullopt;
    if (summary.threads != threads || summary.processor != cpu_model()) return std::nullopt;
    const config::Config config = config::load(folder + "/config.toml");
    if (comparable(config) != wanted) return std::nullopt;
    return OneRankRun{config::global_batch_size(config.training), summary.samples_per_second,
                      std::filesystem::last_write_time(summary_path)};
  } catch (const std::exception&) {
    return std::nullopt;  // a damaged neighbour
  }
}

}  // namespace

train::OneRankRates one_rank_rates(const config::Config& config, const std::string& run_folder, int ranks) {
  const std::string wanted = comparable(config);
  const int threads = train::threads_of(config.training);
  const int64_t batch =
      config::global_batch_size(config.training, plan::layout_from(config.parallelism, ranks).data_ranks());
  std::optional<OneRankRun> strong, weak;
  const auto keep_newest = [](const OneRankRun& run, std::optional<OneRankRun>* newest) {
    if (!*newest || run.written > (*newest)->written) *newest = run;
  };
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(parent_directory(run_folder), ignored)) {
    const std::optional<OneRankRun> run = comparable_run(entry.path().string(), wanted, threads);
    if (!run) continue;
    if (run->global_batch == batch) keep_newest(*run, &strong);
    if (run->global_batch * ranks == batch) keep_newest(*run, &weak);
  }
  train::OneRankRates rates;
  if (strong) rates.same_batch = strong->samples_per_second;
  if (weak) rates.same_batch_a_rank = weak->samples_per_second;
  return rates;
}

}  // namespace furrow::app
