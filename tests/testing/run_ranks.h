// Ranks as threads of this process, and meeting points for ranks without a rendezvous store.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "furrow/comm/communicator.h"

namespace furrow::testing {

// How long ranks of a test wait for each other: longer than a thread of a starved machine waits for a
// processor, so that only what never comes ends so, with an Error that names who did not answer and what it
// did last.
inline constexpr int64_t kPatienceMs = 300'000;

using RankFunction = std::function<void(comm::Communicator&)>;

// Runs fn(communicator) on `size` threads, one per rank of an inproc world, and returns when all have ended.
// When ranks throw, the others are aborted, and Error{internal} names every rank and its error, lowest rank
// first; a rank whose error is only that it was aborted is left out.
void run_ranks(int size, const RankFunction& fn, const comm::CommunicatorOptions& options = {});

struct RankOptions {
  std::string transport = "inproc";  // of the table
  comm::CommunicatorOptions communicator = {};
  std::vector<int> host = {};      // by rank: which host the roster says; empty: all here
  bool tcp_between_hosts = false;  // `transport` inside a host only
  // Around each rank's transport; null: as it is.
  std::function<std::unique_ptr<comm::Transport>(std::unique_ptr<comm::Transport>)> wrap = nullptr;
};
void run_ranks_with(int size, const RankOptions& options, const RankFunction& fn);

// The algorithm of the last call of a kind, as the ledger has it; "none" before the first.
std::string ran_by(comm::Communicator& communicator, const std::string& group, comm::CollectiveKind kind);

// For ranks of one process.
class LocalRendezvous : public comm::Rendezvous {
 public:
  void set(const std::string& key, const std::string& value) override;
  std::string get(const std::string& key, int64_t deadline_ns) override;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, std::string> values_;
};

// For processes that share a folder: a file per key.
class FolderRendezvous : public comm::Rendezvous {
 public:
  explicit FolderRendezvous(std::string folder) : folder_(std::move(folder)) {}
  void set(const std::string& key, const std::string& value) override;
  std::string get(const std::string& key, int64_t deadline_ns) override;

 private:
  std::string path(std::string key) const;
  std::string folder_;
};

// A process's place among `size` processes of this host that meet in `folder`, over shm.
std::unique_ptr<comm::Communicator> join_processes(const std::string& folder, int rank, int size,
                                                   const comm::CommunicatorOptions& options = {});

}  // namespace furrow::testing
