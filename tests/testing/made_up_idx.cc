#include "tests/testing/made_up_idx.h"

#include "furrow/base/file.h"
#include "furrow/base/rng.h"

namespace furrow::testing {
namespace {

void append_u32(std::string* bytes, uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) bytes->push_back(static_cast<char>(value >> shift));
}

void write_split(const std::string& prefix, int64_t count, int64_t side, uint64_t seed) {
  std::string images, labels;
  for (uint32_t word :
       {0x803u, static_cast<uint32_t>(count), static_cast<uint32_t>(side), static_cast<uint32_t>(side)}) {
    append_u32(&images, word);
  }
  append_u32(&labels, 0x801);
  append_u32(&labels, static_cast<uint32_t>(count));
  const Philox stream(seed, RandomPurpose::kNoise, "made up images");
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t label = stream.block(1, i, 0)[0] % 10;
    labels.push_back(static_cast<char>(label));
    for (int64_t p = 0; p < side * side; ++p) {
      const uint32_t noise = stream.block(0, i, static_cast<uint32_t>(p / 4))[p % 4] % 100;
      const bool bright = (p / side) * 10 / side == label;
      images.push_back(static_cast<char>(noise + (bright ? 120 : 0)));
    }
  }
  write_file_atomic(prefix + "-images-idx3-ubyte", images);
  write_file_atomic(prefix + "-labels-idx1-ubyte", labels);
}

}  // namespace

void write_made_up_idx(const std::string& folder, int64_t train, int64_t test, int64_t side) {
  make_directories(folder);
  write_split(folder + "/train", train, side, 1);
  write_split(folder + "/t10k", test, side, 2);
}

}  // namespace furrow::testing
