// furrow plan: what a run would execute and need, without running it and without libtorch.
#include <algorithm>
#include <iterator>

#include "apps/furrow/commands.h"
#include "apps/furrow/plan_model.h"
#include "apps/furrow/plan_print.h"
#include "apps/furrow/plan_search.h"
#include "furrow/config/config.h"
#include "furrow/observe/run_folder.h"
#include "furrow/train/predict.h"

namespace furrow::app {
namespace {

// Options of the search alone, without --cluster: this machine is meant.
bool searches(const Arguments& arguments) {
  constexpr std::string_view kSearching[] = {"--cluster",  "--scale",  "--objective",
                                             "--deadline", "--write",  "--explain",
                                             "--without",  "--layout", "--allow-recipe-change"};
  return std::any_of(std::begin(kSearching), std::end(kSearching),
                     [&](std::string_view option) { return arguments.has(option); });
}

int run_plan(const Arguments& arguments) {
  const std::string& what = arguments.positional[0];
  const std::string file = observe::holds_run(what) ? what + "/config.toml" : what;
  const config::Config config = config::load(file, arguments.overrides);
  if (searches(arguments)) return run_plan_search(config, arguments);
  const int ranks = number_option(arguments, "--nproc", 1, 1 << 16);
  LayoutView view = layout_view(arguments, ranks);
  const std::string& device = config.training.device;
  if (device != "cpu") view.device = train::profiled_device(device, train::profile_file());
  view.costs = [&config, ranks] {
    const train::Machine machine = train::local_machine(ranks, config.comm, config.training.device);
    return train::machine_costs(machine, train::profile_file());
  };
  print_layout(config, planned_model(config), view);
  return 0;
}

constexpr Option kOptions[] = {
    {"--print", "program|units|memory|buffers|communication|timeline|memory-timeline",
     "what to print (default: the figures of a step, its memory, its communication)"},
    {"--nproc", "N", "plan for N ranks, laid out by [parallelism]; of a cluster, search its first N devices"},
    {"--rank", "R", "which of them (default 0)"},
    {"--trace", "FILE", "write the simulated timeline of a step, for Perfetto"},
    {"--draw", "FILE", "draw that step and the memory that it holds, as SVG"},
    {"--cluster", "FILE|local", "search the layouts for a cluster (examples/clusters) or this machine"},
    {"--layout", "best|configured",
     "with --cluster, what --print, --trace and --draw show there: the best layout (default), or without a "
     "search that of the config"},
    {"--scale", "FIRST..LAST",
     "the best layout for every doubling of devices, and where more stop paying off"},
    {"--objective", "time|cost", "what the best one is best in (default time); cost picks the hosts too"},
    {"--deadline", "TIME", "of the run, as 12h: the fewest hosts that meet it, or the cheapest"},
    {"--allow-recipe-change", "",
     "try other local_batch_size and global_batch_size and bfloat16 too, which changes the result"},
    {"--without", "PASS,...", "leave passes of the search out (--explain names them)"},
    {"--explain", "", "what each pass did, and how long it took"},
    {"--write", "FILE", "write the config with the best layout, for `furrow train FILE --nproc N`"},
    {"--json", "", "print JSON"},
};

}  // namespace

const Command kPlanCommand{
    .name = "plan",
    .arguments = "CONFIG|RUN",
    .min_positional = 1,
    .max_positional = 1,
    .takes_overrides = true,
    .summary = "say what a run would execute and need, without running it",
    .description =
        "  furrow plan examples/gpt-shakespeare.toml\n"
        "  furrow plan examples/gpt-shakespeare.toml --print program\n"
        "  furrow plan examples/gpt-shakespeare.toml --nproc 4 --rank 3 --print communication\n"
        "  furrow plan examples/gpt-124m.toml --cluster examples/clusters/8xh100.toml --explain\n"
        "  furrow plan examples/gpt-124m.toml --cluster examples/clusters/8xh100.toml --trace step.json\n"
        "  furrow plan examples/mlp-mnist.toml --cluster local --nproc 2 --write plan.toml\n"
        "\n"
        "Opens the data for its shapes, compiles the program of one training step and verifies it.\n"
        "The program printed is the one that `furrow train` executes; parse and print are inverse.\n",
    .options = kOptions,
    .run = run_plan,
};

}  // namespace furrow::app
