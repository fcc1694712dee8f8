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

// Polls: now and then something else is looked at, and after a while others may have the core.
class Polls {
 public:
  template <class Check>
  void next(const Check& check) {
    constexpr uint32_t kBetweenChecks = 64, kBeforeYield = 1024;
    if (++count_ % kBetweenChecks == 0) check();
    if (count_ > kBeforeYield) std::this_thread::yield();
  }

 private:
  uint32_t count_ = 0;
};

// What NCCL itself would heed before any configuration.
bool must_block() {
  const char* blocking = std::getenv("NCCL_COMM_BLOCKING");
  return blocking != nullptr && std::string_view(blocking) == "1";
}

}  // namespace

NcclWires::~NcclWires() {
  const CudaApi& cuda = library_.cuda;
  if (!device_) return;
  cuda.set_device(*device_);
  if (communicator_.aborted()) give_up();
  for (const NcclComm comm : comms_) library_.nccl.comm_destroy(comm);
  if (device_staging_ != nullptr) cuda.free(device_staging_);
  if (done_ != nullptr) cuda.event_destroy(done_);
  if (stream_ != nullptr) cuda.stream_destroy(stream_);
}

std::optional<int> NcclWires::device_of(const void* pointer) const {
  if (pointer == nullptr) return std::nullopt;
  CudaPointerAttributes attributes;
  check_cuda(library_, library_.cuda.pointer_get_attributes(&attributes, pointer), "what memory this is");
  if (attributes.type != kDeviceMemory && attributes.type != kManagedMemory) return std::nullopt;
  return attributes.device;
}

NcclWires::Ready NcclWires::record() const {
  CudaEvent event = nullptr;
  check_cuda(library_, library_.cuda.event_create_with_flags(&event, kCudaEventDisableTiming), "an event");
  Ready ready(event, [&cuda = library_.cuda](CudaEvent e) { cuda.event_destroy(e); });
  check_cuda(library_, library_.cuda.event_record(event, nullptr), "recording an event");
  return ready;
}

void NcclWires::begin(int device, const Ready& ready) {
  const CudaApi& cuda = library_.cuda;
  if (device_ && *device_ != device) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("a rank has one device: this operation is on {}, earlier ones on {}", device, *device_));
  }
  check_cuda(library_, cuda.set_device(device), fmt::format("device {}", device));
  device_ = device;
  if (stream_ == nullptr) {
    check_cuda(library_, cuda.stream_create_with_flags(&stream_, kCudaStreamNonBlocking), "a stream");
    check_cuda(library_, cuda.event_create_with_flags(&done_, kCudaEventDisableTiming), "an event");
  }
  check_cuda(library_, cuda.stream_wait_event(stream_, ready.get(), 0), "waiting for the caller's stream");
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

void NcclWires::settle(std::span<const NcclComm> comms, int64_t deadline_ns, std::string_view whom) try {
  for (const NcclComm comm : comms) await_state(comm, deadline_ns, "an operation under way", whom);
} catch (...) {
  give_up();
  throw;
}

// ncclCommInitRank waits and cannot be stopped, so it has a thread of its own.  A failure leaves that behind,
// and the thread then ends what comes to be after all.
NcclComm NcclWires::make_blocking_comm(const Birth& birth, int64_t deadline_ns) const {
  const auto decided = std::make_shared<std::atomic<bool>>(false);  // born, or given up: whichever is first
  std::packaged_task<std::pair<int, NcclComm>()> task(
      [&library = library_, device = *device_, birth, decided] {
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
      if (const auto [result, comm] = born.get(); result == kNcclSuccess) library_.nccl.comm_abort(comm);
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

void NcclWires::wait(int64_t deadline_ns, std::string_view whom) try {
  check_cuda(library_, library_.cuda.event_record(done_, stream_), "recording an event");
  for (Polls polls;;) {
    const int state = library_.cuda.event_query(done_);
    if (state == kCudaSuccess) return;
    if (state != kCudaNotReady) check_cuda(library_, state, "an operation on the stream");
    polls.next([&] {
      check_comms();
      check_time(deadline_ns, whom);
    });
  }
} catch (...) {
  give_up();  // the buffers are the caller's again: no kernel or copy may go on
  throw;
}

void NcclWires::check_comms() const {
  for (const NcclComm comm : comms_) {
    int result = kNcclSuccess;
    nccl_call(library_.nccl.comm_get_async_error(comm, &result), "ncclCommGetAsyncError");
    nccl_call(result, "an operation under way");
  }
}

void NcclWires::give_up() noexcept {
  for (const NcclComm comm : std::exchange(comms_, {})) library_.nccl.comm_abort(comm);
  if (stream_ != nullptr) library_.cuda.stream_synchronize(stream_);  // copies behind them
}

void NcclWires::copy(void* to, const void* from, size_t bytes) {
  if (bytes == 0 || to == from) return;
  check_cuda(library_, library_.cuda.memcpy_async(to, from, bytes, kCudaMemcpyDefault, stream_), "a copy");
}

std::byte* NcclWires::device_staging(size_t bytes) {
  if (device_staging_bytes_ < bytes) {
    if (device_staging_ != nullptr) library_.cuda.free(std::exchange(device_staging_, nullptr));
    device_staging_bytes_ = 0;
    check_cuda(library_, library_.cuda.malloc(&device_staging_, bytes), fmt::format("{} bytes", bytes));
    device_staging_bytes_ = bytes;
  }
  return static_cast<std::byte*>(device_staging_);
}

std::span<std::byte> NcclWires::host_staging(size_t bytes) {
  if (host_staging_.size() < bytes) {
    host_staging_ = {};
    host_staging_ = Memory(plain_block(bytes), bytes, MemoryKind::kOther);
  }
  return host_staging_.bytes().first(bytes);
}

}  // namespace furrow::comm
