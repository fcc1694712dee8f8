// furrow eval: metrics of a saved run on one of its splits.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "apps/furrow/commands.h"
#include "apps/furrow/torch_library.h"
#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/table.h"
#include "furrow/config/config.h"
#include "furrow/observe/run_folder.h"
#include "furrow/storage/artefact.h"

namespace furrow::app {
namespace {

// What evaluates a model folder on a text: its own sizes, and `text`.
config::Config config_of_model(const std::string& folder, const Arguments& arguments) {
  if (!arguments.has("--text")) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} is a model without data: give --text FILE to measure it on", folder));
  }
  const storage::Artefact artefact = storage::read_artefact(folder);
  if (artefact.inputs.size() != 1 || artefact.inputs[0].shape.size() != 2) {
    throw Error(ErrorCode::kUnimplemented,
                fmt::format("{} is no language model: measure it with its run, `furrow eval RUN`", folder));
  }
  config::Config config = config::parse(
      fmt::format(
          "[training]\nsteps = 1\ndataset = \"text\"\nseq_len = {}\nlocal_batch_size = 8\n[model]\n{}",
          artefact.inputs[0].shape[1], artefact.model),
      folder + "/model.toml", arguments.overrides);
  config.training.dataset_path = arguments.get("--text", "");
  return config;
}

// "0 cat, 1 dog, ..."
std::string abridged(const std::vector<std::string>& names) {
  constexpr size_t kShown = 20;
  std::string text;
  for (size_t i = 0; i < std::min(names.size(), kShown); ++i)
    text += fmt::format("{}{} {}", i == 0 ? "" : ", ", i, names[i]);
  return text + (names.size() > kShown ? ", ..." : "");
}

int run_eval(const Arguments& arguments) {
  const std::string& folder = arguments.positional[0];
  const bool model = path_exists(folder + "/model.toml");
  if (!model) observe::read_config_text(folder);  // says what is wrong with the folder
  if (!model && arguments.has("--text"))
    throw Error(ErrorCode::kInvalidArgument, "--text is for a model folder: name RUN/model to measure that");
  const config::Config config =
      model ? config_of_model(folder, arguments) : config::load(folder + "/config.toml", arguments.overrides);
  const train::EvalResult result =
      torch_entry_points().evaluate(folder, arguments.get("--split", "test"), config);
  Table table({{"run"}, {"split"}, {"samples"}, {"loss", "", 5}, {"accuracy", "", 4}});
  table.add_row({folder, result.split, result.samples, result.loss,
                 config.training.loss == "mse" ? Cell() : Cell(result.accuracy)});
  const bool json = arguments.has("--json");
  fmt::print("{}", table.print(json));
  if (!json && !result.class_names.empty()) fmt::print("classes: {}\n", abridged(result.class_names));
  return 0;
}

constexpr Option kOptions[] = {
    {"--split", "test|validation", "which split (default: test)"},
    {"--text", "FILE", "of a model folder: the text to measure it on"},
    {"--json", "", "print JSON"},
};

}  // namespace

const Command kEvalCommand{
    .name = "eval",
    .arguments = "RUN|MODEL",
    .min_positional = 1,
    .max_positional = 1,
    .takes_overrides = true,
    .summary = "measure a saved run on its test or validation split",
    .description =
        "  furrow eval runs/convnet-fashion-001 --split validation\n"
        "  furrow eval stories --text story.txt            an imported model, or RUN/model, with its "
        "tokenizer\n"
        "\n"
        "Uses the model of the run (model/), or its newest checkpoint while there is none.\n",
    .options = kOptions,
    .run = run_eval,
    .prepare = [](std::span<const std::string>) { start_loading_torch(); },
};

}  // namespace furrow::app
