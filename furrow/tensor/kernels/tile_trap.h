// Tile instructions carried out where the processor has none: what it refuses is decoded and done in
// software, so that a test runs the very code of a machine with AMX.
#pragma once

#include <cstddef>
#include <cstdint>

namespace furrow::tensor::kernels::testing {

// TDPBF16PS for one element, as the Intel manual's pseudo-code has it: c and the sum of a[k] b[k] over
// `count` numbers along k, 32 at most.
float tile_products(float c, const float* a, const float* b, size_t count);

// While it lives, tile instructions that raise SIGILL are carried out, on any thread; registers are the
// thread's own.  An instruction that finds its thread not configured for it ends the process, as any other
// illegal one does.  Not thread safe; one at a time.
class TileTrap {
 public:
  TileTrap();
  ~TileTrap();
  TileTrap(const TileTrap&) = delete;
  TileTrap& operator=(const TileTrap&) = delete;

  static int64_t carried_out();  // instructions, of the last one alive
};

}  // namespace furrow::tensor::kernels::testing
