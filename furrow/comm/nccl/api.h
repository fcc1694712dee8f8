// The functions of NCCL and of the CUDA runtime that furrow calls, declared here so that neither is needed to
// build: their C interfaces are stable (nccl.h of NCCL 2; cuda_runtime_api.h of CUDA 11 to 13).
#pragma once

#include <cstddef>

namespace furrow::comm {

struct NcclUniqueId {
  char bytes[128];
};
using NcclComm = struct OpaqueNcclComm*;
using CudaStream = struct OpaqueCudaStream*;  // null: the legacy default stream
using CudaEvent = struct OpaqueCudaEvent*;

inline constexpr int kNcclSuccess = 0, kNcclInProgress = 7;

// ncclDataType_t and ncclRedOp_t
enum NcclType : int {
  kNcclInt8 = 0,
  kNcclUint8 = 1,
  kNcclInt32 = 2,
  kNcclInt64 = 4,
  kNcclFloat16 = 6,
  kNcclFloat32 = 7,
  kNcclFloat64 = 8,
  kNcclBfloat16 = 9,
};
enum NcclOp : int { kNcclSum = 0, kNcclProd = 1, kNcclMax = 2, kNcclMin = 3, kNcclAvg = 4 };

// ncclConfig_t as NCCL 2.14 has it.  Later ones copy as much of it as `size` says, and take what `version`
// does not have yet for unset.
struct NcclConfig {
  size_t size = sizeof(NcclConfig);
  unsigned magic = 0xcafebeef;
  unsigned version = 21400;
  int blocking = 1;  // 0: calls return before they are done; comm_get_async_error says when they are
  int padding = 0;
};
static_assert(sizeof(NcclConfig) == 24);

struct NcclApi {
  int (*get_version)(int* version);  // 22703 is 2.27.3
  const char* (*get_error_string)(int result);
  int (*get_unique_id)(NcclUniqueId* id);
  int (*comm_init_rank)(NcclComm* comm, int ranks, NcclUniqueId id, int rank);  // waits for all ranks
  // Null before 2.14.
  int (*comm_init_rank_config)(NcclComm* comm, int ranks, NcclUniqueId id, int rank, NcclConfig* config);
  int (*comm_destroy)(NcclComm comm);
  int (*comm_abort)(NcclComm comm);
  int (*comm_get_async_error)(NcclComm comm, int* result);
  int (*group_start)();
  int (*group_end)();
  int (*all_reduce)(const void* in, void* out, size_t count, int type, int op, NcclComm, CudaStream);
  int (*reduce_scatter)(const void* in, void* out, size_t out_count, int type, int op, NcclComm, CudaStream);
  int (*all_gather)(const void* in, void* out, size_t in_count, int type, NcclComm, CudaStream);
  int (*broadcast)(const void* in, void* out, size_t count, int type, int root, NcclComm, CudaStream);
  int (*reduce)(const void* in, void* out, size_t count, int type, int op, int root, NcclComm, CudaStream);
  int (*send)(const void* in, size_t count, int type, int peer, NcclComm, CudaStream);
  int (*recv)(void* out, size_t count, int type, int peer, NcclComm, CudaStream);
};

inline constexpr int kCudaSuccess = 0, kCudaNotReady = 600;
inline constexpr unsigned kCudaEventDisableTiming = 2;
// Neither waits for the legacy default stream nor is waited for by it: a transfer whose other end is late
// holds up nothing that is computed meanwhile.
inline constexpr unsigned kCudaStreamNonBlocking = 1;
// cudaMemcpyKind
inline constexpr int kCudaHostToDevice = 1, kCudaDeviceToHost = 2, kCudaDeviceToDevice = 3;
inline constexpr int kCudaMemcpyDefault = 4;  // the addresses say from where to where

// cudaPointerAttributes, with room for what later versions append.
struct CudaPointerAttributes {
  int type = 0;  // cudaMemoryType: 0 unknown to CUDA, 1 host, 2 device, 3 managed
  int device = 0;
  void* device_pointer = nullptr;
  void* host_pointer = nullptr;
  char later[64] = {};
};

struct CudaApi {
  const char* (*get_error_string)(int error);
  int (*set_device)(int device);
  int (*pointer_get_attributes)(CudaPointerAttributes* attributes, const void* pointer);
  int (*stream_create_with_flags)(CudaStream* stream, unsigned flags);
  int (*stream_destroy)(CudaStream stream);
  int (*stream_synchronize)(CudaStream stream);
  int (*stream_wait_event)(CudaStream stream, CudaEvent event, unsigned flags);
  int (*event_create_with_flags)(CudaEvent* event, unsigned flags);
  int (*event_record)(CudaEvent event, CudaStream stream);
  int (*event_query)(CudaEvent event);
  int (*event_destroy)(CudaEvent event);
  int (*memcpy_async)(void* to, const void* from, size_t bytes, int kind, CudaStream stream);
  int (*malloc)(void** pointer, size_t bytes);
  int (*free)(void* pointer);
};

}  // namespace furrow::comm
