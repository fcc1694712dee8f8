// Which instruction sets the kernels are compiled for; include before anything of Highway.
// AVX-512, AVX2 with FMA and a plain baseline on x86; NEON on Arm.  Scalable vectors are left out: the
// kernels keep arrays of vectors in registers, which needs a size known to the compiler.
#pragma once

#ifndef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS \
  (HWY_SSSE3 | HWY_SSE4 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#endif
