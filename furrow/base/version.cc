#include "furrow/base/version.h"

namespace furrow {

std::string_view furrow_version() { return FURROW_VERSION; }

}  // namespace furrow
