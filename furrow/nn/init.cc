#include "furrow/nn/init.h"

#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/base/rng.h"

namespace furrow::nn {

void initialise(const plan::Parameter& parameter, uint64_t seed, std::span<float> out) {
  FURROW_CHECK(static_cast<int64_t>(out.size()) == parameter.size(), "the whole of " + parameter.name);
  initialise_range(parameter, seed, 0, out);
}

void initialise_range(const plan::Parameter& parameter, uint64_t seed, int64_t begin, std::span<float> out) {
  FURROW_CHECK(begin >= 0 && begin + static_cast<int64_t>(out.size()) <= parameter.size(),
               "a range outside " + parameter.name);
  const Philox stream(seed, RandomPurpose::kInit, parameter.name);
  const auto scale = static_cast<float>(parameter.init.scale);
  switch (parameter.init.kind) {
    case plan::Init::Kind::kZeros:
      std::ranges::fill(out, 0.0f);
      return;
    case plan::Init::Kind::kOnes:
      std::ranges::fill(out, 1.0f);
      return;
    case plan::Init::Kind::kUniform:
      return fill_uniform(stream, -scale, scale, static_cast<uint64_t>(begin), out);
    case plan::Init::Kind::kNormal:
      return fill_normal(stream, 0, scale, static_cast<uint64_t>(begin), out);
  }
}

}  // namespace furrow::nn
