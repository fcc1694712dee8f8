# The two shared libraries: libfurrow.so (no libtorch) and libfurrow_torch.so, which links it.
include_guard(GLOBAL)

# Every object of the modules goes in, used or not, and their third-party libraries are linked.
function(furrow_shared_library target modules_property)
  get_property(modules GLOBAL PROPERTY ${modules_property})
  foreach(module IN LISTS modules)
    target_sources(${target} PRIVATE "$<TARGET_OBJECTS:furrow_${module}>")
    get_target_property(link furrow_${module} FURROW_LINK)
    if(link)
      target_link_libraries(${target} PRIVATE ${link})
    endif()
  endforeach()
  target_include_directories(${target} PUBLIC
    "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>" "$<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>")
  target_compile_features(${target} PUBLIC cxx_std_20)
  set_target_properties(${target} PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR})
endfunction()

add_library(furrow SHARED "${furrow_commit_source}" "${PROJECT_SOURCE_DIR}/furrow/base/version.cc")
add_dependencies(furrow furrow_commit)
furrow_shared_library(furrow furrow_core_modules)
target_link_libraries(furrow PRIVATE Threads::Threads)
set_target_properties(furrow PROPERTIES INSTALL_RPATH "$ORIGIN")
add_library(furrow::furrow ALIAS furrow)

get_property(furrow_torch_modules GLOBAL PROPERTY furrow_torch_modules)
if(FURROW_TORCH AND furrow_torch_modules)
  add_library(furrow_torch SHARED)
  set_target_properties(furrow_torch PROPERTIES LINKER_LANGUAGE CXX EXPORT_NAME torch
                        INSTALL_RPATH "$ORIGIN;${Torch_LIBRARY_DIR}")
  furrow_shared_library(furrow_torch furrow_torch_modules)
  target_link_libraries(furrow_torch PUBLIC furrow torch::torch)
  add_library(furrow::torch ALIAS furrow_torch)
endif()

# furrow_app(SOURCES <main.cc cmd_x.cc ...> [TESTS <x_test.cc ...>] [LINK <third-party target ...>])
#
# The binary bin/furrow, target furrow_app.  It links libfurrow.so only; its run path leads to lib/ beside bin/, in the
# build tree and where it is installed, so that dlopen("libfurrow_torch.so") finds the other library.  TESTS become
# app_test, one ctest entry `app`, linked with every source but main.cc.
function(furrow_app)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "" "SOURCES;TESTS;LINK")
  add_executable(furrow_app ${arg_SOURCES})
  furrow_own_target(furrow_app)
  target_link_libraries(furrow_app PRIVATE furrow ${arg_LINK} ${CMAKE_DL_LIBS})
  set_target_properties(furrow_app PROPERTIES OUTPUT_NAME furrow INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}")
  if(TARGET furrow_torch)
    add_dependencies(furrow_app furrow_torch)
  endif()
  if(TARGET furrow_mpi)
    add_dependencies(furrow_app furrow_mpi)
  endif()
  if(FURROW_TESTS AND arg_TESTS AND NOT FURROW_SANITIZE)
    list(REMOVE_ITEM arg_SOURCES main.cc)
    add_executable(app_test ${arg_SOURCES} ${arg_TESTS})
    set_target_properties(app_test PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/test_bin")
    furrow_own_target(app_test)
    target_link_libraries(app_test PRIVATE furrow ${arg_LINK} GTest::gmock GTest::gtest_main ${CMAKE_DL_LIBS})
    add_test(NAME app COMMAND app_test WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}")
    furrow_test_environment(app)
    set_tests_properties(app PROPERTIES LABELS unit TIMEOUT 300)
  endif()
endfunction()
