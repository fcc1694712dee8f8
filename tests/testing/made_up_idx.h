// A small learnable image set in IDX files, for tests that run the binary.
#pragma once

#include <cstdint>
#include <string>

namespace furrow::testing {

// Writes train-images-idx3-ubyte and its three companions into `folder`: `train` and `test` images of side x
// side whose label (0..9) decides which rows are bright, with noise.  Pure function of its arguments.
void write_made_up_idx(const std::string& folder, int64_t train, int64_t test, int64_t side);

}  // namespace furrow::testing
