#include "apps/furrow/train_job.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "apps/furrow/plan_model.h"
#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/observe/run_folder.h"

namespace furrow::app {
namespace {

// Where an earlier start of the run went on from is nothing that a later one keeps: it has trained since.
config::Config config_to_go_on(const std::string& path, const Arguments& arguments) {
  std::vector<std::string> words{"--checkpoint.load_step=-1"};
  words.insert(words.end(), arguments.overrides.begin(), arguments.overrides.end());
  return config::load(path, words);
}

TrainJob job_of_run(const std::string& folder, const Arguments& arguments) {
  if (!arguments.has("--resume")) {
    throw Error(ErrorCode::kAlreadyExists,
                fmt::format("{0} already holds a run: go on with `furrow train {0} --resume`", folder));
  }
  const std::string path = folder + "/config.toml";
  const config::Config before = config::load(path);
  TrainJob job;
  job.config = config_to_go_on(path, arguments);
  job.run_folder = folder;
  for (const std::string& line : config::recipe_difference(recipe_of(before), recipe_of(job.config))) {
    if (job.config.debug.deterministic == "strict") {
      throw Error(ErrorCode::kFailedPrecondition,
                  fmt::format("a strict run keeps its recipe, but {}: train another run, or set "
                              "debug.deterministic = \"auto\"",
                              line));
    }
    job.warnings.push_back(
        fmt::format("the recipe changes, so this run cannot be repeated in one go: {}", line));
  }
  return job;
}

TrainJob job_of_config(const std::string& path, const Arguments& arguments, const comm::World& world) {
  TrainJob job;
  job.config = config::load(path, arguments.overrides);
  check_architecture(job.config);  // before the data are looked for, and a run folder is made
  job.run_folder = job.config.job.dump_folder;
  if (!job.run_folder.empty()) return job;
  if (arguments.has("--resume")) {
    throw Error(ErrorCode::kInvalidArgument,
                "--resume needs the run: `furrow train RUN --resume`, or a --job.dump_folder");
  }
  if (const char* claimed = std::getenv(kRunFolderVariable)) {
    job.run_folder = claimed;
  } else if (world.rank == 0) {
    job.run_folder = observe::claim_run_folder("runs", std::filesystem::path(path).stem().string());
    job.claimed = true;
  }
  return job;
}

}  // namespace

TrainJob train_job(const Arguments& arguments, const comm::World& world) {
  const std::string& what = arguments.positional[0];
  TrainJob job =
      observe::holds_run(what) ? job_of_run(what, arguments) : job_of_config(what, arguments, world);
  for (const std::string& line : config::ignored_settings(job.config)) job.warnings.push_back(line);
  return job;
}

void give_up_claim(const TrainJob& job) {
  if (job.claimed) ::rmdir(job.run_folder.c_str());  // only when it is empty
}

}  // namespace furrow::app
