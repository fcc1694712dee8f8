#include "furrow/data/split.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "furrow/base/error.h"
#include "furrow/base/rng.h"

namespace furrow::data {
namespace {

// No epoch of a SampleOrder reaches it, so that the carving is independent of every shuffle.
constexpr uint64_t kCarvingEpoch = std::numeric_limits<uint64_t>::max();

}  // namespace

int64_t fraction_count(double fraction, int64_t size, const char* key, const char* what) {
  if (!(fraction >= 0 && fraction < 1)) {
    throw Error(ErrorCode::kInvalidArgument, fmt::format("{} = {} is not in [0, 1)", key, fraction));
  }
  // What is within 1e-6 of an integer is that integer: 0.07 * 100 is 7.000000000000001.
  const auto count = static_cast<int64_t>(std::ceil(fraction * static_cast<double>(size) - 1e-6));
  if (count >= size && count > 0) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("{} = {} of {} {} leaves nothing to train on: use a smaller fraction or more data", key,
                    fraction, size, what));
  }
  return count;
}

void for_each_chosen(int64_t size, int64_t count, uint64_t seed, const std::function<void(int64_t)>& chosen) {
  FURROW_CHECK(count >= 0 && count < size, "a carving out of range");
  const KeyedPermutation permutation(seed, kCarvingEpoch, static_cast<uint64_t>(size));
  for (int64_t i = 0; i < count; ++i) chosen(static_cast<int64_t>(permutation(static_cast<uint64_t>(i))));
}

Carved carve(int64_t size, int64_t validation, uint64_t seed) {
  FURROW_CHECK(size < (int64_t{1} << 32), "a carving out of range");
  std::vector<bool> chosen(static_cast<size_t>(size), false);
  for_each_chosen(size, validation, seed, [&](int64_t at) { chosen[static_cast<size_t>(at)] = true; });
  Carved carved;
  carved.validation.reserve(static_cast<size_t>(validation));
  carved.train.reserve(static_cast<size_t>(size - validation));
  for (size_t i = 0; i < chosen.size(); ++i) {
    (chosen[i] ? carved.validation : carved.train).push_back(static_cast<uint32_t>(i));
  }
  return carved;
}

}  // namespace furrow::data
