// One subcommand of the binary: `furrow <name> <arguments> [options] [--section.key value ...]`.
// To add one: its cmd_<name>.cc with a `const Command k<Name>Command`, a line in commands.cc, a test in
// tests/cli/.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace furrow::app {

struct Option {
  std::string_view name;   // "--split"
  std::string_view value;  // "test|validation" where it takes one of these, "FILE" for any, "" for a switch
  std::string_view help;
};

// The words after the subcommand, sorted.
struct Arguments {
  std::vector<std::string> positional;
  std::map<std::string, std::string, std::less<>> options;  // "--split" -> "test"; a switch -> ""
  std::vector<std::string> overrides;                       // for config::load

  bool has(std::string_view option) const { return options.contains(option); }
  std::string get(std::string_view option, std::string_view otherwise) const;
};

struct Command {
  std::string_view name;       // "train"
  std::string_view arguments;  // "CONFIG|RUN"
  size_t min_positional = 0, max_positional = 0;
  bool takes_overrides = false;
  std::string_view summary;      // one line
  std::string_view description;  // the rest of `furrow help NAME`
  std::span<const Option> options;
  // Prints its result on stdout and returns the exit status; throws Error.
  int (*run)(const Arguments& arguments);
  // Called before the words are looked at: work that should overlap.  May be null.
  void (*prepare)(std::span<const std::string> words) = nullptr;
};

std::span<const Command* const> commands();
const Command& find_command(std::string_view name);  // Error{invalid_argument} names the nearest

// Error{invalid_argument}: an unknown option (the nearest is named), a missing or a wrong value, a wrong
// number of words.
Arguments parse_arguments(const Command& command, std::vector<std::string> words);

// "furrow train CONFIG|RUN [options] [--section.key value ...]"
std::string usage(const Command& command);

}  // namespace furrow::app
