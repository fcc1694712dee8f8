// The CUDA runtime's C interface over memory of the host: the part of libfurrow_fake_nccl.so that
// fake_nccl.cc stands on.
//
// "Device" memory cannot be touched at the addresses that callers get: only the library sees it, at others.
#include "furrow/comm/nccl/fake_cuda.h"

#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <future>
#include <map>
#include <memory>
#include <utility>

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
// Bit d: some thread has called while d was its current device, which makes a context there.
std::atomic<int64_t> contexts = 0;
std::atomic<int64_t> queries = 0;
std::array<std::atomic<int64_t>, 5> copied;  // bytes, by cudaMemcpyKind

void make_context() { contexts |= int64_t{1} << current_device; }

const Block* block_of(const void* pointer, std::byte** begin = nullptr) {
  auto* p = static_cast<std::byte*>(const_cast<void*>(pointer));
  auto next = blocks.upper_bound(p);
  if (next == blocks.begin()) return nullptr;
  --next;
  if (p > next->first + next->second.bytes) return nullptr;
  if (begin != nullptr) *begin = next->first;
  return &next->second;
}

// ---- events ----

// What an event was last recorded as: who waits for it waits for that, whatever it is recorded as later.
struct Moment {
  std::mutex mutex;
  std::condition_variable changed;
  bool happened = false;
};

struct Event {
  const int device;
  std::mutex mutex{};
  std::shared_ptr<Moment> moment = nullptr;  // null before the first

  std::shared_ptr<Moment> last() {
    const std::lock_guard lock(mutex);
    return moment;
  }
};

using Lock = std::unique_lock<std::mutex>;
using fake::copy_bytes;
using fake::see;
using fake::Stream;

// The legacy default stream of a device, once something was put there.
std::mutex defaults_mutex;
std::map<int, std::unique_ptr<Stream>> defaults;

Stream* stream_of(void* stream, bool make = false) {
  if (stream != nullptr) return static_cast<Stream*>(stream);
  const std::lock_guard lock(defaults_mutex);
  if (make && !defaults.contains(current_device))
    defaults[current_device] = std::make_unique<Stream>(current_device);
  const auto found = defaults.find(current_device);
  return found == defaults.end() ? nullptr : found->second.get();
}

}  // namespace

namespace fake {

void copy_bytes(void* to, const void* from, size_t bytes) {
  if (bytes > 0) std::memmove(to, from, bytes);
}

std::byte* see(const void* pointer) {
  const std::lock_guard lock(memory_mutex);
  std::byte* begin = nullptr;
  const Block* block = block_of(pointer, &begin);
  auto* p = static_cast<std::byte*>(const_cast<void*>(pointer));
  return block == nullptr ? p : block->inside + (p - begin);
}

Stream::~Stream() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Stream::push(std::function<void()> work) {
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(work));
  }
  changed_.notify_all();
}

void Stream::serve() {
  for (;;) {
    std::function<void()> work;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return closing_ || !queue_.empty(); });
      if (queue_.empty()) return;
      work = std::move(queue_.front());
      queue_.pop_front();
    }
    work();
  }
}

}  // namespace fake

extern "C" {

// ---- CUDA ----

const char* cudaGetErrorString(int error) { return error == 2 ? "out of memory" : "invalid argument"; }
int cudaSetDevice(int device) {
  if (device < 0 || device > 7) return 101;
  current_device = device;
  return make_context(), 0;
}
int cudaGetDeviceCount(int* count) { return *count = 8, 0; }
int cudaPointerGetAttributes(void* attributes, const void* pointer) {
  make_context();
  const std::lock_guard lock(memory_mutex);
  const Block* block = block_of(pointer);
  int* fields = static_cast<int*>(attributes);
  const bool managed = managing && block == nullptr;
  fields[0] = managed ? 3 : block == nullptr ? 0 : 2;
  fields[1] = managed ? 0 : block == nullptr ? -2 : block->device;
  return 0;
}
int cudaMalloc(void** pointer, size_t bytes) {
  make_context();
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
  make_context();
  return flags == 1 ? (*stream = new Stream(current_device), 0) : 1;
}
int cudaStreamSynchronize(void* stream) {
  auto done = std::make_shared<std::promise<void>>();
  static_cast<Stream*>(stream)->push([done] { done->set_value(); });
  return done->get_future().wait(), 0;
}
int cudaStreamDestroy(void* stream) { return delete static_cast<Stream*>(stream), 0; }
int cudaEventCreateWithFlags(void** event, unsigned) {
  make_context();
  return *event = new Event{.device = current_device}, 0;
}
int cudaEventDestroy(void* event) { return delete static_cast<Event*>(event), 0; }
int cudaEventRecord(void* event, void* stream) {
  Event& e = *static_cast<Event*>(event);
  Stream* on = stream_of(stream);
  if (e.device != (on == nullptr ? current_device : on->device)) return 400;
  auto moment = std::make_shared<Moment>();
  {
    const std::lock_guard lock(e.mutex);
    e.moment = moment;
  }
  if (on == nullptr) return moment->happened = true, 0;
  on->push([moment] {
    const std::lock_guard lock(moment->mutex);
    moment->happened = true;
    moment->changed.notify_all();
  });
  return 0;
}
int cudaEventQuery(void* event) {
  ++queries;
  const auto moment = static_cast<Event*>(event)->last();
  if (moment == nullptr) return 0;
  const std::lock_guard lock(moment->mutex);
  return moment->happened ? 0 : 600;
}
int cudaStreamWaitEvent(void* stream, void* event, unsigned) {
  const auto moment = static_cast<Event*>(event)->last();
  if (moment == nullptr) return 1;
  static_cast<Stream*>(stream)->push([moment] {
    Lock lock(moment->mutex);
    moment->changed.wait(lock, [&] { return moment->happened; });
  });
  return 0;
}
int cudaLaunchHostFunc(void* stream, void (*function)(void*), void* data) {
  stream_of(stream, true)->push([=] { function(data); });
  return 0;
}
// From or to pageable memory of the host the call itself waits for its turn, as CUDA's may.
int cudaMemcpyAsync(void* to, const void* from, size_t bytes, int kind, void* stream) {
  if (kind < 1 || kind > 4) return 1;
  copied[static_cast<size_t>(kind)] += static_cast<int64_t>(bytes);
  static_cast<Stream*>(stream)->push([=] { copy_bytes(see(to), see(from), bytes); });
  return kind <= 2 ? cudaStreamSynchronize(stream) : 0;
}

// ---- for tests ----

// Where it lies that a pointer of a device stands for.
void* fake_cuda_see(void* pointer) { return see(pointer); }
// Bytes copied since the last time, by cudaMemcpyKind.
void fake_cuda_take_copies(int64_t* bytes) {
  for (size_t kind = 0; kind < copied.size(); ++kind) bytes[kind] = copied[kind].exchange(0);
}
int64_t fake_cuda_take_queries() { return queries.exchange(0); }
// Bit d: there is a context on device d, since the last time.
int64_t fake_cuda_take_contexts() { return contexts.exchange(0); }

// All memory of the host counts as managed memory of device 0 meanwhile.
void fake_nccl_manage(bool on) { managing = on; }

}  // extern "C"
