// A communicator's share of a CUDA device: a stream, who adds beside it, waiting that hears of aborts and
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
  explicit NcclWires(Communicator& communicator) : communicator_(communicator) {}
  // After an abort NCCL's communicators are aborted, not destroyed: nobody waits for their kernels.
  ~NcclWires();
  NcclWires(const NcclWires&) = delete;
  NcclWires& operator=(const NcclWires&) = delete;

  static const NcclApi& nccl() { return nccl_library().nccl; }
  CudaStream stream() const { return stream_; }

  // The device whose memory it is; none for memory of the host, and for all before the communicator has a
  // device.  Managed memory counts as the device's.  Thread safe; the rank's device is then current.
  std::optional<int> device_of(const void* pointer) const;
  // An event behind what has been put on the legacy default stream of the current device.  Thread safe.
  using Ready = std::shared_ptr<OpaqueCudaEvent>;
  static Ready record();

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
  // Error{deadline_exceeded} which names `whom`.
  void wait(int64_t deadline_ns, std::string_view whom);
  // After any error of an operation: aborts NCCL's communicators, and returns when nothing that was put on
  // the stream or told to the reducer touches memory any more.
  void give_up() noexcept;

  void copy(void* to, const void* from, size_t bytes) { copy(to, from, bytes, kCudaDeviceToDevice); }
  // From or to memory that device code does not see.  Such a copy may hold up the calling thread until it is
  // its turn on the stream, without a deadline: REQUIRES that wait() has returned since NCCL was last called.
  void copy_to_host(void* to, const void* from, size_t bytes) { copy(to, from, bytes, kCudaDeviceToHost); }
  void copy_to_device(void* to, const void* from, size_t bytes) { copy(to, from, bytes, kCudaHostToDevice); }

  // Who adds on the device; null: nobody.  REQUIRES: begin().
  DeviceReducer* reducer();
  // What the reducer is told from then on comes behind what is on the stream, and the other way round.
  void to_reducer(int64_t deadline_ns, std::string_view whom);
  void from_reducer();
  // Of the device, good until the next call.  REQUIRES: what was put on the stream before has been waited
  // for, where it takes more than ever.
  std::byte* device_staging(size_t bytes);
  std::span<std::byte> host_staging(size_t bytes);  // good until the next call
  static void nccl_call(int result, std::string_view what) { check_nccl(nccl_library(), result, what); }

 private:
  NcclComm make_blocking_comm(const Birth& birth, int64_t deadline_ns) const;
  NcclComm make_polled_comm(const Birth& birth, int64_t deadline_ns) const;
  void await_state(NcclComm comm, int64_t deadline_ns, std::string_view what, std::string_view whom) const;
  void check_time(int64_t deadline_ns, std::string_view whom) const;
  void check_comms() const;
  void copy(void* to, const void* from, size_t bytes, int kind);

  Communicator& communicator_;
  std::optional<int> device_;
  CudaStream stream_ = nullptr;
  CudaEvent done_ = nullptr, handed_ = nullptr;
  std::vector<NcclComm> comms_;
  std::unique_ptr<DeviceReducer> reducer_;
  std::byte* device_staging_ = nullptr;  // the reducer's, or of our own
  size_t device_staging_bytes_ = 0;
  Memory host_staging_;
};

}  // namespace furrow::comm
