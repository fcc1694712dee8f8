#include "tests/testing/run_ranks.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <thread>
#include <vector>

#include "furrow/base/clock.h"
#include "furrow/base/file.h"
#include "furrow/base/process.h"
#include "furrow/comm/algorithm.h"
#include "furrow/comm/inproc.h"

namespace furrow::testing {
namespace {

constexpr int64_t kJoinNs = kPatienceMs * 1'000'000;

struct Failure {
  std::string text;
  bool own = false;  // not the echo of another rank's
};

using Join = std::function<std::unique_ptr<comm::Communicator>(int rank)>;

void run_one(const Join& join, int rank, const RankFunction& fn, Failure& failure) {
  std::unique_ptr<comm::Communicator> communicator;
  const auto fail = [&](const Error& error) {
    failure = {error.what(), true};
    if (!communicator) return;
    failure.own = !communicator->aborted() || communicator->aborted_here();
    communicator->abort(error.with_context(fmt::format("rank {}", rank)));
  };
  try {
    communicator = join(rank);
    fn(*communicator);
  } catch (const Error& error) {
    fail(error);
  } catch (const std::exception& error) {
    fail(Error(ErrorCode::kInternal, error.what()));
  }
}

void run_all(int size, const RankFunction& fn, const Join& join) {
  std::vector<Failure> failures(static_cast<size_t>(size));
  {
    std::vector<std::jthread> threads;
    for (int r = 0; r < size; ++r) {
      threads.emplace_back([&, r] { run_one(join, r, fn, failures[static_cast<size_t>(r)]); });
    }
  }
  const bool known = std::any_of(failures.begin(), failures.end(), [](const Failure& f) { return f.own; });
  std::string text;
  for (int r = 0; r < size; ++r) {
    const Failure& failure = failures[static_cast<size_t>(r)];
    if (failure.own || (!known && !failure.text.empty())) {
      text += fmt::format("{}rank {}: {}", text.empty() ? "" : "\n", r, failure.text);
    }
  }
  if (!text.empty()) throw Error(ErrorCode::kInternal, text);
}

std::vector<int> on_other_hosts(const std::vector<int>& host, int rank) {
  std::vector<int> ranks;
  for (size_t r = 0; r < host.size(); ++r) {
    if (host[r] != host[static_cast<size_t>(rank)]) ranks.push_back(static_cast<int>(r));
  }
  return ranks;
}

}  // namespace

void run_ranks(int size, const RankFunction& fn, const comm::CommunicatorOptions& options) {
  run_ranks_with(size, {.communicator = options}, fn);
}

void run_ranks_with(int size, const RankOptions& options, const RankFunction& fn) {
  const auto world = std::make_shared<comm::InprocWorld>(size);
  LocalRendezvous rendezvous;
  run_all(size, fn, [&](int rank) {
    comm::JoinContext context{.roster = comm::inproc_roster(rank, size),
                              .rendezvous = &rendezvous,
                              .inproc = world,
                              .deadline_ns = system_clock().monotonic_ns() + kJoinNs,
                              .job_token = "test"};
    for (size_t r = 0; r < options.host.size(); ++r) {
      context.roster.ranks[r].locality = fmt::format("host {}", options.host[r]);
    }
    std::vector<std::unique_ptr<comm::Transport>> transports;
    if (options.tcp_between_hosts) {
      context.tcp.peers = on_other_hosts(options.host, rank);
      transports.push_back(comm::make_transport("tcp", context));  // the first that reaches a peer is taken
    }
    transports.push_back(comm::make_transport(options.transport, context));
    if (options.wrap) transports.back() = options.wrap(std::move(transports.back()));
    return std::make_unique<comm::Communicator>(context.roster, std::move(transports), options.communicator);
  });
}

std::string ran_by(comm::Communicator& communicator, const std::string& group, comm::CollectiveKind kind) {
  for (const comm::LedgerRow& row : communicator.ledger().rows()) {
    if (row.group == group && row.kind == kind)
      return std::string(comm::algorithm_rows()[static_cast<size_t>(row.algorithm)].name);
  }
  return "none";
}

std::unique_ptr<comm::Communicator> join_processes(const std::string& folder, int rank, int size,
                                                   const comm::CommunicatorOptions& options) {
  FolderRendezvous rendezvous(folder);
  const int64_t deadline_ns = system_clock().monotonic_ns() + kJoinNs;
  comm::Roster roster{rank, std::vector<comm::RankInfo>(static_cast<size_t>(size))};
  rendezvous.set(fmt::format("pid/{}", rank), std::to_string(process_id()));
  for (int r = 0; r < size; ++r) {
    roster.ranks[static_cast<size_t>(r)] = {
        host_name(), std::stol(rendezvous.get(fmt::format("pid/{}", r), deadline_ns)), comm::shm_locality()};
  }
  std::vector<std::unique_ptr<comm::Transport>> transports;
  transports.push_back(
      comm::make_transport("shm", {.roster = roster, .rendezvous = &rendezvous, .deadline_ns = deadline_ns}));
  return std::make_unique<comm::Communicator>(std::move(roster), std::move(transports), options);
}

void LocalRendezvous::set(const std::string& key, const std::string& value) {
  const std::lock_guard lock(mutex_);
  values_[key] = value;
  changed_.notify_all();
}

std::string LocalRendezvous::get(const std::string& key, int64_t deadline_ns) {
  std::unique_lock lock(mutex_);
  const auto left = std::chrono::nanoseconds(deadline_ns - system_clock().monotonic_ns());
  if (!changed_.wait_for(lock, left, [&] { return values_.contains(key); })) {
    throw Error(ErrorCode::kDeadlineExceeded, fmt::format("nobody has set {}", key));
  }
  return values_.at(key);
}

std::string FolderRendezvous::path(std::string key) const {
  std::replace(key.begin(), key.end(), '/', '.');
  return folder_ + "/" + key;
}

void FolderRendezvous::set(const std::string& key, const std::string& value) {
  write_file_atomic(path(key), value);
}

std::string FolderRendezvous::get(const std::string& key, int64_t deadline_ns) {
  while (!path_exists(path(key))) {
    if (system_clock().monotonic_ns() > deadline_ns) {
      throw Error(ErrorCode::kDeadlineExceeded, fmt::format("nobody has set {}", key));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return read_file(path(key));
}

}  // namespace furrow::testing
