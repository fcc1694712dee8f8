// Published figures of what model states take.
#include "furrow/plan/model_states.h"

#include <gtest/gtest.h>

namespace furrow::plan {
namespace {

constexpr StateBytes kMixedAdam = {2, 2, 12};
constexpr double kGB = 1e9;
constexpr double kGiB = 1 << 30;

// Rajbhandari et al. 2020, table 1: GB a device, by data-parallel degree, for 7.5B, 128B and 1T parameters,
// optimizer states, gradients too, parameters too.
struct Published {
  int degree;
  double figures[3][3];
};
constexpr Published kTable[] = {
    {1, {{120, 120, 120}, {2048, 2048, 2048}, {16000, 16000, 16000}}},
    {4, {{52.5, 41.3, 30}, {896, 704, 512}, {7000, 5500, 4000}}},
    {16, {{35.6, 21.6, 7.5}, {608, 368, 128}, {4750, 2875, 1000}}},
    {64, {{31.4, 16.6, 1.88}, {536, 284, 32}, {4187, 2218, 250}}},
    {256, {{30.4, 15.4, 0.47}, {518, 263, 8}, {4046, 2054, 62.5}}},
    {1024, {{30.1, 15.1, 0.12}, {513, 257, 2}, {4011, 2013, 15.6}}},
};

TEST(ModelStates, ZeroPaperTable1) {
  constexpr double kParameters[] = {7.5e9, 128e9, 1e12};
  for (const Published& row : kTable) {
    for (int model = 0; model < 3; ++model) {
      for (int stage = 1; stage <= 3; ++stage) {
        const double printed = row.figures[model][stage - 1];
        const double bytes = model_state_bytes(kParameters[model], kMixedAdam, stage, row.degree);
        // Three digits are printed, some cut and some rounded.
        EXPECT_NEAR(bytes / kGB, printed, printed < 1 ? .01 : printed * .005)
            << row.degree << " ZeRO-" << stage;
      }
    }
  }
}

// DeepSpeed's documentation, "Memory Requirements", estimate_zero2_model_states_mem_needs: 2,851M parameters
// on 8 devices, nothing offloaded: 15.93GB (of 2^30 bytes) a device.  Its 16 bytes of optimizer state are
// divided, parameters and gradients are counted whole.
TEST(ModelStates, DeepSpeeds2851M) {
  EXPECT_NEAR(model_state_bytes(2851e6, {2, 2, 16}, 1, 8) / kGiB, 15.93, .005);
}

TEST(ModelStates, OneShardDividesNothing) {
  for (int stage = 0; stage <= 3; ++stage) EXPECT_EQ(model_state_bytes(10, {4, 4, 8}, stage, 1), 160);
}

}  // namespace
}  // namespace furrow::plan
