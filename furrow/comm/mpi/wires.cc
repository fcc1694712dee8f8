#include "furrow/comm/mpi/wires.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>
#include <thread>

#include "furrow/base/clock.h"
#include "furrow/base/error.h"
#include "furrow/comm/mpi/library.h"

namespace furrow::comm {
namespace {

constexpr uint32_t kPollsBetweenChecks = 64;
constexpr uint32_t kPollsBeforeYield = 4096;

// One thread at a time is what is asked of MPI, and a process may hold several communicators.
struct Process {
  std::mutex mutex;
  int users = 0;
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
  if (communicator_.aborted()) {
    shared.aborted = true;
    new Memory(std::move(staging_));  // a request that was given up may still write there
  }
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

void MpiWires::wait(MpiHandle request, int64_t deadline_ns, std::string_view whom) {
  bool done = false;
  for (uint32_t polls = 1;; ++polls) {
    call([&] { return plugin_.test(request, done); });
    if (done) return;
    if (polls % kPollsBetweenChecks == 0) {
      check_alive();
      if (system_clock().monotonic_ns() >= deadline_ns) {
        give_up();
        throw Error(ErrorCode::kDeadlineExceeded,
                    fmt::format("time is over while MPI waits for {}: missing, stopped or late", whom));
      }
    }
    if (polls > kPollsBeforeYield) std::this_thread::yield();
  }
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
  call([&] { return plugin_.create_group(world_, members, tag, comm); });
  groups_.push_back(comm);
  return comm;
}

int MpiWires::tag(uint64_t channel, Use use) const {
  const auto pairs = static_cast<uint64_t>(facts_.tag_bound) / 2;
  return static_cast<int>(channel % pairs * 2) + (use == Use::kMeeting ? 1 : 0);
}

std::span<std::byte> MpiWires::staging(size_t bytes) {
  if (staging_.size() < bytes) {
    staging_ = {};
    staging_ = Memory(plain_block(bytes), bytes, MemoryKind::kOther);
  }
  return staging_.bytes().first(bytes);
}

}  // namespace furrow::comm
