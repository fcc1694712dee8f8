// This process among the ranks of a job.
#pragma once

#include <memory>
#include <string>

#include "apps/furrow/launcher.h"
#include "furrow/comm/join.h"
#include "furrow/config/config.h"

namespace furrow::app {

comm::World this_world();  // from the environment.  Error{invalid_argument}

// Joins it; every rank then chooses algorithms by rank 0's tuning file, if there is one.  Errors of
// comm::join; {invalid_argument}: a damaged tuning file.
std::unique_ptr<comm::Membership> join_world(const comm::World& world, const config::Config& config);

// FURROW_COMM_TUNING, else furrow/comm-tuning in the user's configuration folder.
std::string tuning_file();

// Prints why a launch failed, if it did, and returns its exit status.
int report(const Launched& launched);

}  // namespace furrow::app
