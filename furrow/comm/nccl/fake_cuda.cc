// The CUDA runtime's C interface over memory of the host: the part of libfurrow_fake_nccl.so that
// fake_nccl.cc stands on.
//
// "Device" memory cannot be touched at the addresses that callers get: only the library sees it, at others.
#include "furrow/comm/nccl/fake_cuda.h"

#include <sys/mman.h>
#include <unistd.h>

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

struct Event {
  std::mutex mutex;
  std::condition_variable changed;
  bool recorded = false, happened = true;
};
using SharedEvent = std::shared_ptr<Event>;

using Lock = std::unique_lock<std::mutex>;
using fake::copy_bytes;
using fake::see;
using fake::Stream;

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

// All memory of the host counts as managed memory of device 0 meanwhile.
void fake_nccl_manage(bool on) { managing = on; }

}  // extern "C"
