// This process among the ranks of a job.
#pragma once

#include <functional>
#include <span>
#include <string>

#include "apps/furrow/launcher.h"
#include "furrow/base/clock.h"
#include "furrow/comm/join.h"
#include "furrow/config/config.h"

namespace furrow::app {

comm::World this_world();  // from the environment.  Error{invalid_argument}

// Runs `prepare`, what this rank does before it joins; what that throws, the others hear, which would wait
// for this rank, where there are any.
void before_joining(const comm::World& world, const std::function<void()>& prepare);

// Joins it, runs `work` and leaves; what `work` throws ends the other ranks too.  Every rank chooses
// algorithms by rank 0's tuning file, if there is one that was measured on its kind of processor, as far as
// it was measured over the link that this world has.  Errors of comm::join and `work`; {invalid_argument}: a
// damaged tuning file.  `cancel`, which may be null, ends waiting for other ranks; `work` looks at it itself.
void in_world(const comm::World& world, const config::Config& config, const CancelToken* cancel,
              const std::function<void(comm::Membership&)>& work);

// Error{invalid_argument}: `command` with --nproc where [comm] backend knows only the ranks that MPI started.
void refuse_to_launch(const config::Config& config, const std::string& command);

// The launcher itself computes nothing: opens libtorch unless `words`, the command line, name --nproc.
void start_loading_torch_on_ranks(std::span<const std::string> words);

// FURROW_COMM_TUNING, else furrow/comm-tuning in the user's configuration folder.
std::string tuning_file();

// Prints why a launch failed, if it did, and returns its exit status.
int report(const Launched& launched);

}  // namespace furrow::app
