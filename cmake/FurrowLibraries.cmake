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
  target_link_libraries(furrow_torch PUBLIC furrow PRIVATE torch::torch)
  add_library(furrow::torch ALIAS furrow_torch)
endif()
