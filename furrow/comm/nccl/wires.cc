#include "furrow/comm/nccl/wires.h"

#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <future>
#include <thread>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/comm/awake.h"

namespace furrow::comm {
namespace {

constexpr int kDeviceMemory = 2, kManagedMemory = 3;
constexpr std::string_view kNewRanks = "the ranks of a new communicator";

// Polls: now and then something else is looked at.  A long wait rests in between, so that others have the
// core and the driver's lock, which each poll takes and each launch of a kernel needs.
class Polls {
 public:
  template <class Check>
  void next(const Check& check) {
    constexpr uint32_t kBetweenChecks = 64, kBeforeYield = 1024, kBeforeRest = 2048;
    constexpr std::chrono::microseconds kRest{20};
    if (++count_ % kBetweenChecks == 0) check();
    if (count_ > kBeforeRest) return std::this_thread::sleep_for(kRest);
    if (count_ > kBeforeYield) std::this_thread::yield();
  }

 private:
  uint32_t count_ = 0;
};

void check_call(int error, std::string_view what) { check_cuda(nccl_library(), error, what); }

CudaEvent new_event() {
  CudaEvent event = nullptr;
  check_call(nccl_library().cuda.event_create_with_flags(&event, kCudaEventDisableTiming), "an event");
  return event;
}

// What NCCL itself would heed before any configuration.
bool must_block() {
  const char* blocking = std::getenv("NCCL_COMM_BLOCKING");
  return blocking != nullptr && std::string_view(blocking) == "1";
}

}  // namespace

NcclWires::~NcclWires() {
  if (!device_) return;
  const CudaApi& cuda = nccl_library().cuda;
  cuda.set_device(*device_);
  if (communicator_.aborted()) give_up();
  for (const NcclComm comm : comms_) nccl().comm_destroy(comm);
  if (reducer_ == nullptr && device_staging_ != nullptr) cuda.free(device_staging_);
  reducer_.reset();
  for (const CudaEvent event : {done_, handed_}) {
    if (event != nullptr) cuda.event_destroy(event);
  }
  if (stream_ != nullptr) cuda.stream_destroy(stream_);
}

// A thread's first call to CUDA makes a context on its current device, which is the first one unless it has
// been told another: hundreds of MiB there for every rank.
std::optional<int> NcclWires::device_of(const void* pointer) const {
  const RankDevice* device = communicator_.device();
  if (pointer == nullptr || device == nullptr) return std::nullopt;
  const CudaApi& cuda = nccl_library().cuda;
  check_call(cuda.set_device(device->index), fmt::format("device {}", device->index));
  CudaPointerAttributes attributes;
  check_call(cuda.pointer_get_attributes(&attributes, pointer), "what memory this is");
  if (attributes.type != kDeviceMemory && attributes.type != kManagedMemory) return std::nullopt;
  return attributes.device;
}

NcclWires::Ready NcclWires::record() {
  const CudaApi& cuda = nccl_library().cuda;
  Ready ready(new_event(), [&cuda](CudaEvent e) { cuda.event_destroy(e); });
  check_call(cuda.event_record(ready.get(), nullptr), "recording an event");
  return ready;
}

void NcclWires::begin(int device, const Ready& ready) {
  const CudaApi& cuda = nccl_library().cuda;
  if (device_ && *device_ != device) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("a rank has one device: this operation is on {}, earlier ones on {}", device, *device_));
  }
  check_call(cuda.set_device(device), fmt::format("device {}", device));
  device_ = device;
  if (stream_ == nullptr) {
    check_call(cuda.stream_create_with_flags(&stream_, kCudaStreamNonBlocking), "a stream");
    done_ = new_event();
    handed_ = new_event();
  }
  check_call(cuda.stream_wait_event(stream_, ready.get(), 0), "waiting for the caller's stream");
}

NcclComm NcclWires::make_comm(const Birth& birth, int64_t deadline_ns) {
  const bool polled = nccl().comm_init_rank_config != nullptr && !must_block();
  comms_.push_back(polled ? make_polled_comm(birth, deadline_ns) : make_blocking_comm(birth, deadline_ns));
  return comms_.back();
}

NcclComm NcclWires::make_polled_comm(const Birth& birth, int64_t deadline_ns) const {
  constexpr std::string_view kCall = "ncclCommInitRankConfig";
  NcclConfig config;
  config.blocking = 0;
  NcclComm comm = nullptr;
  try {
    nccl_call(nccl().comm_init_rank_config(&comm, birth.ranks, birth.id, birth.rank, &config), kCall);
    await_state(comm, deadline_ns, kCall, kNewRanks);
  } catch (...) {
    if (comm != nullptr) nccl().comm_abort(comm);
    throw;
  }
  return comm;
}

void NcclWires::await_state(NcclComm comm, int64_t deadline_ns, std::string_view what,
                            std::string_view whom) const {
  for (Polls polls;;) {
    int state = kNcclSuccess;
    nccl_call(nccl().comm_get_async_error(comm, &state), "ncclCommGetAsyncError");
    if (state != kNcclInProgress) return nccl_call(state, what);
    polls.next([&] { check_time(deadline_ns, whom); });
  }
}

void NcclWires::settle(std::span<const NcclComm> comms, int64_t deadline_ns, std::string_view whom) {
  for (const NcclComm comm : comms) await_state(comm, deadline_ns, "an operation under way", whom);
}

// ncclCommInitRank waits and cannot be stopped, so it has a thread of its own.  A failure leaves that behind,
// and the thread then ends what comes to be after all.
NcclComm NcclWires::make_blocking_comm(const Birth& birth, int64_t deadline_ns) const {
  const auto decided = std::make_shared<std::atomic<bool>>(false);  // born, or given up: whichever is first
  std::packaged_task<std::pair<int, NcclComm>()> task(
      [&library = nccl_library(), device = *device_, birth, decided] {
        NcclComm comm = nullptr;
        library.cuda.set_device(device);
        const int result = library.nccl.comm_init_rank(&comm, birth.ranks, birth.id, birth.rank);
        const bool given_up = decided->exchange(true);
        if (given_up && result == kNcclSuccess) library.nccl.comm_abort(comm);
        return std::pair(result, comm);
      });
  std::future<std::pair<int, NcclComm>> born = task.get_future();
  std::thread thread(std::move(task));
  try {
    while (born.wait_for(std::chrono::milliseconds(1)) != std::future_status::ready)
      check_time(deadline_ns, kNewRanks);
  } catch (...) {
    if (!decided->exchange(true)) {
      thread.detach();
    } else {
      thread.join();
      if (const auto [result, comm] = born.get(); result == kNcclSuccess) nccl().comm_abort(comm);
    }
    throw;
  }
  thread.join();
  const auto [result, comm] = born.get();
  nccl_call(result, "ncclCommInitRank");
  return comm;
}

void NcclWires::check_time(int64_t deadline_ns, std::string_view whom) const {
  communicator_.listen();
  communicator_.check_alive();
  if (awake_ns() < deadline_ns) return;
  throw Error(ErrorCode::kDeadlineExceeded,
              fmt::format("time is over while NCCL waits for {}: missing, stopped or late", whom));
}

void NcclWires::wait(int64_t deadline_ns, std::string_view whom) {
  const CudaApi& cuda = nccl_library().cuda;
  check_call(cuda.event_record(done_, stream_), "recording an event");
  for (Polls polls;;) {
    const int state = cuda.event_query(done_);
    if (state == kCudaSuccess) return;
    if (state != kCudaNotReady) check_call(state, "an operation on the stream");
    polls.next([&] {
      check_comms();
      check_time(deadline_ns, whom);
    });
  }
}

void NcclWires::check_comms() const {
  for (const NcclComm comm : comms_) {
    int result = kNcclSuccess;
    nccl_call(nccl().comm_get_async_error(comm, &result), "ncclCommGetAsyncError");
    nccl_call(result, "an operation under way");
  }
}

void NcclWires::give_up() noexcept {
  for (const NcclComm comm : std::exchange(comms_, {})) nccl().comm_abort(comm);
  if (stream_ != nullptr) nccl_library().cuda.stream_synchronize(stream_);  // copies behind them
  if (reducer_ != nullptr && reducer_->has_stream()) reducer_->drain();     // additions behind those
}

void NcclWires::copy(void* to, const void* from, size_t bytes, int kind) {
  if (bytes == 0 || to == from) return;
  check_call(nccl_library().cuda.memcpy_async(to, from, bytes, kind, stream_), "a copy");
}

DeviceReducer* NcclWires::reducer() {
  const RankDevice* device = communicator_.device();
  if (reducer_ == nullptr && device->make_reducer) reducer_ = device->make_reducer();
  return reducer_.get();
}

void NcclWires::to_reducer(int64_t deadline_ns, std::string_view whom) {
  if (!reducer_->has_stream()) return wait(deadline_ns, whom);
  check_call(nccl_library().cuda.event_record(handed_, stream_), "recording an event");
  reducer_->wait_for(handed_);
}

void NcclWires::from_reducer() {
  if (!reducer_->has_stream()) return;
  reducer_->record(handed_);
  check_call(nccl_library().cuda.stream_wait_event(stream_, handed_, 0), "waiting for additions");
}

std::byte* NcclWires::device_staging(size_t bytes) {
  if (device_staging_bytes_ >= bytes) return device_staging_;
  device_staging_bytes_ = 0;
  if (DeviceReducer* adds = reducer(); adds != nullptr) {
    device_staging_ = adds->staging(bytes);
    from_reducer();  // it may have been told to clear it
  } else {
    const CudaApi& cuda = nccl_library().cuda;
    if (device_staging_ != nullptr) cuda.free(std::exchange(device_staging_, nullptr));
    void* room = nullptr;
    check_call(cuda.malloc(&room, bytes), fmt::format("{} bytes", bytes));
    device_staging_ = static_cast<std::byte*>(room);
  }
  device_staging_bytes_ = bytes;
  return device_staging_;
}

std::span<std::byte> NcclWires::host_staging(size_t bytes) {
  if (host_staging_.size() < bytes) {
    host_staging_ = {};
    host_staging_ = Memory(plain_block(bytes), bytes, MemoryKind::kOther);
  }
  return host_staging_.bytes().first(bytes);
}

}  // namespace furrow::comm
