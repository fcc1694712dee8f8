// furrow help, furrow --version.
#include <fmt/format.h>

#include <cstdio>

#include "apps/furrow/commands.h"
#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/base/version.h"
#include "furrow/config/help.h"

namespace furrow::app {
namespace {

int print_version() {
  fmt::print("furrow {} (commit {}, {})\n", furrow_version(), furrow_git_commit(), FURROW_BUILD_TYPE);
  return 0;
}

void print_overview() {
  fmt::print(
      "furrow plans and trains networks: what you are quoted is what you run.\n\nusage: furrow COMMAND "
      "...\n\n");
  for (const Command* command : commands()) fmt::print("  {:<8}{}\n", command->name, command->summary);
  fmt::print(
      "\n"
      "  furrow help COMMAND                 its arguments and options\n"
      "  furrow help config [SECTION[.KEY]]  the configuration: every key can also be given as --section.key "
      "value\n"
      "  furrow --version\n");
}

void print_command(const Command& command) {
  fmt::print("{}\n\nusage: {}\n\n{}", command.summary, usage(command), command.description);
  if (!command.options.empty()) fmt::print("\n");
  for (const Option& option : command.options) {
    const std::string name =
        option.value.empty() ? std::string(option.name) : fmt::format("{} {}", option.name, option.value);
    fmt::print("  {:<28}{}{}\n", name, name.size() < 28 ? "" : "\n" + std::string(30, ' '), option.help);
  }
}

int run_help(const Arguments& arguments) {
  if (arguments.has("--version")) return print_version();
  const auto& words = arguments.positional;
  if (words.empty()) {
    print_overview();
  } else if (words[0] == "config") {
    fmt::print("{}", arguments.has("--markdown") ? config::reference_markdown()
                                                 : config::help(words.size() > 1 ? words[1] : ""));
  } else if (words.size() > 1) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("one word too many: '{}'\nusage: {}", words[1], usage(kHelpCommand)));
  } else {
    print_command(find_command(words[0]));
  }
  return 0;
}

constexpr Option kOptions[] = {
    {"--markdown", "", "config: the whole reference as Markdown (docs/config.md)"},
    {"--version", "", "version, commit and build type"},
};

}  // namespace

const Command kHelpCommand{
    .name = "help",
    .arguments = "[COMMAND | config [SECTION[.KEY]]]",
    .min_positional = 0,
    .max_positional = 2,
    .summary = "explain a command or the configuration",
    .description = "  furrow help train\n  furrow help config optimizer.lr\n",
    .options = kOptions,
    .run = run_help,
};

}  // namespace furrow::app
