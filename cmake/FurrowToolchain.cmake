# Flags, linker and compiler cache, shared by every target.
include_guard(GLOBAL)

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_CXX_SCAN_FOR_MODULES OFF)
set(CMAKE_CXX_FLAGS_RELEASE "-O3 -DNDEBUG" CACHE STRING "flags of a release build")
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()

# One code model for libraries and programs, so that both can use the same precompiled header.
set(CMAKE_POSITION_INDEPENDENT_CODE OFF)
add_compile_options(-fPIC)
# a*b+c is rounded twice everywhere: equal bits must not depend on what the compiler contracts.
add_compile_options(-ffp-contract=off)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  add_compile_options(-fno-semantic-interposition)
endif()

set(furrow_warnings -Wall -Wextra -Werror=return-type -Werror=uninitialized -Werror=format -Werror=reorder
                    -Werror=parentheses -Werror=switch)
if(FURROW_WERROR)
  list(APPEND furrow_warnings -Werror)
endif()

if(FURROW_SANITIZE)
  add_compile_options(-fsanitize=${FURROW_SANITIZE} -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${FURROW_SANITIZE})
  if(FURROW_SANITIZE MATCHES "undefined")
    add_compile_options(-fno-sanitize-recover=undefined)
  endif()
endif()
if(FURROW_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    message(FATAL_ERROR "FURROW_FUZZ needs clang (libFuzzer): use the preset `fuzz`")
  endif()
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()

find_program(FURROW_MOLD mold)
if(FURROW_MOLD AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  add_link_options(-fuse-ld=mold)
endif()

# With FURROW_TIME_COMPILES each compilation notes its processor time (the ctest entry `budgets`).  A clone in another folder hits the compiler
# cache: paths below the source root are hashed relative to the build folder, the working directory is not hashed.
find_program(FURROW_CCACHE_PROGRAM ccache)
if(NOT CMAKE_CXX_COMPILER_LAUNCHER)
  if(FURROW_TIME_COMPILES)
    set(CMAKE_CXX_COMPILER_LAUNCHER "${CMAKE_SOURCE_DIR}/tools/compile.sh" "${CMAKE_BINARY_DIR}/compile_times.log")
  endif()
  if(FURROW_CCACHE AND FURROW_CCACHE_PROGRAM)
    list(APPEND CMAKE_CXX_COMPILER_LAUNCHER
         env CCACHE_SLOPPINESS=pch_defines,time_macros CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1
         ${FURROW_CCACHE_PROGRAM})
  endif()
endif()

set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/lib")
set(CMAKE_ARCHIVE_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/lib")
set(CMAKE_BUILD_RPATH_USE_ORIGIN ON)
