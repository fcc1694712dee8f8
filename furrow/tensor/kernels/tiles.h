// The tile registers of AMX: whether this process may use them, and a software of them for tests.
#pragma once

namespace furrow::tensor::kernels {

// Whether the processor multiplies tiles of bfloat16 and the system lets this process.  The first call asks
// it, for all threads.  Thread safe.
bool tiles_permitted();

// While it lives, products of bfloat16 that this thread starts run on emulated tiles (tiles-inl.h), where the
// processor has AVX-512: so a machine without AMX tests what runs there.  Many times slower than pairs.
class EmulatedTilesScope {
 public:
  EmulatedTilesScope();
  ~EmulatedTilesScope();
  EmulatedTilesScope(const EmulatedTilesScope&) = delete;
  EmulatedTilesScope& operator=(const EmulatedTilesScope&) = delete;

 private:
  bool before_;
};
bool tiles_emulated();

}  // namespace furrow::tensor::kernels
