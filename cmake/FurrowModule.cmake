# furrow_module(<name> [TORCH]
#   SOURCES <x.cc ...>     the static library furrow_<name>
#   TESTS <x_test.cc ...>  one GoogleTest binary <name>_test, one ctest entry <name>, label `unit`
#   BENCHES <x_bench.cc>   one google-benchmark binary <name>_bench (built by the target `benches`)
#   FUZZERS <x_fuzz.cc>    each defines LLVMFuzzerTestOneInput; the preset `fuzz` builds a libFuzzer binary of each,
#                          every other preset replays x_fuzz_corpus/ inside <name>_test
#   DEPS <module ...>      furrow modules, as in tools/layers.txt
#   LINK <target ...>)     third-party targets, see FurrowDependencies.cmake
#
# TORCH: the module needs libtorch; its sources share one precompiled header and become part of libfurrow_torch.so.
# The others become part of libfurrow.so (FurrowLibraries.cmake).  Tests link static libraries only, so that no state
# of `base` exists twice in one process.
include_guard(GLOBAL)

set_property(GLOBAL PROPERTY furrow_core_modules "")
set_property(GLOBAL PROPERTY furrow_torch_modules "")

add_custom_target(unit_core COMMENT "tests of the modules without libtorch")
add_custom_target(unit_torch COMMENT "tests of the modules with libtorch")
add_custom_target(benches COMMENT "google-benchmark binaries")
add_custom_target(fuzzers COMMENT "libFuzzer binaries")

# Flags that every target of ours has.
function(furrow_own_target target)
  target_include_directories(${target} PUBLIC "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>")
  target_compile_options(${target} PRIVATE ${furrow_warnings})
endfunction()

# furrow_precompile(<target> <pch> LINK <third party ...> OPTIONS <...> HEADERS <...>): the target uses the precompiled header
# `pch`, one per preset, which the first call makes.
function(furrow_precompile target pch)
  cmake_parse_arguments(PARSE_ARGV 2 arg "" "" "LINK;OPTIONS;HEADERS")
  if(NOT TARGET ${pch})
    file(WRITE "${CMAKE_BINARY_DIR}/generated/${pch}.cc" "// Owns a precompiled header.\n")
    add_library(${pch} OBJECT "${CMAKE_BINARY_DIR}/generated/${pch}.cc")
    target_link_libraries(${pch} PRIVATE ${arg_LINK})
    target_compile_options(${pch} PRIVATE ${furrow_warnings} -fpch-preprocess ${arg_OPTIONS})
    target_include_directories(${pch} PRIVATE "${PROJECT_SOURCE_DIR}")
    target_precompile_headers(${pch} PRIVATE ${arg_HEADERS})
  endif()
  target_compile_options(${target} PRIVATE -fpch-preprocess -Winvalid-pch ${arg_OPTIONS})
  target_precompile_headers(${target} REUSE_FROM ${pch})
endfunction()

# A compiler instantiates in every file what inline functions of the precompiled header need, so that has no more than
# most files use: autograd's headers would add two seconds to each.
function(furrow_use_torch target)
  target_link_libraries(${target} PUBLIC torch::torch)
  furrow_precompile(${target} furrow_torch_pch LINK torch::torch HEADERS <ATen/ATen.h>)
endfunction()

# Tests: a third of their compilation would be optimising, and little of their time passes in their own code; another
# third would be the headers of their framework.
function(furrow_own_tests target)
  furrow_own_target(${target})
  furrow_precompile(${target} furrow_test_pch LINK GTest::gmock OPTIONS $<$<CONFIG:Release>:-O1> HEADERS <gmock/gmock.h>)
endfunction()

function(furrow_own_torch_tests target)
  furrow_own_target(${target})
  target_link_libraries(${target} PUBLIC torch::torch)
  furrow_precompile(${target} furrow_torch_test_pch LINK torch::torch GTest::gmock OPTIONS $<$<CONFIG:Release>:-O1>
    HEADERS <ATen/ATen.h> <gmock/gmock.h>)
endfunction()

# A line of tools/layers.txt is `module : modules it may include`; DEPS must stay within it.
function(furrow_check_layer name)
  file(STRINGS "${PROJECT_SOURCE_DIR}/tools/layers.txt" row REGEX "^${name}[ ]*:")
  set_property(DIRECTORY "${PROJECT_SOURCE_DIR}" APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS
               "${PROJECT_SOURCE_DIR}/tools/layers.txt")
  if(NOT row)
    message(FATAL_ERROR "module ${name} has no row in tools/layers.txt")
  endif()
  string(REGEX REPLACE "^[^:]*:" "" row "${row}")
  string(REGEX MATCHALL "[a-z_]+" allowed "${row}")
  foreach(dep IN LISTS ARGN)
    if(NOT dep IN_LIST allowed)
      message(FATAL_ERROR "module ${name} may not depend on ${dep}: tools/layers.txt allows only '${allowed}'")
    endif()
  endforeach()
endfunction()

# The sources that replay the corpora of a module's fuzzers in its test binary.
function(furrow_replay_sources out name)
  set(text "// Generated: replays the fuzzing corpora of ${name}.\n#include \"tests/testing/fuzz_replay.h\"\n")
  set(sources "")
  file(RELATIVE_PATH folder "${PROJECT_SOURCE_DIR}" "${CMAKE_CURRENT_SOURCE_DIR}")
  foreach(source IN LISTS ARGN)
    get_filename_component(stem "${source}" NAME_WE)
    set_source_files_properties("${source}" PROPERTIES COMPILE_DEFINITIONS LLVMFuzzerTestOneInput=${stem}_one_input)
    string(APPEND text "extern \"C\" int ${stem}_one_input(const uint8_t* data, size_t size);\n"
      "TEST(FuzzReplay, ${stem}) { furrow::testing::replay_corpus(\"${folder}/${stem}_corpus\", &${stem}_one_input); }\n")
    list(APPEND sources "${source}")
  endforeach()
  if(sources)
    file(CONFIGURE OUTPUT "${CMAKE_BINARY_DIR}/generated/${name}_fuzz_replay_test.cc" CONTENT "${text}" @ONLY)
    list(APPEND sources "${CMAKE_BINARY_DIR}/generated/${name}_fuzz_replay_test.cc")
  endif()
  set(${out} "${sources}" PARENT_SCOPE)
endfunction()

# Names and labels of unit tests tell a sanitized tree from a plain one, so that one ctest run can cover several trees.
# asan.<name> of the libtorch modules has the label asan-torch: only ./dev test --full builds and runs those.
if(FURROW_SANITIZE MATCHES "address")
  set(furrow_test_prefix "asan.")
elseif(FURROW_SANITIZE MATCHES "thread")
  set(furrow_test_prefix "tsan.")
endif()

# What each test finds in its environment.  Threads of libgomp that wait sleep: tests share the cores.
function(furrow_test_environment test)
  set_property(TEST ${test} APPEND PROPERTY ENVIRONMENT
    "FURROW_SOURCE_DIR=${PROJECT_SOURCE_DIR}" "FURROW_BUILD_DIR=${PROJECT_BINARY_DIR}"
    "FURROW_BIN=${PROJECT_BINARY_DIR}/bin/furrow" "FURROW_PYTHON=${FURROW_PYTHON}"
    "OMP_WAIT_POLICY=passive" "UBSAN_OPTIONS=print_stacktrace=1" "ASAN_OPTIONS=allocator_may_return_null=1"
    "TSAN_OPTIONS=halt_on_error=1:allocator_may_return_null=1:suppressions=${PROJECT_SOURCE_DIR}/tools/tsan_suppressions.txt")
endfunction()

function(furrow_add_unit_test name is_torch)
  cmake_parse_arguments(PARSE_ARGV 2 arg "" "" "SOURCES;LINK")
  add_executable(${name}_test ${arg_SOURCES})
  set_target_properties(${name}_test PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/test_bin")
  target_link_libraries(${name}_test PRIVATE furrow_${name} ${arg_LINK} GTest::gmock GTest::gtest_main Threads::Threads)
  set(test ${furrow_test_prefix}${name})
  add_test(NAME ${test} COMMAND ${name}_test WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}")
  furrow_test_environment(${test})
  set_tests_properties(${test} PROPERTIES LABELS unit TIMEOUT 2400)
  if(is_torch)
    furrow_own_torch_tests(${name}_test)
    add_dependencies(unit_torch ${name}_test)
    if(furrow_test_prefix)
      set_tests_properties(${test} PROPERTIES LABELS asan-torch TIMEOUT 1800)
    endif()
  else()
    furrow_own_tests(${name}_test)
    add_dependencies(unit_core ${name}_test)
  endif()
endfunction()

function(furrow_add_fuzzers name)
  foreach(source IN LISTS ARGN)
    get_filename_component(stem "${source}" NAME_WE)
    add_executable(${stem} EXCLUDE_FROM_ALL "${source}")
    furrow_own_target(${stem})
    set_target_properties(${stem} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/fuzz_bin")
    target_compile_options(${stem} PRIVATE -fsanitize=fuzzer)
    target_link_options(${stem} PRIVATE -fsanitize=fuzzer)
    target_link_libraries(${stem} PRIVATE furrow_${name})
    add_dependencies(fuzzers ${stem})
  endforeach()
endfunction()

function(furrow_module name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "TORCH" "" "SOURCES;TESTS;BENCHES;FUZZERS;DEPS;LINK")
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "furrow_module(${name}): unknown argument '${arg_UNPARSED_ARGUMENTS}'")
  endif()
  furrow_check_layer(${name} ${arg_DEPS})
  if(arg_TORCH AND NOT FURROW_TORCH)
    return()
  endif()

  add_library(furrow_${name} STATIC ${arg_SOURCES})
  furrow_own_target(furrow_${name})
  target_link_libraries(furrow_${name} PRIVATE ${arg_LINK})
  list(TRANSFORM arg_DEPS PREPEND furrow_)
  target_link_libraries(furrow_${name} PUBLIC ${arg_DEPS})
  if(name STREQUAL "base")
    target_link_libraries(furrow_base PUBLIC furrow_unstamped)
  endif()
  set_property(TARGET furrow_${name} PROPERTY FURROW_LINK "${arg_LINK}")
  if(arg_TORCH)
    furrow_use_torch(furrow_${name})
    set_property(GLOBAL APPEND PROPERTY furrow_torch_modules ${name})
  else()
    set_property(GLOBAL APPEND PROPERTY furrow_core_modules ${name})
  endif()

  if(FURROW_TESTS AND FURROW_FUZZ)
    furrow_add_fuzzers(${name} ${arg_FUZZERS})
  elseif(FURROW_TESTS)
    furrow_replay_sources(replay ${name} ${arg_FUZZERS})
    if(arg_TESTS OR replay)
      furrow_add_unit_test(${name} "${arg_TORCH}" SOURCES ${arg_TESTS} ${replay} LINK ${arg_LINK})
    endif()
    if(arg_BENCHES)
      add_executable(${name}_bench EXCLUDE_FROM_ALL ${arg_BENCHES})
      furrow_own_target(${name}_bench)
      set_target_properties(${name}_bench PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/bench_bin")
      target_link_libraries(${name}_bench PRIVATE furrow_${name} ${arg_LINK} benchmark::benchmark_main)
      if(arg_TORCH)
        furrow_use_torch(${name}_bench)
      endif()
      add_dependencies(benches ${name}_bench)
    endif()
  endif()
endfunction()
