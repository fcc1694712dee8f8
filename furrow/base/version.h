// What this binary is: release and commit.  Both are constants; any thread may ask.
#pragma once

#include <string_view>

namespace furrow {

std::string_view furrow_version();  // "0.1.0"

// Forty hex digits of the commit that libfurrow.so was built from, "-dirty" after them when the tree had
// local changes; "unknown" without git, "unstamped" in binaries that link the static libraries (tests).
std::string_view furrow_git_commit();

}  // namespace furrow
