// What tests of the backend nccl share: the library that stands in for NCCL and CUDA (fake_nccl.cc,
// fake_cuda.cc), memory of its devices, and who adds there.  With FURROW_REAL_NCCL the system's own
// libraries.
#pragma once

#include <dlfcn.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "furrow/comm/device.h"
#include "furrow/comm/nccl/library.h"

namespace furrow::comm {

#ifdef FURROW_REAL_NCCL
inline constexpr bool kReal = true;
#else
inline constexpr bool kReal = false;
#endif

std::string fake_path();
const NcclLibrary& library();

template <class Function>
Function fake(const char* name) {
  return reinterpret_cast<Function>(::dlsym(::dlopen(fake_path().c_str(), RTLD_NOW), name));
}

// By operation, since the last time: all_reduce, reduce_scatter, all_gather, broadcast, reduce, send, recv.
std::array<int64_t, 7> take_calls();
// Bytes copied between the host and devices since the last time.
int64_t take_host_copies();

// Bytes on the current device.
class DeviceBuffer {
 public:
  explicit DeviceBuffer(const std::vector<std::byte>& content);
  ~DeviceBuffer();
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  std::span<std::byte> bytes() const { return {static_cast<std::byte*>(data_), bytes_}; }
  std::vector<std::byte> content() const;

 private:
  static void copy(void* to, const void* from, size_t bytes);

  size_t bytes_;
  void* data_ = nullptr;
};

// Who adds what NCCL must not: the host; the arithmetic of reduce.h on a stream of the fake's device, late,
// so that what is not told to wait for it comes too early; the same in the calling thread.
enum class Adds : uint8_t { kOnHost, kInStream, kInCaller };
RankDevice device_that_adds(int index, Adds how);
std::string to_string(Adds how);
int64_t pending_additions();  // told to a stream, and not done yet

// Work in the order of its device's legacy default stream.
void put_on_default_stream(void (*function)(void*), void* data);

}  // namespace furrow::comm
