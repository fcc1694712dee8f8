// Parameters, gradients and optimizer state of a rank, as ZeRO divides them over N shards: Rajbhandari,
// Rasley, Ruwase, He, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", 2020, figure 1
// and table 1.
#pragma once

#include "furrow/base/error.h"

namespace furrow::plan {

// Of one parameter.  Mixed precision with Adam: 2, 2, 12; float32 with Adam: 4, 4, 8.
struct StateBytes {
  double parameter = 4;
  double gradient = 4;
  double optimizer = 8;
};

// Bytes.  Stage 0: nothing is divided; 1: the optimizer's; 2: gradients too; 3: all.
inline double model_state_bytes(double parameters, const StateBytes& bytes, int stage, int shards) {
  FURROW_CHECK(stage >= 0 && stage <= 3 && shards >= 1);
  const double n = shards;
  return parameters * (bytes.parameter / (stage >= 3 ? n : 1) + bytes.gradient / (stage >= 2 ? n : 1) +
                       bytes.optimizer / (stage >= 1 ? n : 1));
}

}  // namespace furrow::plan
