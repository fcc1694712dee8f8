# Third-party libraries; docs/dependencies.md says what each is for.  Targets that a module may name in LINK:
#   fmt::fmt nlohmann_json::nlohmann_json tomlplusplus::tomlplusplus hwy::hwy ZLIB::ZLIB PkgConfig::deflate
#   PkgConfig::xxhash PkgConfig::sodium PkgConfig::pcre2 PkgConfig::sentencepiece PkgConfig::png PkgConfig::jpeg
#   PkgConfig::webp PkgConfig::utf8proc mimalloc MPI::MPI_CXX Threads::Threads torch::torch
#   arrow::arrow arrow::parquet
include_guard(GLOBAL)

find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(tomlplusplus REQUIRED)
find_package(hwy REQUIRED)
find_package(ZLIB REQUIRED)
find_package(mimalloc REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(deflate REQUIRED IMPORTED_TARGET libdeflate)
pkg_check_modules(xxhash REQUIRED IMPORTED_TARGET libxxhash)
# Built by its distribution so that it takes the vectors of the processor it runs on?  Debian's is, on x86-64.
include(CheckLibraryExists)
check_library_exists(xxhash XXH3_64bits_dispatch "${xxhash_LIBRARY_DIRS}" FURROW_XXHASH_DISPATCH)
pkg_check_modules(sodium REQUIRED IMPORTED_TARGET libsodium)
pkg_check_modules(pcre2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(png REQUIRED IMPORTED_TARGET libpng)
pkg_check_modules(jpeg REQUIRED IMPORTED_TARGET libjpeg)
pkg_check_modules(webp REQUIRED IMPORTED_TARGET libwebp libwebpdemux)
pkg_check_modules(sentencepiece REQUIRED IMPORTED_TARGET sentencepiece)
pkg_check_modules(utf8proc REQUIRED IMPORTED_TARGET libutf8proc)

# The communication backend mpi; its plugin is compiled against whichever MPI this is, through its C interface.
if(FURROW_MPI)
  set(MPI_CXX_SKIP_MPICXX TRUE)
  find_package(MPI 3.0 COMPONENTS CXX QUIET)
  if(NOT MPI_CXX_FOUND)
    message(STATUS "no MPI: libfurrow_mpi.so is not built (Debian: libopenmpi-dev)")
  endif()
endif()

if(FURROW_TESTS)
  find_package(GTest REQUIRED)
  find_package(benchmark REQUIRED)
endif()
if(FURROW_TORCH)
  find_package(Torch REQUIRED MODULE)
endif()

# Where ./dev setup puts what Debian does not package.
if(DEFINED ENV{FURROW_DEPS})
  set(FURROW_DEPS "$ENV{FURROW_DEPS}")
elseif(DEFINED ENV{XDG_CACHE_HOME})
  set(FURROW_DEPS "$ENV{XDG_CACHE_HOME}/furrow")
else()
  set(FURROW_DEPS "$ENV{HOME}/.cache/furrow")
endif()
find_program(FURROW_PYTHON python3 HINTS "${FURROW_DEPS}/venv/bin" NO_DEFAULT_PATH)
find_program(FURROW_CLANG_FORMAT clang-format HINTS "${FURROW_DEPS}/venv/bin" NO_DEFAULT_PATH)
if(FURROW_TABLES)
  find_package(Arrow REQUIRED MODULE)
endif()
