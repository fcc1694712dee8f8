#include "apps/furrow/commands.h"

#include "furrow/base/error.h"
#include "furrow/base/names.h"

namespace furrow::app {
namespace {

constexpr const Command* kCommands[] = {&kTrainCommand,   &kEvalCommand,  &kPlanCommand,
                                        &kProfileCommand, &kRunsCommand,  &kDataCommand,
                                        &kModelsCommand,  &kBenchCommand, &kHelpCommand};

}  // namespace

std::span<const Command* const> commands() { return kCommands; }

const Command& find_command(std::string_view name) {
  std::vector<std::string> known;
  for (const Command* command : kCommands) {
    if (command->name == name) return *command;
    known.emplace_back(command->name);
  }
  throw Error(ErrorCode::kInvalidArgument, unknown_name_message("command", name, known));
}

}  // namespace furrow::app
