#include "furrow/train/library_build.h"

#include <fmt/format.h>
#include <torch/headeronly/version.h>

#include "furrow/base/version.h"

namespace furrow::train {

std::string library_build() { return fmt::format("furrow {}, libtorch {}", furrow_version(), TORCH_VERSION); }

}  // namespace furrow::train
