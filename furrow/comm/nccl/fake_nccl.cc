// libfurrow_fake_nccl.so: NCCL's C interface over memory of the host, for ranks that are threads of one
// process; beside it, in fake_cuda.cc, the CUDA runtime's.  What is tested against it is whether furrow
// loads, calls and ends them rightly.
//
// Transfers and reductions wait for the other ranks as NCCL's kernels do, until their communicator is
// aborted. Numbers of types and operations are those of nccl.h.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "furrow/comm/nccl/fake_cuda.h"
#include "furrow/comm/nccl/fake_reduce.h"

namespace {

using fake::copy_bytes;
using fake::reduce_into;
using fake::see;
using fake::size_of;
using fake::Stream;

constexpr int kInProgress = 7;

// ---- communicators ----

// What the ranks of one communicator share.
struct Shared {
  explicit Shared(int n) : ranks(n) {}
  const int ranks;
  std::mutex mutex;
  std::condition_variable changed;
  int present = 0;
  // Collectives meet here, one after the other: everybody brings buffers, the last one computes, all leave.
  std::vector<const void*> in;
  std::vector<void*> out;
  int arrived = 0, left = 0;
  int gone = 0;  // ranks that have destroyed or aborted it
  bool computed = false;
  struct Message {
    const std::byte* bytes;
    size_t size;
    bool taken = false;
  };
  std::map<std::pair<int, int>, std::deque<std::shared_ptr<Message>>> messages;  // by from, to
};

struct Issue;

struct Comm {
  std::shared_ptr<Shared> shared;
  int rank = 0;
  bool polled = false;                       // its calls return before they are done
  bool aborted = false;                      // this rank's end of it alone
  bool came = false;                         // where a polled one waits for the others
  std::shared_ptr<void> birth = nullptr;     // of a polled one, until they are there
  std::shared_ptr<Issue> issuing = nullptr;  // what its last call has begun
};
using SharedComm = std::shared_ptr<Comm>;  // operations on a stream hold an aborted one until they have ended

std::mutex comms_mutex;
std::map<std::string, std::shared_ptr<Shared>> meeting;
int64_t unique_ids = 0, calls_of[8] = {}, live_comms = 0, aborts = 0, lonely_ends = 0;
std::atomic<int> async_error = 0;
std::atomic<int> said_version = 22703;
std::atomic<bool> stalled = false;
std::atomic<int64_t> births = 0;  // ncclCommInitRank under way
struct Birth {
  Birth() { ++births; }
  ~Birth() { --births; }
};

// Null: arguments that are none.
std::shared_ptr<Shared> shared_of(int ranks, const char* id, int rank) {
  if (rank < 0 || rank >= ranks || std::strncmp(id, "fake ", 5) != 0) return nullptr;
  const std::lock_guard lock(comms_mutex);
  auto& here = meeting[id];
  if (!here) here = std::make_shared<Shared>(ranks);
  return here->ranks == ranks ? here : nullptr;
}

// One more of its ranks is there.  REQUIRES: the lock is held.
void come(Shared& shared) {
  shared.in.resize(static_cast<size_t>(shared.ranks));
  shared.out.resize(static_cast<size_t>(shared.ranks));
  ++shared.present;
  shared.changed.notify_all();
}

bool born(Comm& comm) {
  if (comm.birth == nullptr) return true;
  if (stalled) return false;
  const std::lock_guard lock(comm.shared->mutex);
  if (!std::exchange(comm.came, true)) come(*comm.shared);
  if (comm.shared->present < comm.shared->ranks) return false;
  comm.birth = nullptr;
  return true;
}

// ---- operations ----

struct Operation {
  SharedComm comm;
  int peer = -1;  // of a transfer
  const void* in = nullptr;
  void* out = nullptr;
  size_t bytes = 0;                                // of a transfer
  std::function<void(Shared&)> compute = nullptr;  // of a collective: over all ranks' buffers
};

using Lock = std::unique_lock<std::mutex>;

void meet(const Operation& o) {
  Shared& s = *o.comm->shared;
  Lock lock(s.mutex);
  const auto ended = [&] { return o.comm->aborted; };
  s.changed.wait(lock, [&] { return ended() || !s.computed; });  // the last one has been left by all
  if (ended()) return;
  s.in[static_cast<size_t>(o.comm->rank)] = o.in == nullptr ? nullptr : see(o.in);
  s.out[static_cast<size_t>(o.comm->rank)] = o.out == nullptr ? nullptr : see(o.out);
  if (++s.arrived == s.ranks) {
    o.compute(s);
    s.arrived = 0;
    s.computed = true;
    s.changed.notify_all();
  }
  s.changed.wait(lock, [&] { return ended() || s.computed; });
  if (ended()) {
    if (!s.computed) --s.arrived;
    return;
  }
  if (++s.left == s.ranks) {
    s.left = 0;
    s.computed = false;
    s.changed.notify_all();
  }
}

std::shared_ptr<Shared::Message> post(const Operation& o) {
  Shared& s = *o.comm->shared;
  const Lock lock(s.mutex);
  auto message = std::make_shared<Shared::Message>(Shared::Message{see(o.in), o.bytes});
  s.messages[{o.comm->rank, o.peer}].push_back(message);
  s.changed.notify_all();
  return message;
}

void take(const Operation& o) {
  Shared& s = *o.comm->shared;
  Lock lock(s.mutex);
  auto& queue = s.messages[{o.peer, o.comm->rank}];
  s.changed.wait(lock, [&] { return o.comm->aborted || !queue.empty(); });
  if (o.comm->aborted) return;
  const auto message = queue.front();
  queue.pop_front();
  copy_bytes(see(o.out), message->bytes, std::min(o.bytes, message->size));
  message->taken = true;
  s.changed.notify_all();
}

// A group's operations are under way together.  What an aborted end has brought and nobody has taken goes
// with it, here and in meet(): once its stream is idle, the memory may be freed.
void carry_out(const std::vector<Operation>& group) {
  if (stalled && !group.empty()) {
    Shared& s = *group[0].comm->shared;
    Lock lock(s.mutex);
    s.changed.wait(lock, [&] { return group[0].comm->aborted; });
    return;
  }
  std::vector<std::pair<const Operation*, std::shared_ptr<Shared::Message>>> sent;
  for (const Operation& o : group) {
    if (!o.compute && o.in != nullptr) sent.emplace_back(&o, post(o));
  }
  for (const Operation& o : group) {
    if (o.compute) {
      meet(o);
    } else if (o.out != nullptr) {
      take(o);
    }
  }
  for (const auto& [o, message] : sent) {
    Shared& s = *o->comm->shared;
    Lock lock(s.mutex);
    s.changed.wait(lock, [&, o = o, &message = message] { return o->comm->aborted || message->taken; });
    if (!message->taken) std::erase(s.messages[{o->comm->rank, o->peer}], message);
  }
}

FAKE_THREAD_LOCAL int group_depth = 0;
FAKE_THREAD_LOCAL std::vector<Operation> grouped;
FAKE_THREAD_LOCAL Stream* group_stream = nullptr;

// Operations that reach their stream only when somebody has asked for their state again and again.
struct Issue {
  std::vector<Operation> group;
  Stream* stream;
  int polls = 0;
};

// As a call that is not in a group, or the end of one, does.
int issue(std::vector<Operation> group, Stream* stream) {
  if (!group[0].comm->polled) {
    stream->push([group = std::move(group)] { carry_out(group); });
    return 0;
  }
  const auto begun = std::make_shared<Issue>(Issue{group, stream});
  for (const Operation& o : group) {
    const Lock lock(o.comm->shared->mutex);
    o.comm->issuing = begun;
  }
  return kInProgress;
}

bool issued(Comm& comm) {
  constexpr int kPolls = 3;
  const Lock lock(comm.shared->mutex);
  if (comm.issuing == nullptr) return true;
  Issue& begun = *comm.issuing;
  if (begun.polls < kPolls && ++begun.polls == kPolls)
    begun.stream->push([group = std::exchange(begun.group, {})] { carry_out(group); });
  if (begun.polls < kPolls) return false;
  comm.issuing = nullptr;
  return true;
}

int enqueue(int which, Operation operation, void* stream) {
  {
    const std::lock_guard lock(comms_mutex);
    ++calls_of[which];
  }
  grouped.push_back(std::move(operation));
  group_stream = static_cast<Stream*>(stream);
  return group_depth > 0 ? 0 : issue(std::exchange(grouped, {}), group_stream);
}

const SharedComm& comm_of(void* comm) { return *static_cast<SharedComm*>(comm); }

}  // namespace

extern "C" {

struct ncclUniqueId {
  char bytes[128];
};

int ncclGetVersion(int* version) { return *version = said_version, 0; }
const char* ncclGetErrorString(int result) {
  return result == 6 ? "remote process exited or there was a network error" : "invalid argument";
}
int ncclGetUniqueId(ncclUniqueId* id) {
  const std::lock_guard lock(comms_mutex);
  std::memset(id, 0, sizeof(*id));
  std::snprintf(id->bytes, sizeof(id->bytes), "fake %lld", static_cast<long long>(++unique_ids));
  return 0;
}

struct ncclConfig {
  size_t size;
  unsigned magic, version;
  int blocking;
};
int ncclCommInitRankConfig(void** comm, int ranks, ncclUniqueId id, int rank, ncclConfig* config) {
  const std::shared_ptr<Shared> shared = shared_of(ranks, id.bytes, rank);
  const bool valid =
      config->size >= sizeof(ncclConfig) && config->magic == 0xcafebeef && config->version >= 21400;
  if (!shared || !valid || config->blocking != 0) return 4;
  const std::lock_guard lock(comms_mutex);
  ++live_comms;
  *comm = new SharedComm(
      new Comm{.shared = shared, .rank = rank, .polled = true, .birth = std::make_shared<Birth>()});
  return kInProgress;
}
int ncclCommInitRank(void** comm, int ranks, ncclUniqueId id, int rank) {
  const std::shared_ptr<Shared> shared = shared_of(ranks, id.bytes, rank);
  if (!shared) return 4;
  const Birth birth;
  while (stalled) std::this_thread::yield();
  {
    const std::lock_guard lock(comms_mutex);
    if (async_error != 0) return async_error;
    ++live_comms;
  }
  Lock lock(shared->mutex);
  come(*shared);
  shared->changed.wait(lock, [&] { return shared->present == ranks; });
  *comm = new SharedComm(new Comm{.shared = shared, .rank = rank});
  return 0;
}
// Its documentation: an intra-node collective call, which all ranks on the same node should call to avoid a
// hang.
int ncclCommDestroy(void* comm) {
  Shared& s = *comm_of(comm)->shared;
  bool together = true;
  {
    Lock lock(s.mutex);
    ++s.gone;
    s.changed.notify_all();
    together = s.changed.wait_for(lock, std::chrono::seconds(20), [&] { return s.gone == s.ranks; });
  }
  const std::lock_guard lock(comms_mutex);
  if (!together) ++lonely_ends;
  --live_comms;
  delete static_cast<SharedComm*>(comm);
  return 0;
}
int ncclCommAbort(void* comm) {
  Shared& s = *comm_of(comm)->shared;
  std::shared_ptr<Issue> never_issued;  // it holds the communicator
  {
    const Lock lock(s.mutex);
    comm_of(comm)->aborted = true;
    ++s.gone;
    never_issued = std::exchange(comm_of(comm)->issuing, nullptr);
    s.changed.notify_all();
  }
  never_issued = nullptr;
  const std::lock_guard lock(comms_mutex);
  --live_comms;
  ++aborts;
  delete static_cast<SharedComm*>(comm);
  return 0;
}
int ncclCommGetAsyncError(void* comm, int* result) {
  *result = async_error;
  if (*result != 0) return 0;
  Comm& c = *comm_of(comm);
  *result = !born(c) || !issued(c) ? kInProgress : 0;
  return 0;
}
int ncclGroupStart() { return ++group_depth, 0; }
int ncclGroupEnd() {
  if (--group_depth > 0 || grouped.empty()) return 0;
  return issue(std::exchange(grouped, {}), group_stream);
}

int ncclAllReduce(const void* in, void* out, size_t count, int type, int op, void* comm, void* stream) {
  return enqueue(0,
                 {.comm = comm_of(comm),
                  .in = in,
                  .out = out,
                  .compute =
                      [=](Shared& s) {
                        std::vector<std::byte> sum(count * size_of(type));
                        reduce_into(s.in, 0, count, type, op, sum.data());
                        for (void* to : s.out) copy_bytes(to, sum.data(), sum.size());
                      }},
                 stream);
}
int ncclReduceScatter(const void* in, void* out, size_t count, int type, int op, void* comm, void* stream) {
  return enqueue(1,
                 {.comm = comm_of(comm),
                  .in = in,
                  .out = out,
                  .compute =
                      [=](Shared& s) {
                        std::vector<std::vector<std::byte>> sums;
                        for (size_t r = 0; r < s.out.size(); ++r) {
                          sums.emplace_back(count * size_of(type));
                          reduce_into(s.in, r * count, count, type, op, sums.back().data());
                        }
                        for (size_t r = 0; r < s.out.size(); ++r)
                          copy_bytes(s.out[r], sums[r].data(), sums[r].size());
                      }},
                 stream);
}
int ncclAllGather(const void* in, void* out, size_t count, int type, void* comm, void* stream) {
  return enqueue(2,
                 {.comm = comm_of(comm),
                  .in = in,
                  .out = out,
                  .compute =
                      [=](Shared& s) {
                        const size_t bytes = count * size_of(type);
                        for (void* to : s.out) {
                          for (size_t r = 0; r < s.in.size(); ++r)
                            copy_bytes(static_cast<std::byte*>(to) + r * bytes, s.in[r], bytes);
                        }
                      }},
                 stream);
}
int ncclBroadcast(const void* in, void* out, size_t count, int type, int root, void* comm, void* stream) {
  return enqueue(3,
                 {.comm = comm_of(comm),
                  .in = in,
                  .out = out,
                  .compute =
                      [=](Shared& s) {
                        for (void* to : s.out)
                          copy_bytes(to, s.in[static_cast<size_t>(root)], count * size_of(type));
                      }},
                 stream);
}
int ncclReduce(const void* in, void* out, size_t count, int type, int op, int root, void* comm,
               void* stream) {
  return enqueue(4,
                 {.comm = comm_of(comm),
                  .in = in,
                  .out = out,
                  .compute =
                      [=](Shared& s) {
                        std::vector<std::byte> sum(count * size_of(type));
                        reduce_into(s.in, 0, count, type, op, sum.data());
                        copy_bytes(s.out[static_cast<size_t>(root)], sum.data(), sum.size());
                      }},
                 stream);
}
int ncclSend(const void* in, size_t count, int type, int peer, void* comm, void* stream) {
  return enqueue(5, {.comm = comm_of(comm), .peer = peer, .in = in, .bytes = count * size_of(type)}, stream);
}
int ncclRecv(void* out, size_t count, int type, int peer, void* comm, void* stream) {
  return enqueue(6, {.comm = comm_of(comm), .peer = peer, .out = out, .bytes = count * size_of(type)},
                 stream);
}

// ---- for the test ----

// What the next operations do: wait for ever (until aborted), or report an error.  The same of new
// communicators.
void fake_nccl_say_version(int version) { said_version = version; }
void fake_nccl_stall(bool stall) { stalled = stall; }
void fake_nccl_fail(int result) { async_error = result; }
// Calls since the last time: all_reduce, reduce_scatter, all_gather, broadcast, reduce, send, recv.
void fake_nccl_take_calls(int64_t* calls) {
  const std::lock_guard lock(comms_mutex);
  std::memcpy(calls, calls_of, sizeof(int64_t) * 7);
  std::memset(calls_of, 0, sizeof(calls_of));
}
int64_t fake_nccl_live() {
  const std::lock_guard lock(comms_mutex);
  return live_comms;
}
// Destroyed where another rank did not come to do the same: a hang.
int64_t fake_nccl_lonely_ends() {
  const std::lock_guard lock(comms_mutex);
  return lonely_ends;
}
int64_t fake_nccl_births() { return births; }
int64_t fake_nccl_aborts() {
  const std::lock_guard lock(comms_mutex);
  return aborts;
}
}
