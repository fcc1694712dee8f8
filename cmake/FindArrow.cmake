# Arrow C++ as the targets arrow::arrow and arrow::parquet, from the pyarrow wheel, which carries headers and libraries.
#
# Looked for in: FURROW_ARROW_ROOT (variable or environment; the folder that holds include/ and libarrow.so.*), else in
# the virtual environment of ./dev setup.  Python is not needed.  Sets Arrow_ROOT_DIR, Arrow_VERSION.
include_guard(GLOBAL)

set(arrow_root "${FURROW_ARROW_ROOT}")
if(NOT arrow_root)
  set(arrow_root "$ENV{FURROW_ARROW_ROOT}")
endif()
file(GLOB arrow_candidates "${FURROW_DEPS}/venv/lib/python3*/site-packages/pyarrow")
if(arrow_root)
  set(arrow_candidates "${arrow_root}")
endif()
find_path(Arrow_ROOT_DIR NAMES include/arrow/api.h PATHS ${arrow_candidates} NO_DEFAULT_PATH)
set(Arrow_VERSION "")
if(Arrow_ROOT_DIR)
  file(STRINGS "${Arrow_ROOT_DIR}/include/arrow/util/config.h" arrow_lines REGEX "define ARROW_(VERSION_STRING|SO_VERSION) ")
  string(REGEX MATCH "ARROW_VERSION_STRING \"([0-9.]+)\"" arrow_match "${arrow_lines}")
  set(Arrow_VERSION "${CMAKE_MATCH_1}")
  string(REGEX MATCH "ARROW_SO_VERSION \"([0-9]+)\"" arrow_match "${arrow_lines}")
  set(arrow_so "${CMAKE_MATCH_1}")
  foreach(name IN ITEMS arrow parquet)
    find_file(Arrow_${name}_LIBRARY NAMES "lib${name}.so.${arrow_so}" PATHS "${Arrow_ROOT_DIR}" "${Arrow_ROOT_DIR}/lib"
              NO_DEFAULT_PATH)
  endforeach()
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(Arrow
  REQUIRED_VARS Arrow_ROOT_DIR Arrow_arrow_LIBRARY Arrow_parquet_LIBRARY VERSION_VAR Arrow_VERSION
  REASON_FAILURE_MESSAGE "no Arrow in '${arrow_candidates}' (${FURROW_DEPS}): run ./dev setup, or set FURROW_ARROW_ROOT, or configure with -DFURROW_TABLES=OFF")
if(NOT Arrow_FOUND)
  return()
endif()

foreach(name IN ITEMS arrow parquet)
  add_library(arrow::${name} SHARED IMPORTED GLOBAL)
  set_target_properties(arrow::${name} PROPERTIES IMPORTED_LOCATION "${Arrow_${name}_LIBRARY}" IMPORTED_NO_SONAME OFF)
  target_include_directories(arrow::${name} SYSTEM INTERFACE "${Arrow_ROOT_DIR}/include")
endforeach()
get_filename_component(Arrow_LIBRARY_DIR "${Arrow_arrow_LIBRARY}" DIRECTORY)
