#include "furrow/comm/nccl/library.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <atomic>
#include <cstdlib>
#include <initializer_list>
#include <mutex>
#include <string>
#include <vector>

#include "furrow/base/error.h"

namespace furrow::comm {
namespace {

constexpr const char* kRemedy =
    "install NCCL 2.10 or later and the CUDA runtime (the wheels nvidia-nccl-cu12 and "
    "nvidia-cuda-runtime-cu12 "
    "have them) and put them on LD_LIBRARY_PATH, or set [comm] backend = \"native\"";

// The first with ncclAvg and ncclBfloat16, which older ones take for arguments that are none of theirs.
constexpr int kLeastVersion = 21000;
// The first whose communicators need not block.
constexpr int kPolledVersion = 21400;

// 2804 is 2.8.4 and 21003 is 2.10.3: two digits stand for the second number from 2.9 on.
std::string version_text(int version) {
  const int base = version < 10000 ? 1000 : 10000;
  return fmt::format("{}.{}.{}", version / base, version % base / 100, version % 100);
}

// One shared library, open for good: the first of the names that is in the process already (libtorch brings
// its own, which another beside it would only be at odds with), else the first that can be loaded.
class Library {
 public:
  Library(const char* variable, std::initializer_list<const char*> names) {
    const char* given = std::getenv(variable);
    const std::vector<std::string> tried = given != nullptr
                                               ? std::vector<std::string>{given}
                                               : std::vector<std::string>(names.begin(), names.end());
    std::string reasons;
    for (const std::string& name : tried) {
      handle_ = ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
      if (handle_ != nullptr) return;
    }
    for (const std::string& name : tried) {
      handle_ = ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
      if (handle_ != nullptr) return;
      reasons += fmt::format("{}{}", reasons.empty() ? "" : "; ", ::dlerror());
    }
    throw Error(ErrorCode::kNotFound, fmt::format("the communication backend nccl cannot load {} ({}): {}",
                                                  tried.front(), reasons, kRemedy));
  }

  template <class Function>
  void find(const char* name, Function& function) const {
    function = reinterpret_cast<Function>(::dlsym(handle_, name));
    if (function != nullptr) return;
    throw Error(ErrorCode::kFailedPrecondition,
                fmt::format("the communication backend nccl finds no {}: {}", name, kRemedy));
  }

 private:
  void* handle_ = nullptr;
};

// Error{failed_precondition}: too old.
int version_of(const NcclApi& api) {
  int version = 0;
  if (api.get_version(&version) == kNcclSuccess && version >= kLeastVersion) return version;
  throw Error(ErrorCode::kFailedPrecondition,
              fmt::format("the communication backend nccl needs NCCL {} or later, but this one is {}: {}",
                          version_text(kLeastVersion), version_text(version), kRemedy));
}

NcclApi find_nccl() {
  const Library library("FURROW_NCCL_LIBRARY", {"libnccl.so.2"});
  NcclApi api{};
  library.find("ncclGetVersion", api.get_version);
  const int version = version_of(api);
  library.find("ncclGetErrorString", api.get_error_string);
  library.find("ncclGetUniqueId", api.get_unique_id);
  library.find("ncclCommInitRank", api.comm_init_rank);
  if (version >= kPolledVersion) library.find("ncclCommInitRankConfig", api.comm_init_rank_config);
  library.find("ncclCommDestroy", api.comm_destroy);
  library.find("ncclCommAbort", api.comm_abort);
  library.find("ncclCommGetAsyncError", api.comm_get_async_error);
  library.find("ncclGroupStart", api.group_start);
  library.find("ncclGroupEnd", api.group_end);
  library.find("ncclAllReduce", api.all_reduce);
  library.find("ncclReduceScatter", api.reduce_scatter);
  library.find("ncclAllGather", api.all_gather);
  library.find("ncclBroadcast", api.broadcast);
  library.find("ncclReduce", api.reduce);
  library.find("ncclSend", api.send);
  library.find("ncclRecv", api.recv);
  return api;
}

CudaApi find_cuda() {
  const Library library("FURROW_CUDART_LIBRARY",
                        {"libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so"});
  CudaApi api{};
  library.find("cudaGetErrorString", api.get_error_string);
  library.find("cudaSetDevice", api.set_device);
  library.find("cudaPointerGetAttributes", api.pointer_get_attributes);
  library.find("cudaStreamCreateWithFlags", api.stream_create_with_flags);
  library.find("cudaStreamDestroy", api.stream_destroy);
  library.find("cudaStreamSynchronize", api.stream_synchronize);
  library.find("cudaStreamWaitEvent", api.stream_wait_event);
  library.find("cudaEventCreateWithFlags", api.event_create_with_flags);
  library.find("cudaEventRecord", api.event_record);
  library.find("cudaEventQuery", api.event_query);
  library.find("cudaEventDestroy", api.event_destroy);
  library.find("cudaMemcpyAsync", api.memcpy_async);
  library.find("cudaMalloc", api.malloc);
  library.find("cudaFree", api.free);
  return api;
}

}  // namespace

NcclLibrary open_nccl_library() { return {find_nccl(), find_cuda()}; }

const NcclLibrary& nccl_library() {
  static std::mutex mutex;
  static std::atomic<const NcclLibrary*> loaded = nullptr;
  if (const NcclLibrary* here = loaded.load(std::memory_order_acquire)) return *here;
  const std::lock_guard lock(mutex);
  if (loaded == nullptr) loaded = new NcclLibrary(open_nccl_library());
  return *loaded;
}

void check_nccl(const NcclLibrary& library, int result, std::string_view what) {
  if (result == kNcclSuccess || result == kNcclInProgress) return;
  throw Error(ErrorCode::kUnavailable,
              fmt::format("NCCL: {}: {}", what, library.nccl.get_error_string(result)));
}

void check_cuda(const NcclLibrary& library, int error, std::string_view what) {
  if (error == kCudaSuccess) return;
  throw Error(ErrorCode::kUnavailable,
              fmt::format("CUDA: {}: {}", what, library.cuda.get_error_string(error)));
}

}  // namespace furrow::comm
