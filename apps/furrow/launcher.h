// The ranks of one job on this machine: what `--nproc N` does.
//
//   const Launched launched = launch({.words = {"train", "x.toml"}, .ranks = 2, .run_folder = "runs/a"});
//
// Every rank is this program again with the environment that torchrun gives (RANK, WORLD_SIZE, MASTER_ADDR,
// ...) and FURROW_JOB_TOKEN, in a process group of its own.  No rank outlives the launcher, whatever ends it
// (PR_SET_PDEATHSIG), and none outlives a rank that failed by more than `grace_ms`.  Linux only.
//
// Signals: SIGINT, SIGTERM and SIGHUP (the terminal has closed) are passed on; after a second one ranks have
// five seconds, a third one kills. SIGTSTP stops the ranks with the launcher.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace furrow::app {

struct LaunchRequest {
  std::vector<std::string> words;  // arguments of this program, the subcommand first
  int ranks = 1;
  // Threads of a rank; 0: one, or OMP_NUM_THREADS.  Every rank is bound to an equal share of this process's
  // cores where that holds its threads.
  int threads = 0;
  std::string run_folder;  // once it holds a run, its logs/ get what the ranks print; empty: no files
  std::vector<std::pair<std::string, std::string>> environment;  // for every rank, besides
  std::string* output = nullptr;  // gets what rank 0 prints on stdout, which otherwise is this process's
  bool quiet = false;             // what ranks print is dropped, errors apart
  // Worlds of one side by side: no rank's variables, and "{rank}" in a word is the number.
  bool independent = false;
  std::string program;     // empty: this one
  int64_t grace_ms = 900;  // from the first failure until the others are killed
};

struct Launched {
  // 0; that of the rank that failed first (128 + N where signal N killed it); 128 + N after signal N.
  int exit_status = 0;
  std::string error;  // why it failed, without "furrow: error: "; empty: it did not
};

// Returns when no rank is left.  REQUIRES: no other thread in this process (the system counts the death of
// the thread that starts a rank as the launcher's), and no other launch at the same time.
// Error{resource_exhausted}: a rank cannot be started.
Launched launch(const LaunchRequest& request);

// Error{failed_precondition} when another launcher made this process one rank of several.
void refuse_inside_a_world();

// Cores of each rank when `ranks` share `cores`; all empty where a rank would get fewer than `threads`.
std::vector<std::vector<int>> shares_of_cores(const std::vector<int>& cores, int ranks, int threads);

// Error{invalid_argument} unless `text` is a number from 1 to 1024.
int parse_ranks(const std::string& text);

}  // namespace furrow::app
