// libfurrow_fake_nccl.so: NCCL's and the CUDA runtime's C interfaces over memory of the host, for ranks that
// are threads of one process.  What is tested against it is whether furrow loads, calls and ends them
// rightly.
//
// "Device" memory cannot be touched at the addresses that callers get: only the library sees it, at others. A
// stream is a thread with a queue.  Transfers and reductions wait for the other ranks as NCCL's kernels do,
// until their communicator is aborted.  Numbers of types and operations are those of nccl.h.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

// Of a library that is opened late, without memory that each thread would ask for at its first use.
#define FAKE_THREAD_LOCAL __attribute__((tls_model("initial-exec"))) thread_local

namespace {

// ---- memory ----

struct Block {
  size_t bytes = 0;
  std::byte* inside = nullptr;  // where this library sees it
  int device = 0;
};

std::mutex memory_mutex;
std::map<std::byte*, Block> blocks;
FAKE_THREAD_LOCAL int current_device = 0;
std::atomic<bool> managing = false;  // what is no block is device 0's too, and the host's

const Block* block_of(const void* pointer, std::byte** begin = nullptr) {
  auto* p = static_cast<std::byte*>(const_cast<void*>(pointer));
  auto next = blocks.upper_bound(p);
  if (next == blocks.begin()) return nullptr;
  --next;
  if (p > next->first + next->second.bytes) return nullptr;
  if (begin != nullptr) *begin = next->first;
  return &next->second;
}

// Nothing, from nowhere, is copied too.
void copy_bytes(void* to, const void* from, size_t bytes) {
  if (bytes > 0) std::memmove(to, from, bytes);
}

// The bytes behind a pointer of either kind.
std::byte* see(const void* pointer) {
  const std::lock_guard lock(memory_mutex);
  std::byte* begin = nullptr;
  const Block* block = block_of(pointer, &begin);
  auto* p = static_cast<std::byte*>(const_cast<void*>(pointer));
  return block == nullptr ? p : block->inside + (p - begin);
}

// ---- streams ----

struct Stream {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::function<void()>> queue;
  bool closing = false;
  std::thread thread;

  Stream() : thread([this] { serve(); }) {}
  ~Stream() {
    {
      const std::lock_guard lock(mutex);
      closing = true;
    }
    changed.notify_all();
    thread.join();
  }
  void push(std::function<void()> work) {
    {
      const std::lock_guard lock(mutex);
      queue.push_back(std::move(work));
    }
    changed.notify_all();
  }
  void serve() {
    for (;;) {
      std::function<void()> work;
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [this] { return closing || !queue.empty(); });
        if (queue.empty()) return;
        work = std::move(queue.front());
        queue.pop_front();
      }
      work();
    }
  }
};

struct Event {
  std::mutex mutex;
  std::condition_variable changed;
  bool recorded = false, happened = true;
};
using SharedEvent = std::shared_ptr<Event>;

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
  bool computed = false;
  struct Message {
    const std::byte* bytes;
    size_t size;
    bool taken = false;
  };
  std::map<std::pair<int, int>, std::deque<std::shared_ptr<Message>>> messages;  // by from, to
};

struct Comm {
  std::shared_ptr<Shared> shared;
  int rank = 0;
  bool aborted = false;  // this rank's end of it alone
};
using SharedComm = std::shared_ptr<Comm>;  // operations on a stream hold an aborted one until they have ended

std::mutex comms_mutex;
std::map<std::string, std::shared_ptr<Shared>> meeting;
int64_t unique_ids = 0, calls_of[8] = {}, live_comms = 0, aborts = 0;
std::atomic<int> async_error = 0;
std::atomic<bool> stalled = false;
std::atomic<int64_t> births = 0;  // ncclCommInitRank under way

// ---- arithmetic: float32 in between for 16 bits ----

float from_half(uint16_t h, bool brain) {
  uint32_t bits;
  if (brain) {
    bits = static_cast<uint32_t>(h) << 16;
  } else {
    _Float16 value;
    std::memcpy(&value, &h, 2);
    return static_cast<float>(value);
  }
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

uint16_t to_half(float value, bool brain) {
  uint16_t h;
  if (brain) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    bits += 0x7fff + (bits >> 16 & 1);
    return static_cast<uint16_t>(bits >> 16);
  }
  const auto half = static_cast<_Float16>(value);
  std::memcpy(&h, &half, 2);
  return h;
}

template <class T>
T apply(int op, T a, T b) {
  switch (op) {
    case 1:
      return a * b;
    case 2:
      return a < b ? b : a;
    case 3:
      return b < a ? b : a;
    default:
      return a + b;
  }
}

// From the last rank to the first: not the canonical order from three ranks on.
template <class T, class Load, class Store>
void fold(const Shared& s, size_t begin, size_t count, int op, const Load& load, const Store& store) {
  for (size_t i = 0; i < count; ++i) {
    T sum = load(s.in[static_cast<size_t>(s.ranks) - 1], begin + i);
    for (int r = s.ranks - 2; r >= 0; --r)
      sum = apply<T>(op, sum, load(s.in[static_cast<size_t>(r)], begin + i));
    if (op == 4) sum = static_cast<T>(sum / static_cast<T>(s.ranks));
    store(i, sum);
  }
}

template <class T>
void fold_plain(const Shared& s, size_t begin, size_t count, int op, void* out) {
  fold<T>(
      s, begin, count, op,
      [](const void* p, size_t i) {
        T x;
        std::memcpy(&x, static_cast<const std::byte*>(p) + i * sizeof(T), sizeof(T));
        return x;
      },
      [&](size_t i, T x) { std::memcpy(static_cast<std::byte*>(out) + i * sizeof(T), &x, sizeof(T)); });
}

size_t size_of(int type) {
  constexpr size_t kSizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
  return kSizes[type];
}

void fold_into(const Shared& s, size_t begin, size_t count, int type, int op, void* out) {
  switch (type) {
    case 1:
      return fold_plain<uint8_t>(s, begin, count, op, out);
    case 2:
      return fold_plain<uint32_t>(s, begin, count, op >= 2 ? -1 : op, out);
    case 4:
      return fold_plain<uint64_t>(s, begin, count, op, out);
    case 7:
      return fold_plain<float>(s, begin, count, op, out);
    case 8:
      return fold_plain<double>(s, begin, count, op, out);
    default:
      fold<float>(
          s, begin, count, op,
          [type](const void* p, size_t i) {
            return from_half(static_cast<const uint16_t*>(p)[i], type == 9);
          },
          [&](size_t i, float x) { static_cast<uint16_t*>(out)[i] = to_half(x, type == 9); });
  }
}

// Signed types: minima and maxima compare signs, sums and products wrap.
void reduce_into(const Shared& s, size_t begin, size_t count, int type, int op, void* out) {
  if (type == 2 && op >= 2) return fold_plain<int32_t>(s, begin, count, op, out);
  if (type == 4 && op >= 2) return fold_plain<int64_t>(s, begin, count, op, out);
  fold_into(s, begin, count, type, op, out);
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
  if (ended()) return;
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

// A group's operations are under way together.
void carry_out(const std::vector<Operation>& group) {
  if (stalled && !group.empty()) {
    Shared& s = *group[0].comm->shared;
    Lock lock(s.mutex);
    s.changed.wait(lock, [&] { return group[0].comm->aborted; });
    return;
  }
  std::vector<std::pair<SharedComm, std::shared_ptr<Shared::Message>>> sent;
  for (const Operation& o : group) {
    if (!o.compute && o.in != nullptr) sent.emplace_back(o.comm, post(o));
  }
  for (const Operation& o : group) {
    if (o.compute) {
      meet(o);
    } else if (o.out != nullptr) {
      take(o);
    }
  }
  for (const auto& [comm, message] : sent) {
    Lock lock(comm->shared->mutex);
    comm->shared->changed.wait(
        lock, [&, &comm = comm, &message = message] { return comm->aborted || message->taken; });
  }
}

FAKE_THREAD_LOCAL int group_depth = 0;
FAKE_THREAD_LOCAL std::vector<Operation> grouped;
FAKE_THREAD_LOCAL Stream* group_stream = nullptr;

int enqueue(int which, Operation operation, void* stream) {
  {
    const std::lock_guard lock(comms_mutex);
    ++calls_of[which];
  }
  grouped.push_back(std::move(operation));
  group_stream = static_cast<Stream*>(stream);
  if (group_depth > 0) return 0;
  group_stream->push([group = std::move(grouped)] { carry_out(group); });
  grouped.clear();
  return 0;
}

const SharedComm& comm_of(void* comm) { return *static_cast<SharedComm*>(comm); }

}  // namespace

extern "C" {

struct ncclUniqueId {
  char bytes[128];
};

int ncclGetVersion(int* version) { return *version = 22703, 0; }
const char* ncclGetErrorString(int result) {
  return result == 6 ? "remote process exited or there was a network error" : "invalid argument";
}
int ncclGetUniqueId(ncclUniqueId* id) {
  const std::lock_guard lock(comms_mutex);
  std::memset(id, 0, sizeof(*id));
  std::snprintf(id->bytes, sizeof(id->bytes), "fake %lld", static_cast<long long>(++unique_ids));
  return 0;
}

int ncclCommInitRank(void** comm, int ranks, ncclUniqueId id, int rank) {
  if (rank < 0 || rank >= ranks || std::strncmp(id.bytes, "fake ", 5) != 0) return 4;
  std::shared_ptr<Shared> shared;
  {
    const std::lock_guard lock(comms_mutex);
    auto& here = meeting[id.bytes];
    if (!here) here = std::make_shared<Shared>(ranks);
    shared = here;
  }
  struct Birth {
    Birth() { ++births; }
    ~Birth() { --births; }
  } const birth;
  while (stalled) std::this_thread::yield();
  {
    const std::lock_guard lock(comms_mutex);
    if (async_error != 0) return async_error;
    ++live_comms;
  }
  Lock lock(shared->mutex);
  if (shared->ranks != ranks) return 4;
  shared->in.resize(static_cast<size_t>(ranks));
  shared->out.resize(static_cast<size_t>(ranks));
  ++shared->present;
  shared->changed.notify_all();
  shared->changed.wait(lock, [&] { return shared->present == ranks; });
  *comm = new SharedComm(new Comm{shared, rank});
  return 0;
}
int ncclCommDestroy(void* comm) {
  const std::lock_guard lock(comms_mutex);
  --live_comms;
  delete static_cast<SharedComm*>(comm);
  return 0;
}
int ncclCommAbort(void* comm) {
  Shared& s = *comm_of(comm)->shared;
  {
    const Lock lock(s.mutex);
    comm_of(comm)->aborted = true;
    s.changed.notify_all();
  }
  const std::lock_guard lock(comms_mutex);
  --live_comms;
  ++aborts;
  delete static_cast<SharedComm*>(comm);
  return 0;
}
int ncclCommGetAsyncError(void*, int* result) { return *result = async_error, 0; }
int ncclGroupStart() { return ++group_depth, 0; }
int ncclGroupEnd() {
  if (--group_depth > 0 || grouped.empty()) return 0;
  group_stream->push([group = std::move(grouped)] { carry_out(group); });
  grouped.clear();
  return 0;
}

int ncclAllReduce(const void* in, void* out, size_t count, int type, int op, void* comm, void* stream) {
  return enqueue(0,
                 {.comm = comm_of(comm),
                  .in = in,
                  .out = out,
                  .compute =
                      [=](Shared& s) {
                        std::vector<std::byte> sum(count * size_of(type));
                        reduce_into(s, 0, count, type, op, sum.data());
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
                          reduce_into(s, r * count, count, type, op, sums.back().data());
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
                        reduce_into(s, 0, count, type, op, sum.data());
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

// ---- CUDA ----

const char* cudaGetErrorString(int error) { return error == 2 ? "out of memory" : "invalid argument"; }
int cudaSetDevice(int device) { return device < 0 || device > 7 ? 101 : (current_device = device, 0); }
int cudaGetDeviceCount(int* count) { return *count = 8, 0; }
int cudaPointerGetAttributes(void* attributes, const void* pointer) {
  const std::lock_guard lock(memory_mutex);
  const Block* block = block_of(pointer);
  int* fields = static_cast<int*>(attributes);
  const bool managed = managing && block == nullptr;
  fields[0] = managed ? 3 : block == nullptr ? 0 : 2;
  fields[1] = managed ? 0 : block == nullptr ? -2 : block->device;
  return 0;
}
int cudaMalloc(void** pointer, size_t bytes) {
  const int file = memfd_create("fake device", MFD_CLOEXEC);
  const size_t room = bytes + 1;
  if (file < 0 || ftruncate(file, static_cast<off_t>(room)) != 0) return 2;
  void* outside = mmap(nullptr, room, PROT_NONE, MAP_SHARED, file, 0);
  void* inside = mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (outside == MAP_FAILED || inside == MAP_FAILED) return 2;
  const std::lock_guard lock(memory_mutex);
  blocks[static_cast<std::byte*>(outside)] = {bytes, static_cast<std::byte*>(inside), current_device};
  *pointer = outside;
  return 0;
}
int cudaFree(void* pointer) {
  const std::lock_guard lock(memory_mutex);
  const auto found = blocks.find(static_cast<std::byte*>(pointer));
  if (found == blocks.end()) return 1;
  munmap(pointer, found->second.bytes + 1);
  munmap(found->second.inside, found->second.bytes + 1);
  blocks.erase(found);
  return 0;
}
int cudaStreamCreateWithFlags(void** stream, unsigned flags) {
  return flags == 1 ? (*stream = new Stream, 0) : 1;
}
int cudaStreamSynchronize(void* stream) {
  auto done = std::make_shared<std::promise<void>>();
  static_cast<Stream*>(stream)->push([done] { done->set_value(); });
  return done->get_future().wait(), 0;
}
int cudaStreamDestroy(void* stream) { return delete static_cast<Stream*>(stream), 0; }
int cudaEventCreateWithFlags(void** event, unsigned) { return *event = new SharedEvent(new Event), 0; }
int cudaEventDestroy(void* event) { return delete static_cast<SharedEvent*>(event), 0; }
// The legacy default stream (null) has nothing to do: memcpy and collectives are never put there.
int cudaEventRecord(void* event, void* stream) {
  const SharedEvent shared = *static_cast<SharedEvent*>(event);
  const std::lock_guard lock(shared->mutex);
  shared->recorded = true;
  shared->happened = stream == nullptr;
  if (stream == nullptr) return 0;
  static_cast<Stream*>(stream)->push([shared] {
    const std::lock_guard inner(shared->mutex);
    shared->happened = true;
    shared->changed.notify_all();
  });
  return 0;
}
int cudaEventQuery(void* event) {
  const SharedEvent shared = *static_cast<SharedEvent*>(event);
  const std::lock_guard lock(shared->mutex);
  return shared->happened ? 0 : 600;
}
int cudaStreamWaitEvent(void* stream, void* event, unsigned) {
  const SharedEvent shared = *static_cast<SharedEvent*>(event);
  {
    const Lock lock(shared->mutex);
    if (!shared->recorded) return 1;
  }
  static_cast<Stream*>(stream)->push([shared] {
    Lock lock(shared->mutex);
    shared->changed.wait(lock, [&] { return shared->happened; });
  });
  return 0;
}
int cudaMemcpyAsync(void* to, const void* from, size_t bytes, int kind, void* stream) {
  if (kind != 4) return 1;
  static_cast<Stream*>(stream)->push([=] { copy_bytes(see(to), see(from), bytes); });
  return 0;
}

// ---- for the test ----

// What the next operations do: wait for ever (until aborted), or report an error.  The same of new
// communicators.
void fake_nccl_stall(bool stall) { stalled = stall; }
void fake_nccl_fail(int result) { async_error = result; }
// All memory of the host counts as managed memory of device 0 meanwhile.
void fake_nccl_manage(bool on) { managing = on; }
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
int64_t fake_nccl_births() { return births; }
int64_t fake_nccl_aborts() {
  const std::lock_guard lock(comms_mutex);
  return aborts;
}
}
