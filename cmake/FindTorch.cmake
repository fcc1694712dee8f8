# libtorch as the target torch::torch, from a wheel (CPU or CUDA, no CUDA toolkit needed) or an unpacked libtorch.
#
# Looked for in: FURROW_TORCH_ROOT (variable or environment; the folder that holds include/ and lib/), else in the
# virtual environment of ./dev setup.  Python is not needed.  Sets Torch_ROOT_DIR, Torch_LIBRARY_DIR, Torch_VERSION.
#
# The wheel's include root also carries its own fmt, protobuf and more, which break the system's; so furrow sees a
# folder of links to the four folders it needs.
include_guard(GLOBAL)

set(torch_deps "$ENV{FURROW_DEPS}")
if(NOT torch_deps)
  set(torch_cache "$ENV{XDG_CACHE_HOME}")
  if(NOT torch_cache)
    set(torch_cache "$ENV{HOME}/.cache")
  endif()
  set(torch_deps "${torch_cache}/furrow")
endif()
file(GLOB torch_candidates "${torch_deps}/venv/lib/python3*/site-packages/torch")
set(torch_root "${FURROW_TORCH_ROOT}")
if(NOT torch_root)
  set(torch_root "$ENV{FURROW_TORCH_ROOT}")
endif()
if(torch_root)
  set(torch_candidates "${torch_root}")
endif()
find_path(Torch_ROOT_DIR NAMES include/ATen/ATen.h PATHS ${torch_candidates} NO_DEFAULT_PATH)
unset(Torch_LIBRARY_DIR)
if(Torch_ROOT_DIR)
  set(Torch_LIBRARY_DIR "${Torch_ROOT_DIR}/lib")
  set(torch_version_header "${Torch_ROOT_DIR}/include/torch/headeronly/version.h")
  if(NOT EXISTS "${torch_version_header}")
    set(torch_version_header "${Torch_ROOT_DIR}/include/torch/csrc/api/include/torch/version.h")
  endif()
  set(Torch_VERSION "")
  if(EXISTS "${torch_version_header}")
    file(STRINGS "${torch_version_header}" torch_lines REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
    string(REGEX MATCHALL "[0-9]+" torch_numbers "${torch_lines}")
    list(JOIN torch_numbers "." Torch_VERSION)
  endif()
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(Torch
  REQUIRED_VARS Torch_ROOT_DIR Torch_LIBRARY_DIR VERSION_VAR Torch_VERSION
  REASON_FAILURE_MESSAGE "no libtorch in '${torch_candidates}' (${torch_deps}): run ./dev setup, or set FURROW_TORCH_ROOT, or configure with -DFURROW_TORCH=OFF")
if(NOT Torch_FOUND)
  return()
endif()

# libtorch before 2.6 came in two string layouts; only the standard one links with the system's libraries.
file(STRINGS "${Torch_LIBRARY_DIR}/libc10.so" torch_new_abi REGEX "_ZN3c105ErrorC.*__cxx11" LIMIT_COUNT 1)
if(NOT torch_new_abi)
  message(FATAL_ERROR "${Torch_LIBRARY_DIR} was built with _GLIBCXX_USE_CXX11_ABI=0: use libtorch 2.6 or later, "
                      "or the cxx11-abi build")
endif()

set(torch_include "${CMAKE_BINARY_DIR}/torch-include")
file(MAKE_DIRECTORY "${torch_include}")
foreach(folder IN ITEMS ATen c10 torch caffe2)
  if(EXISTS "${Torch_ROOT_DIR}/include/${folder}")
    file(CREATE_LINK "${Torch_ROOT_DIR}/include/${folder}" "${torch_include}/${folder}" SYMBOLIC)
  endif()
endforeach()

foreach(name IN ITEMS c10 torch_cpu c10_cuda torch_cuda)
  if(EXISTS "${Torch_LIBRARY_DIR}/lib${name}.so")
    add_library(torch::${name} SHARED IMPORTED GLOBAL)
    set_target_properties(torch::${name} PROPERTIES IMPORTED_LOCATION "${Torch_LIBRARY_DIR}/lib${name}.so"
                          IMPORTED_NO_SONAME OFF)
  endif()
endforeach()
add_library(torch::torch INTERFACE IMPORTED GLOBAL)
target_include_directories(torch::torch SYSTEM INTERFACE "${torch_include}")
target_link_libraries(torch::torch INTERFACE torch::torch_cpu torch::c10)
if(TARGET torch::torch_cuda)
  # Nothing refers to the CUDA libraries by name: they register themselves when loaded.
  target_link_libraries(torch::torch INTERFACE
    "-Wl,--push-state,--no-as-needed" torch::torch_cuda torch::c10_cuda "-Wl,--pop-state")
endif()
