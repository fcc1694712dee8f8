// furrow train: runs a training from a config, or goes on with the run of a folder; on one rank or several.
#include <fmt/format.h>

#include <csignal>
#include <cstdio>
#include <memory>
#include <optional>
#include <system_error>

#include "apps/furrow/commands.h"
#include "apps/furrow/launcher.h"
#include "apps/furrow/one_rank.h"
#include "apps/furrow/progress_line.h"
#include "apps/furrow/ranks.h"
#include "apps/furrow/signals.h"
#include "apps/furrow/sinks.h"
#include "apps/furrow/torch_library.h"
#include "apps/furrow/train_job.h"
#include "furrow/base/error.h"
#include "furrow/base/log.h"
#include "furrow/data/dataset.h"
#include "furrow/data/fitted_values.h"
#include "furrow/observe/run_folder.h"
#include "furrow/plan/batch_check.h"
#include "furrow/plan/compatibility.h"
#include "furrow/train/recipe.h"
#include "furrow/train/shared_data.h"

namespace furrow::app {
namespace {

// This command once more, as each rank runs it.
std::vector<std::string> words_of_a_rank(const Arguments& arguments) {
  std::vector<std::string> words{"train", arguments.positional[0]};
  for (const char* option : {"--resume", "--json"}) {
    if (arguments.has(option)) words.emplace_back(option);
  }
  words.insert(words.end(), arguments.overrides.begin(), arguments.overrides.end());
  return words;
}

// A layout that cannot be is refused before anything starts.
void check_layout(const config::Config& config, int ranks) {
  const plan::Layout layout = plan::compilable_layout(config.parallelism, ranks);
  plan::check_microbatches(train::microbatch_sizes(config.training, layout.data_ranks()), layout);
}

// Starts the ranks and watches them; what is wrong with the command is said here, once.
int launch_train(const Arguments& arguments) {
  LaunchRequest request;
  request.ranks = parse_ranks(arguments.get("--nproc", ""));
  refuse_inside_a_world();
  const TrainJob job = train_job(arguments, {});
  try {
    refuse_to_launch(job.config, "train CONFIG --comm.backend mpi");
    if (!arguments.has("--resume") && observe::holds_run(job.run_folder))
      observe::throw_holds_run(job.run_folder);
    check_layout(job.config, request.ranks);
    request.words = words_of_a_rank(arguments);
    request.threads = static_cast<int>(job.config.training.threads);
    request.run_folder = job.run_folder;
    if (job.claimed) request.environment.emplace_back(kRunFolderVariable, job.run_folder);
    const Launched launched = launch(request);
    give_up_claim(job);
    return report(launched);
  } catch (...) {
    give_up_claim(job);
    throw;
  }
}

// On rank 0, with its progress.
data::Dataset open_data(comm::Communicator* communicator, const TrainJob& job, bool resume,
                        const CancelToken* cancel) {
  const bool first = communicator == nullptr || communicator->rank() == 0;
  std::optional<data::Preprocessing> kept;
  if (first && resume) kept = data::read_fitted(job.run_folder);
  ProgressLine line("data read");
  data::DatasetOptions options = data::dataset_options(job.config);
  options.opening.cancel = cancel;
  if (first) {
    options.opening.progress = [&](uint64_t done, uint64_t total) { line.show(done, total); };
    options.opening.listed = [&](uint64_t files) { line.count(files); };
  }
  return train::open_shared(communicator, options, kept);
}

observe::Summary train_on(comm::Membership& membership, const TrainJob& job, bool resume,
                          const CancelToken* cancel) {
  const bool first = membership.world().rank == 0;
  const auto sinks = first ? make_sinks(job.config, job.run_folder) : decltype(make_sinks({}, {})){};
  train::TrainRequest request;
  request.config = job.config;
  request.run_folder = job.run_folder;
  request.resume = resume;
  request.cancel = cancel;
  for (const auto& sink : sinks) request.sinks.push_back(sink.get());
  request.local_rank = membership.world().local_rank;
  if (membership.world().size > 1) {
    request.communicator = &membership.communicator();
    if (first) request.one_rank = one_rank_rates(job.config, job.run_folder, membership.world().size);
  }
  request.dataset = std::make_shared<data::Dataset>(
      open_data(request.communicator, job, resume, cancel));  // while libtorch loads
  if (request.communicator != nullptr) train::require_same_data(*request.communicator, *request.dataset);
  return torch_entry_points().train(request);
}

void print_result(const observe::Summary& summary, const TrainJob& job, bool as_json) {
  fmt::print("{}", as_json ? observe::to_json(summary) : observe::to_table(summary));
  log_info(fmt::format("run folder: {}", job.run_folder));
  if (summary.status != "interrupted") return;
  log_info(fmt::format("interrupted: go on with `furrow train {} --resume`", job.run_folder));
}

// Another rank may have got the signal.
int exit_status_of(const observe::Summary& summary, const CancelToken& cancel) {
  if (summary.status != "interrupted") return 0;
  return 128 + (cancel.cancelled() ? cancel.reason() : SIGTERM);
}

int run_train(const Arguments& arguments) {
  if (arguments.has("--nproc")) return launch_train(arguments);
  const comm::World world = this_world();
  TrainJob job;
  before_joining(world, [&] { job = train_job(arguments, world); });
  const bool first = world.rank == 0;
  if (first) {
    for (const std::string& line : job.warnings) log_warning(line);
    if (job.config.job.print_config) fmt::print(stderr, "{}", config::to_toml(job.config));
  }
  CancelToken cancel;
  const SignalScope signals(&cancel);
  observe::Summary summary;
  try {
    in_world(world, job.config, &cancel, [&](comm::Membership& membership) {
      summary = train_on(membership, job, arguments.has("--resume"), &cancel);
    });
  } catch (const Error& error) {
    give_up_claim(job);
    if (error.code() != ErrorCode::kCancelled || !cancel.cancelled()) throw;
    if (first) log_info(error.what());  // before there was anything to save
    return 128 + cancel.reason();
  } catch (...) {
    give_up_claim(job);
    throw;
  }
  try {
    if (first) print_result(summary, job, arguments.has("--json"));
  } catch (const std::system_error&) {  // the terminal that has closed
    if (cancel.reason() != SIGHUP) throw;
  }
  return exit_status_of(summary, cancel);
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
        "  furrow train examples/gpt-shakespeare.toml --nproc 2\n"
        "\n"
        "CONFIG is a TOML file; every key can be given as --section.key value (`furrow help config`).\n"
        "The run goes into --job.dump_folder DIR, else into runs/<config name>-NNN.\n"
        "With --resume a run goes on from its newest valid checkpoint, also after kill -9; CONFIG\n"
        "--job.dump_folder DIR --resume begins it where DIR holds none yet.\n"
        "--nproc N trains on N ranks of this machine, also to go on with a run of another number; under\n"
        "torchrun, srun and mpirun the environment is enough (docs/howto/train-on-ranks.md).\n"
        "SIGINT (Ctrl-C), SIGTERM and SIGHUP (the terminal closes) save a checkpoint and stop with status\n"
        "130, 143 or 129; a second SIGINT or SIGTERM kills.\n",
    .options = kOptions,
    .run = run_train,
    .prepare = start_loading_torch_on_ranks,
};

}  // namespace furrow::app
