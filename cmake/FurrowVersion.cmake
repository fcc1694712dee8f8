# furrow/base/version.h: furrow_version() and furrow_git_commit().
#
# The commit lives in one generated source file that only libfurrow.so compiles, rewritten by each build when it
# changed: a new commit costs one small compilation and one link.  Test binaries, which link static libraries, carry
# the commit "unstamped" instead.
include_guard(GLOBAL)

set(furrow_commit_source "${PROJECT_BINARY_DIR}/generated/git_commit.cc")
add_custom_target(furrow_commit
  COMMAND "${CMAKE_COMMAND}" "-DSOURCE_DIR=${PROJECT_SOURCE_DIR}" "-DOUTPUT=${furrow_commit_source}"
          -P "${PROJECT_SOURCE_DIR}/cmake/StampCommit.cmake"
  BYPRODUCTS "${furrow_commit_source}"
  COMMENT "" VERBATIM)
set_source_files_properties("${PROJECT_SOURCE_DIR}/furrow/base/version.cc" PROPERTIES
  COMPILE_DEFINITIONS "FURROW_VERSION=\"${PROJECT_VERSION}\"")

file(CONFIGURE OUTPUT "${PROJECT_BINARY_DIR}/generated/unstamped.cc" @ONLY CONTENT
"// Generated: the commit of binaries that are not libfurrow.so.
#include \"furrow/base/version.h\"
namespace furrow {
std::string_view furrow_git_commit() { return \"unstamped\"; }
}  // namespace furrow
")
add_library(furrow_unstamped STATIC "${PROJECT_BINARY_DIR}/generated/unstamped.cc"
            "${PROJECT_SOURCE_DIR}/furrow/base/version.cc")
target_include_directories(furrow_unstamped PRIVATE "${PROJECT_SOURCE_DIR}")
