// furrow profile: measures the units and links of a config on this machine, for predictions.
#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <memory>

#include "apps/furrow/commands.h"
#include "apps/furrow/launcher.h"
#include "apps/furrow/ranks.h"
#include "apps/furrow/torch_library.h"
#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/log.h"
#include "furrow/base/table.h"
#include "furrow/config/config.h"
#include "furrow/data/dataset.h"
#include "furrow/observe/run_folder.h"
#include "furrow/plan/profile.h"
#include "furrow/train/predict.h"
#include "furrow/train/shared_data.h"

namespace furrow::app {
namespace {

config::Config config_of(const Arguments& arguments) {
  const std::string& what = arguments.positional[0];
  return config::load(observe::holds_run(what) ? what + "/config.toml" : what, arguments.overrides);
}

int launch_profile(const Arguments& arguments) {
  LaunchRequest request;
  request.ranks = parse_ranks(arguments.get("--nproc", ""));
  refuse_inside_a_world();
  const config::Config config = config_of(arguments);
  refuse_to_launch(config, "profile CONFIG --comm.backend mpi");
  request.words = {"profile", arguments.positional[0]};
  if (arguments.has("--out"))
    request.words.insert(request.words.end(), {"--out", arguments.get("--out", "")});
  if (arguments.has("--json")) request.words.emplace_back("--json");
  request.words.insert(request.words.end(), arguments.overrides.begin(), arguments.overrides.end());
  request.threads = static_cast<int>(config.training.threads);
  return report(launch(request));
}

std::string measure(const comm::World& world, const config::Config& config) {
  std::string text;
  in_world(world, config, nullptr, [&](comm::Membership& membership) {
    train::TrainRequest request;
    request.config = config;
    if (world.size > 1) request.communicator = &membership.communicator();
    request.dataset = std::make_shared<data::Dataset>(
        train::open_shared(request.communicator, data::dataset_options(config), {}));  // while libtorch loads
    text = torch_entry_points().profile(request);
  });
  return text;
}

// What was measured before of other units, sizes and numbers of ranks stays.
void store(const plan::Profile& measured, const std::string& path) {
  plan::Profile all;
  try {
    if (path_exists(path)) all = plan::parse_profile(read_file(path));
  } catch (const Error& error) {
    throw error.with_context(path + " is not replaced");
  }
  plan::merge_profile(measured, &all);
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  if (!folder.empty()) std::filesystem::create_directories(folder);
  write_file_atomic(path, plan::to_text(all));
}

Table table_of(const plan::ProfileSection& section) {
  constexpr std::string_view kWorks[] = {"forward", "backward_input", "backward_weight"};
  Table table({{"kind"}, {"key"}, {"work"}, {"samples"}, {"ms"}, {"GFLOP/s", "gflops_per_second"}});
  for (const plan::UnitSample& unit : section.units) {
    const double rate = unit.seconds > 0 ? unit.flops / unit.seconds / 1e9 : 0;
    table.add_row({unit.kind, unit.key, std::string(kWorks[static_cast<size_t>(unit.work)]), unit.samples,
                   unit.seconds * 1e3, rate});
  }
  return table;
}

int run_profile(const Arguments& arguments) {
  if (arguments.has("--nproc")) return launch_profile(arguments);
  const comm::World world = this_world();
  config::Config config;
  before_joining(world, [&] { config = config_of(arguments); });
  const std::string text = measure(world, config);
  if (text.empty()) return 0;  // another rank's
  const plan::Profile profile = plan::parse_profile(text);
  const std::string path = arguments.get("--out", train::profile_file());
  store(profile, path);
  fmt::print("{}", table_of(profile.sections[0]).print(arguments.has("--json")));
  log_info(fmt::format("{} units, {} buffers, {} collectives with {} rank(s): {}",
                       profile.sections[0].units.size(), profile.sections[0].flats.size(),
                       profile.sections[0].movements.size(), world.size, path));
  return 0;
}

constexpr Option kOptions[] = {
    {"--nproc", "N", "measure with N ranks at work at the same time, and their collectives"},
    {"--out", "FILE", "the profile to add to (default: the one that predictions read)"},
    {"--json", "", "print JSON"},
};

}  // namespace

const Command kProfileCommand{
    .name = "profile",
    .arguments = "CONFIG|RUN",
    .min_positional = 1,
    .max_positional = 1,
    .takes_overrides = true,
    .summary = "measure units and links on this machine, for predictions",
    .description =
        "  furrow profile examples/gpt-shakespeare.toml\n"
        "  furrow profile examples/gpt-shakespeare.toml --nproc 2\n"
        "  furrow profile examples/gpt-shakespeare.toml --training.device cuda\n"
        "\n"
        "Runs the units of a network at a quarter to twice its microbatch, and with --nproc the collectives\n"
        "of the ranks; of a device also what the thread takes to tell it each of them, and copies to the "
        "host.\n"
        "The profile (docs/formats/profile.md) is what `furrow train` predicts with from then on:\n"
        "FURROW_PROFILE, else furrow/profile in your configuration folder. Profiles add up.\n",
    .options = kOptions,
    .run = run_profile,
    .prepare = start_loading_torch_on_ranks,
};

}  // namespace furrow::app
