#include "apps/furrow/data_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "furrow/base/text.h"
#include "furrow/data/dataset.h"
#include "furrow/observe/run_folder.h"

namespace furrow::app {
namespace {

namespace fs = std::filesystem;

// As a TOML string that the configuration does not expand.
std::string quoted(const std::string& text) {
  std::string escaped;
  for (const char c : text) escaped += c == '$' ? std::string("$$") : std::string(1, c);
  return json_quote(text.find("${") == std::string::npos ? text : escaped);
}

}  // namespace

config::Config data_config(const std::string& source, const std::vector<std::string>& overrides) {
  if (observe::holds_run(source)) return config::load(source + "/config.toml", overrides);
  if (fs::path(source).extension() == ".toml") return config::load(source, overrides);
  const bool named = std::ranges::any_of(overrides, [](const std::string& word) {
    return word == "--training.dataset" || word.starts_with("--training.dataset=");
  });
  const std::string kind = named ? "idx" : data::guess_kind(source);
  return config::parse(fmt::format("[model]\nname = \"none\"\n[training]\nsteps = 1\ndataset = \"{}\"\n"
                                   "dataset_path = {}\n",
                                   kind, quoted(source)),
                       source, overrides);
}

}  // namespace furrow::app
