// What `furrow train` was asked for: a config or the folder of a run, with overrides.
#pragma once

#include <string>
#include <vector>

#include "apps/furrow/command.h"
#include "furrow/comm/world.h"
#include "furrow/config/config.h"

namespace furrow::app {

struct TrainJob {
  config::Config config;
  std::string run_folder;             // empty on ranks above 0 where rank 0 chooses it
  bool claimed = false;               // the folder was made to get its number
  std::vector<std::string> warnings;  // for the job to say once
};

// The launcher tells its ranks with this variable which folder it claimed for them.
inline constexpr const char* kRunFolderVariable = "FURROW_RUN_FOLDER";

// Error codes: not_found, invalid_argument, already_exists (a run, without --resume), failed_precondition (a
// strict run with another recipe).
TrainJob train_job(const Arguments& arguments, const comm::World& world);

// A claimed folder goes again when nothing was written into it.
void give_up_claim(const TrainJob& job);

}  // namespace furrow::app
