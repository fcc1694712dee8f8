// What the bits of a run depend on besides its recipe.
#pragma once

#include <string>

namespace furrow::train {

std::string library_build();  // "furrow 0.1.0, libtorch 2.13.0"

}  // namespace furrow::train
