// Whether kernels of bfloat16 multiply pairs (AVX-512 BF16), and the choice of a test.
#pragma once

#include "furrow/tensor/kernels/choice_scope.h"

namespace furrow::tensor::kernels {

// What kernels of bfloat16 that this thread starts may use: VDPBF16PS where the processor has it and gains by
// it. Intel's cores begin one every second cycle and two FMAs of float32 every cycle, so that converted
// operands are multiplied in half the time (a Xeon with AVX-512 BF16: 88 and 175 GFLOP/s a core; AMD's cores:
// twice float32).
bool usable_pairs();

// What usable_pairs() says to this thread.  REQUIRES: a processor that has them, for true.
using PairsScope = ChoiceScope<bool, struct PairsTag>;

// Whether the processor carries VDPBF16PS out at all.
bool has_pairs();

}  // namespace furrow::tensor::kernels
