// The rows of commands.cc, each defined in its cmd_<name>.cc.
#pragma once

#include "apps/furrow/command.h"

namespace furrow::app {

extern const Command kTrainCommand;
extern const Command kEvalCommand;
extern const Command kPlanCommand;
extern const Command kProfileCommand;
extern const Command kRunsCommand;
extern const Command kDataCommand;
extern const Command kModelsCommand;
extern const Command kBenchCommand;
extern const Command kHelpCommand;

}  // namespace furrow::app
