// Working memory of kernels: a stack of 64-byte-aligned blocks per thread, reused from call to call, counted
// as MemoryKind::kOther.  Pointers live until the scope that took them ends; scopes nest.  Contents are
// undefined.
#pragma once

#include <cstddef>
#include <cstdint>

namespace furrow::tensor::kernels {

class ScratchScope {
 public:
  ScratchScope();
  ~ScratchScope();
  ScratchScope(const ScratchScope&) = delete;
  ScratchScope& operator=(const ScratchScope&) = delete;

  float* floats(int64_t count) {
    return static_cast<float*>(take(static_cast<size_t>(count) * sizeof(float)));
  }
  uint8_t* bytes(int64_t count) { return static_cast<uint8_t*>(take(static_cast<size_t>(count))); }

 private:
  static void* take(size_t bytes);
  size_t block_;
  size_t used_;
  size_t taken_;
};

}  // namespace furrow::tensor::kernels
