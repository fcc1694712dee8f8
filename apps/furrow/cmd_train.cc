// furrow train: runs a training from a config, or goes on with the run of a folder.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <memory>

#include "apps/furrow/commands.h"
#include "apps/furrow/signals.h"
#include "apps/furrow/sinks.h"
#include "apps/furrow/torch_library.h"
#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/log.h"
#include "furrow/config/config.h"
#include "furrow/data/dataset.h"
#include "furrow/observe/run_folder.h"

namespace furrow::app {
namespace {

// What to train and where.
struct Job {
  config::Config config;
  std::string run_folder;
  bool claimed = false;  // the folder was made to get its number: it goes again if the run never begins
};

Job job_of_run(const std::string& folder, const Arguments& arguments) {
  if (!arguments.has("--resume")) {
    throw Error(ErrorCode::kAlreadyExists,
                fmt::format("{0} already holds a run: go on with `furrow train {0} --resume`", folder));
  }
  const std::string path = folder + "/config.toml";
  const config::Config before = config::load(path);
  Job job{config::load(path, arguments.overrides), folder};
  for (const std::string& line : config::recipe_difference(recipe_of(before), recipe_of(job.config))) {
    if (job.config.debug.deterministic == "strict") {
      throw Error(ErrorCode::kFailedPrecondition,
                  fmt::format("a strict run keeps its recipe, but {}: train another run, or set "
                              "debug.deterministic = \"auto\"",
                              line));
    }
    log_warning(fmt::format("the recipe changes, so this run cannot be repeated in one go: {}", line));
  }
  return job;
}

Job job_of_config(const std::string& path, const Arguments& arguments) {
  if (std::filesystem::is_directory(path)) {
    throw Error(
        ErrorCode::kNotFound,
        fmt::format("{} is neither a config file nor the folder of a run (it has no config.toml)", path));
  }
  Job job{config::load(path, arguments.overrides), {}};
  job.run_folder = job.config.job.dump_folder;
  if (!job.run_folder.empty()) return job;
  if (arguments.has("--resume")) {
    throw Error(ErrorCode::kInvalidArgument,
                "--resume needs the run: `furrow train RUN --resume`, or a --job.dump_folder");
  }
  job.run_folder = observe::claim_run_folder("runs", std::filesystem::path(path).stem().string());
  job.claimed = true;
  return job;
}

int exit_status_of(const observe::Summary& summary, const CancelToken& cancel) {
  return summary.status == "interrupted" ? 128 + cancel.reason() : 0;
}

observe::Summary train_job(const Job& job, bool resume, const CancelToken* cancel) {
  const auto sinks = make_sinks(job.config, job.run_folder);
  train::TrainRequest request;
  request.config = job.config;
  request.run_folder = job.run_folder;
  request.resume = resume;
  request.cancel = cancel;
  for (const auto& sink : sinks) request.sinks.push_back(sink.get());
  try {
    request.dataset =
        std::make_shared<data::Dataset>(data::open_dataset(job.config));  // while libtorch loads
    return torch_entry_points().train(request);
  } catch (...) {
    if (job.claimed) ::rmdir(job.run_folder.c_str());  // only when nothing is in it
    throw;
  }
}

int run_train(const Arguments& arguments) {
  const std::string& what = arguments.positional[0];
  const Job job = observe::holds_run(what) ? job_of_run(what, arguments) : job_of_config(what, arguments);
  for (const std::string& line : config::ignored_settings(job.config)) log_warning(line);
  if (job.config.job.print_config) fmt::print(stderr, "{}", config::to_toml(job.config));
  CancelToken cancel;
  const SignalScope signals(&cancel);
  const observe::Summary summary = train_job(job, arguments.has("--resume"), &cancel);
  fmt::print("{}", arguments.has("--json") ? observe::to_json(summary) : observe::to_table(summary));
  log_info(fmt::format("run folder: {}", job.run_folder));
  if (summary.status == "interrupted") {
    log_info(fmt::format("interrupted: go on with `furrow train {} --resume`", job.run_folder));
  }
  return exit_status_of(summary, cancel);
}

constexpr Option kOptions[] = {
    {"--resume", "", "go on from the newest valid checkpoint of the run"},
    {"--json", "", "print the summary as JSON"},
};

}  // namespace

const Command kTrainCommand{
    .name = "train",
    .arguments = "CONFIG|RUN",
    .min_positional = 1,
    .max_positional = 1,
    .takes_overrides = true,
    .summary = "train a network, or go on with a run",
    .description =
        "  furrow train examples/convnet-fashion.toml --training.steps 500 --optimizer.lr 0.05\n"
        "  furrow train runs/convnet-fashion-001 --resume\n"
        "\n"
        "CONFIG is a TOML file; every key can be given as --section.key value (`furrow help config`).\n"
        "The run goes into --job.dump_folder DIR, else into runs/<config name>-NNN.\n"
        "With --resume a run goes on from its newest valid checkpoint, also after kill -9.\n"
        "SIGINT (Ctrl-C) and SIGTERM save a checkpoint and stop with status 130 or 143; a second one "
        "kills.\n",
    .options = kOptions,
    .run = run_train,
    .prepare = start_loading_torch,
};

}  // namespace furrow::app
