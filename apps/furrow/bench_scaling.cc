#include "apps/furrow/bench_scaling.h"

#include <fmt/format.h>
#include <stdlib.h>

#include <algorithm>
#include <cerrno>
#include <map>

#include "apps/furrow/launcher.h"
#include "apps/furrow/plan_model.h"
#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/log.h"
#include "furrow/config/config.h"
#include "furrow/observe/summary.h"
#include "furrow/plan/compatibility.h"
#include "furrow/plan/compile.h"
#include "furrow/train/recipe.h"

namespace furrow::app {
namespace {

// Goes with the object.
class ScratchFolder {
 public:
  ScratchFolder() {
    const char* root = ::getenv("TMPDIR");
    path_ = fmt::format("{}/furrow-bench-XXXXXX", root == nullptr ? "/tmp" : root);
    if (::mkdtemp(path_.data()) == nullptr) throw errno_error(errno, "create", path_);
  }
  ~ScratchFolder() { remove_all(path_); }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Samples per second of one training, or of several at a time.
struct Rate {
  double all = 0, slowest = 0;  // the slowest of those that are independent
  double straggler_wait = 0;
};

class Trainings {
 public:
  explicit Trainings(const ScalingOptions& options)
      : options_(options), batch_(config::global_batch_size(load().training)) {
    for (const int ranks : options.ranks) check_batch(ranks);
    const plan::ModelSpec model = planned_model(load()).spec;
    for (const int ranks : options.ranks) check_layout(ranks, model);
  }

  Rate of_ranks(int ranks) { return run(ranks, false, batch_of(ranks)); }
  Rate independent(int ranks) { return run(ranks, true, batch_); }

 private:
  config::Config load() const { return config::load(options_.config, options_.overrides); }
  int64_t batch_of(int ranks) const { return batch_ * (options_.strong ? 1 : ranks); }
  void check_batch(int ranks) const;
  void check_layout(int ranks, const plan::ModelSpec& model) const;
  std::string write_alone(const std::string& folder) const;
  Rate run(int ranks, bool independent, int64_t global_batch) const;

  const ScalingOptions& options_;
  int64_t batch_;
};

void Trainings::check_batch(int ranks) const {
  const int64_t local = load().training.local_batch_size, microbatches = (batch_ + local - 1) / local;
  if (!options_.strong || microbatches >= ranks) return;
  throw Error(
      ErrorCode::kInvalidArgument,
      fmt::format(
          "strong scaling shares one batch: {} samples are {} microbatches of {}, too few for {} ranks; "
          "set --training.global_batch_size to at least {}, or use --weak",
          batch_, microbatches, local, ranks, local * ranks));
}

// What a rank compiles when it starts, before anything has trained.
void Trainings::check_layout(int ranks, const plan::ModelSpec& model) const try {
  if (ranks == 1) return;
  config::Config config = load();
  config.training.global_batch_size = batch_of(ranks);
  const plan::Layout layout = plan::compilable_layout(config.parallelism, ranks);
  const plan::ModelSpec spec = plan::compilable_spec(layout, model);
  plan::compile_train(spec, layout, train::train_options(config, spec, layout));
} catch (const Error& error) {
  throw error.with_context(fmt::format("nothing is measured: {} ranks", ranks));
}

// A config without [parallelism], in `folder`: how ranks share the work means nothing to one.
std::string Trainings::write_alone(const std::string& folder) const {
  config::Config config = load();
  config.parallelism = {};
  const std::string file = folder + "/alone.toml";
  write_file_atomic(file, config::to_toml(config));
  return file;
}

Rate Trainings::run(int ranks, bool independent, int64_t global_batch) const {
  const ScratchFolder scratch;
  LaunchRequest request;
  request.words = {"train", options_.config};
  if (ranks == 1 || independent) {
    request.words[1] = write_alone(scratch.path());
  } else {
    request.words.insert(request.words.end(), options_.overrides.begin(), options_.overrides.end());
  }
  const std::vector<std::string> settings = {"--job.dump_folder",
                                             scratch.path() + (independent ? "/{rank}" : "/0"),
                                             "--training.steps",
                                             std::to_string(options_.steps),
                                             "--training.global_batch_size",
                                             std::to_string(global_batch),
                                             "--lr_scheduler.warmup_steps",
                                             "0",
                                             "--checkpoint.enable=false",
                                             "--validation.enable=false",
                                             "--metrics.enable_plots=false",
                                             "--metrics.enable_tensorboard=false",
                                             "--metrics.log_freq",
                                             "1000000"};
  request.words.insert(request.words.end(), settings.begin(), settings.end());
  request.ranks = ranks;
  request.threads = 1;
  request.quiet = true;
  request.independent = independent;
  std::string printed;
  request.output = &printed;
  const Launched launched = launch(request);
  if (launched.exit_status != 0) {
    throw Error(ErrorCode::kFailedPrecondition,
                fmt::format("the training on {} {}ranks failed: {}", ranks, independent ? "independent " : "",
                            launched.error.empty() ? "interrupted" : launched.error));
  }
  Rate rate;
  for (int rank = 0; rank < (independent ? ranks : 1); ++rank) {
    const observe::Summary summary =
        observe::parse_summary(read_file(fmt::format("{}/{}/summary.json", scratch.path(), rank)));
    rate.all += summary.samples_per_second;
    rate.slowest = rank == 0 ? rate.all : std::min(rate.slowest, summary.samples_per_second);
    if (summary.audit) rate.straggler_wait = summary.audit->straggler_wait.value_or(0);
  }
  return rate;
}

struct Measured {
  std::vector<double> rate, independent, efficiency, efficiency_slowest, straggler_wait;

  void add(int ranks, const Rate& together, const Rate& apart) {
    rate.push_back(together.all);
    independent.push_back(apart.all);
    efficiency.push_back(together.all / apart.all);
    efficiency_slowest.push_back(together.all / (ranks * apart.slowest));
    straggler_wait.push_back(together.straggler_wait);
  }
};

}  // namespace

Spread spread_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  const double median = values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return {median, values.front(), values.back()};
}

std::vector<ScalingRow> bench_scaling(const ScalingOptions& options) {
  Trainings trainings(options);
  std::map<int, Measured> measured;
  std::vector<double> alone;
  for (int repeat = 0; repeat < options.repeats; ++repeat) {
    log_info(fmt::format("repeat {} of {}", repeat + 1, options.repeats));
    alone.push_back(trainings.independent(1).all);
    for (const int ranks : options.ranks) {
      const Rate together = trainings.of_ranks(ranks);
      measured[ranks].add(ranks, together, trainings.independent(ranks));
    }
  }
  std::vector<ScalingRow> rows;
  for (const int ranks : options.ranks) {
    const Measured& m = measured[ranks];
    rows.push_back({ranks, spread_of(m.rate), spread_of(m.independent), spread_of(alone),
                    spread_of(m.efficiency), spread_of(m.efficiency_slowest),
                    spread_of(m.straggler_wait).median});
  }
  return rows;
}

Table scaling_table(const std::vector<ScalingRow>& rows, bool strong) {
  Table table({{"scaling"},
               {"ranks"},
               {"samples/s", "samples_per_second", 1},
               {"least", "samples_per_second_least", 1},
               {"most", "samples_per_second_most", 1},
               {"independent", "independent_samples_per_second", 1},
               {"alone", "alone_samples_per_second", 1},
               {"efficiency", "efficiency", 3},
               {"least", "efficiency_least", 3},
               {"most", "efficiency_most", 3},
               {"against one alone", "efficiency_alone", 3},
               {"against the slowest", "efficiency_slowest", 3},
               {"straggler wait", "straggler_wait", 3}});
  for (const ScalingRow& row : rows) {
    table.add_row({std::string(strong ? "strong" : "weak"), static_cast<int64_t>(row.ranks), row.rate.median,
                   row.rate.least, row.rate.most, row.independent.median, row.alone.median,
                   row.efficiency.median, row.efficiency.least, row.efficiency.most, row.efficiency_alone(),
                   row.efficiency_slowest.median, row.straggler_wait});
  }
  return table;
}

}  // namespace furrow::app
