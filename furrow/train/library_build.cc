#include "furrow/train/library_build.h"

#include <fmt/format.h>
#if __has_include(<torch/headeronly/version.h>)
#include <torch/headeronly/version.h>  // since libtorch 2.9
#else
#include <torch/csrc/api/include/torch/version.h>
#endif

#include "furrow/base/version.h"

namespace furrow::train {

std::string library_build() { return fmt::format("furrow {}, libtorch {}", furrow_version(), TORCH_VERSION); }

}  // namespace furrow::train
