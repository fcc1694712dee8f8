// furrow eval: metrics of a saved run on one of its splits.
#include <fmt/format.h>

#include <cstdio>

#include "apps/furrow/commands.h"
#include "apps/furrow/torch_library.h"
#include "furrow/base/error.h"
#include "furrow/base/table.h"
#include "furrow/config/config.h"
#include "furrow/observe/run_folder.h"

namespace furrow::app {
namespace {

int run_eval(const Arguments& arguments) {
  const std::string& folder = arguments.positional[0];
  observe::read_config_text(folder);  // says what is wrong with the folder
  const config::Config config = config::load(folder + "/config.toml", arguments.overrides);
  const train::EvalResult result =
      torch_entry_points().evaluate(folder, arguments.get("--split", "test"), config);
  Table table({{"run"}, {"split"}, {"samples"}, {"loss", "", 5}, {"accuracy", "", 4}});
  table.add_row({folder, result.split, result.samples, result.loss, result.accuracy});
  fmt::print("{}", table.print(arguments.has("--json")));
  return 0;
}

constexpr Option kOptions[] = {
    {"--split", "test|validation", "which split (default: test)"},
    {"--json", "", "print JSON"},
};

}  // namespace

const Command kEvalCommand{
    .name = "eval",
    .arguments = "RUN",
    .min_positional = 1,
    .max_positional = 1,
    .takes_overrides = true,
    .summary = "measure a saved run on its test or validation split",
    .description =
        "  furrow eval runs/convnet-fashion-001 --split validation\n"
        "\n"
        "Uses the model of the run (model/), or its newest checkpoint while there is none.\n",
    .options = kOptions,
    .run = run_eval,
    .prepare = [](std::span<const std::string>) { start_loading_torch(); },
};

}  // namespace furrow::app
