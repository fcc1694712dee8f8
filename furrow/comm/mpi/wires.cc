#include "furrow/comm/mpi/wires.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <mutex>
#include <thread>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/comm/awake.h"
#include "furrow/comm/mpi/library.h"

namespace furrow::comm {
namespace {

constexpr uint32_t kPollsBetweenChecks = 64;
constexpr uint32_t kPollsBeforeYield = 4096;
constexpr uint32_t kPollsBeforeRest = 16384;
constexpr std::chrono::microseconds kRest{50};  // of long waits, so that who computes has the core

// One thread at a time is what is asked of MPI, and a process may hold several communicators.
struct Process {
  std::mutex mutex;
  int users = 0;
  bool making = false;  // a group: somebody has the turn
  bool aborted =
      false;  // requests were given up: MPI is not called again, so that it touches their buffers no more
};

Process& process() {
  static Process* instance = new Process;  // never destroyed: communicators may end with the program
  return *instance;
}

Error error_of(MpiError words) { return Error(ErrorCode::kUnavailable, fmt::format("MPI: {}", words)); }

void check_facts(const MpiFacts& facts, const Communicator& communicator) {
  if (facts.rank != communicator.rank() || facts.size != communicator.size()) {
    throw Error(
        ErrorCode::kFailedPrecondition,
        fmt::format(
            "MPI says that this is rank {} of {}, the job's launcher says rank {} of {}: start the ranks "
            "with mpirun or srun --mpi, or set [comm] backend = \"native\"",
            facts.rank, facts.size, communicator.rank(), communicator.size()));
  }
  if (!facts.serialized) {
    throw Error(ErrorCode::kFailedPrecondition,
                fmt::format("{} gives {}, furrow needs MPI_THREAD_SERIALIZED: use an MPI built with threads",
                            facts.library_version, facts.thread_level));
  }
}

}  // namespace

template <class Call>
void MpiWires::call(const Call& fn) const {
  const std::lock_guard lock(process().mutex);
  if (process().aborted) {
    throw Error(ErrorCode::kFailedPrecondition, "MPI still holds an operation that failed: end this process");
  }
  if (const MpiError words = fn(); words != nullptr) throw error_of(words);
}

MpiWires::MpiWires(Communicator& communicator) : communicator_(communicator), plugin_(mpi_plugin()) {
  call([&] { return plugin_.init(facts_); });
  check_facts(facts_, communicator);
  call([&] { return plugin_.duplicate_world(world_); });
  const std::lock_guard lock(process().mutex);
  ++process().users;
}

MpiWires::~MpiWires() {
  Process& shared = process();
  const std::lock_guard lock(shared.mutex);
  --shared.users;
  if (communicator_.aborted()) shared.aborted = true;
  if (shared.aborted) return;
  for (MpiHandle& group : groups_) plugin_.free_comm(group);
  plugin_.free_comm(world_);
  if (shared.users == 0) plugin_.finalize();
}

MpiHandle MpiWires::start(const MpiCall& what) {
  MpiHandle request = 0;
  call([&] { return plugin_.start(what, request); });
  return request;
}

template <class Done>
void MpiWires::poll(const Done& done, int64_t deadline_ns, std::string_view whom) {
  for (uint32_t polls = 1;; ++polls) {
    if (done()) return;
    if (polls % kPollsBetweenChecks == 0) {
      check_alive();
      if (awake_ns() >= deadline_ns) {
        give_up();
        throw Error(ErrorCode::kDeadlineExceeded,
                    fmt::format("time is over while MPI waits for {}: missing, stopped or late", whom));
      }
    }
    if (polls > kPollsBeforeRest) {
      std::this_thread::sleep_for(kRest);
    } else if (polls > kPollsBeforeYield) {
      std::this_thread::yield();
    }
  }
}

void MpiWires::wait(MpiHandle request, int64_t deadline_ns, std::string_view whom) {
  bool done = false;
  const auto tested = [&] {
    call([&] { return plugin_.test(request, done); });
    return done;
  };
  poll(tested, deadline_ns, whom);
}

void MpiWires::give_up() {
  const std::lock_guard lock(process().mutex);
  process().aborted = true;
}

void MpiWires::check_alive() {
  communicator_.listen();
  if (communicator_.aborted()) give_up();
  communicator_.check_alive();
}

MpiHandle MpiWires::create_group(std::span<const int> members, int tag) {
  MpiHandle comm = 0;
  call([&] {
    const MpiError error = plugin_.create_group(world_, members, tag, comm);
    if (error == nullptr) groups_.push_back(comm);
    return error;
  });
  return comm;
}

int MpiWires::tag(uint64_t channel, Use use) const {
  const auto pairs = static_cast<uint64_t>(facts_.tag_bound) / 2;
  return static_cast<int>(channel % pairs * 2) + (use == Use::kMeeting ? 1 : 0);
}

MpiTurn::MpiTurn(MpiWires& wires, int64_t deadline_ns, std::string_view whom) {
  const auto taken = [] {
    const std::lock_guard lock(process().mutex);
    return !std::exchange(process().making, true);
  };
  wires.poll(taken, deadline_ns, whom);
}

MpiTurn::~MpiTurn() {
  const std::lock_guard lock(process().mutex);
  process().making = false;
}

MpiStaging::~MpiStaging() {
  if (communicator_.aborted()) new Memory(std::move(memory_));
}

std::span<std::byte> MpiStaging::of(size_t bytes) {
  if (memory_.size() < bytes) {
    memory_ = {};
    memory_ = Memory(plain_block(bytes), bytes, MemoryKind::kOther);
  }
  return memory_.bytes().first(bytes);
}

}  // namespace furrow::comm
