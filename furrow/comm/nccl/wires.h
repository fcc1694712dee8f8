// A communicator's share of a CUDA device: a stream, memory for staging, waiting that hears of aborts and
// deadlines.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "furrow/comm/communicator.h"
#include "furrow/comm/nccl/library.h"

namespace furrow::comm {

// For the thread that runs the communicator's operations, but for device_of() and record().
class NcclWires {
 public:
  explicit NcclWires(Communicator& communicator) : communicator_(communicator), library_(nccl_library()) {}
  // After an abort NCCL's communicators are aborted, not destroyed: nobody waits for their kernels.
  ~NcclWires();
  NcclWires(const NcclWires&) = delete;
  NcclWires& operator=(const NcclWires&) = delete;

  const NcclApi& nccl() const { return library_.nccl; }
  const NcclLibrary& library() const { return library_; }
  CudaStream stream() const { return stream_; }

  // The device whose memory it is; none for memory of the host.  Managed memory counts as the device's.
  // Thread safe.
  std::optional<int> device_of(const void* pointer) const;
  // An event behind what the calling thread has put on its legacy default stream.  Thread safe.
  using Ready = std::shared_ptr<OpaqueCudaEvent>;
  Ready record() const;

  // Makes `device` current and the stream wait for the event.  A communicator has one
  // device.  Error{invalid_argument}: another one than before.
  void begin(int device, const Ready& ready);
  // Waits for the other ranks; throws as wait().  The handle stays the wires'.  From NCCL 2.14 on, unless
  // NCCL_COMM_BLOCKING=1 says otherwise, its calls return at once and are polled: a rank that does not come
  // leaves nothing behind.
  struct Birth {
    NcclUniqueId id;
    int ranks, rank;
  };
  NcclComm make_comm(const Birth& birth, int64_t deadline_ns);
  // Until what a call has only begun (kNcclInProgress) is on the stream: nothing may follow there before.
  // Throws as wait().
  void settle(std::span<const NcclComm> comms, int64_t deadline_ns, std::string_view whom);
  // Until all that was put on the stream is done.  Throws the reason of an abort, NCCL's own error, and
  // Error{deadline_exceeded} which names `whom`; the communicators are then aborted.
  void wait(int64_t deadline_ns, std::string_view whom);

  void copy(void* to, const void* from, size_t bytes);  // on the stream; between any memories
  std::byte* device_staging(size_t bytes);              // good until the next call
  std::span<std::byte> host_staging(size_t bytes);      // the same
  void nccl_call(int result, std::string_view what) const { check_nccl(library_, result, what); }

 private:
  NcclComm make_blocking_comm(const Birth& birth, int64_t deadline_ns) const;
  NcclComm make_polled_comm(const Birth& birth, int64_t deadline_ns) const;
  void await_state(NcclComm comm, int64_t deadline_ns, std::string_view what, std::string_view whom) const;
  void check_time(int64_t deadline_ns, std::string_view whom) const;
  void give_up() noexcept;
  void check_comms() const;

  Communicator& communicator_;
  const NcclLibrary& library_;
  std::optional<int> device_;
  CudaStream stream_ = nullptr;
  CudaEvent done_ = nullptr;
  std::vector<NcclComm> comms_;
  void* device_staging_ = nullptr;
  size_t device_staging_bytes_ = 0;
  Memory host_staging_;
};

}  // namespace furrow::comm
