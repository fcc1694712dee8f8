# cmake --install, and the package that find_package(furrow [COMPONENTS torch]) reads: furrow::furrow, furrow::torch.
include_guard(GLOBAL)
include(CMakePackageConfigHelpers)

set(furrow_package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/furrow")
install(TARGETS furrow EXPORT furrow-core LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
install(EXPORT furrow-core NAMESPACE furrow:: DESTINATION "${furrow_package_dir}")
if(TARGET furrow_torch)
  install(TARGETS furrow_torch EXPORT furrow-torch LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
  install(EXPORT furrow-torch NAMESPACE furrow:: DESTINATION "${furrow_package_dir}")
  install(FILES cmake/FindTorch.cmake DESTINATION "${furrow_package_dir}")
endif()
if(TARGET furrow_tables)
  install(TARGETS furrow_tables LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
endif()
if(TARGET furrow_mpi)
  install(TARGETS furrow_mpi LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
endif()
if(TARGET furrow_app)
  install(TARGETS furrow_app RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
endif()
install(DIRECTORY furrow DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" FILES_MATCHING PATTERN "*.h")
install(DIRECTORY examples/ DESTINATION "${CMAKE_INSTALL_DATADIR}/furrow/examples" FILES_MATCHING PATTERN "*.toml")
install(FILES LICENSE DESTINATION "${CMAKE_INSTALL_DATADIR}/doc/furrow")

configure_package_config_file(cmake/furrowConfig.cmake.in "${PROJECT_BINARY_DIR}/generated/furrowConfig.cmake"
                              INSTALL_DESTINATION "${furrow_package_dir}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/generated/furrowConfigVersion.cmake"
                                 COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/generated/furrowConfig.cmake"
              "${PROJECT_BINARY_DIR}/generated/furrowConfigVersion.cmake"
        DESTINATION "${furrow_package_dir}")
