// furrow train: runs a training from a config, or goes on with the run of a folder.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>

#include "apps/furrow/commands.h"
#include "apps/furrow/launcher.h"
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

// The launcher's claimed folder, for its ranks.
constexpr const char* kRunFolderVariable = "FURROW_RUN_FOLDER";

// What to train and where.
struct Job {
  config::Config config;
  std::string run_folder;
  bool claimed = false;  // the folder was made to get its number: it goes again if the run never begins
};

void give_up_claim(const Job& job) {
  if (job.claimed) ::rmdir(job.run_folder.c_str());  // only when nothing is in it
}

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
  if (const char* claimed = std::getenv(kRunFolderVariable)) {
    job.run_folder = claimed;
    return job;
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
    give_up_claim(job);
    throw;
  }
}

Job job_of(const Arguments& arguments) {
  const std::string& what = arguments.positional[0];
  return observe::holds_run(what) ? job_of_run(what, arguments) : job_of_config(what, arguments);
}

// This command once more, as each rank runs it.
std::vector<std::string> words_of_a_rank(const Arguments& arguments) {
  std::vector<std::string> words{"train", arguments.positional[0]};
  for (const char* option : {"--resume", "--json"}) {
    if (arguments.has(option)) words.emplace_back(option);
  }
  words.insert(words.end(), arguments.overrides.begin(), arguments.overrides.end());
  return words;
}

// Starts the ranks and watches them; what is wrong with the command is said here, once.
int launch_train(const Arguments& arguments, int ranks) {
  const Job job = job_of(arguments);
  if (!arguments.has("--resume") && observe::holds_run(job.run_folder)) {
    observe::throw_holds_run(job.run_folder);
  }
  LaunchRequest request;
  request.words = words_of_a_rank(arguments);
  request.ranks = ranks;
  request.threads = static_cast<int>(job.config.training.threads);
  request.run_folder = job.run_folder;
  if (job.claimed) request.environment.emplace_back(kRunFolderVariable, job.run_folder);
  const Launched launched = launch(request);
  give_up_claim(job);
  if (!launched.error.empty()) fmt::print(stderr, "furrow: error: {}\n", launched.error);
  return launched.exit_status;
}

int run_train(const Arguments& arguments) {
  if (arguments.has("--nproc")) {
    const int ranks = parse_ranks(arguments.get("--nproc", ""));
    refuse_inside_a_world();
    return launch_train(arguments, ranks);
  }
  const Job job = job_of(arguments);
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

// The launcher itself computes nothing.
void prepare_train(std::span<const std::string> words) {
  const auto is_nproc = [](const std::string& word) {
    return word == "--nproc" || word.starts_with("--nproc=");
  };
  if (std::none_of(words.begin(), words.end(), is_nproc)) start_loading_torch();
}

constexpr Option kOptions[] = {
    {"--nproc", "N", "train on N ranks of this machine"},
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
    .prepare = prepare_train,
};

}  // namespace furrow::app
