#include "furrow/nn/init.h"

#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/base/rng.h"

namespace furrow::nn {

void initialise(const plan::Parameter& parameter, uint64_t seed, std::span<float> out) {
  FURROW_CHECK(static_cast<int64_t>(out.size()) == parameter.size(), "the whole of " + parameter.name);
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
      return fill_uniform(stream, -scale, scale, 0, out);
    case plan::Init::Kind::kNormal:
      return fill_normal(stream, 0, scale, 0, out);
  }
}

}  // namespace furrow::nn
