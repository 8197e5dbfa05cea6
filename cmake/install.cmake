# cmake --install: headers, the sources of the matrix product and of the emulated device, the CMake package and the pkg-config file. All of it is text
# that holds no path of the machine it was made on, so the installed tree may be moved.
include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_DATADIR}/cmake/tessera)

install(DIRECTORY include/tessera DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.hpp")
install(DIRECTORY kernels/tessera DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.hpp" PATTERN "*.cuh")
install(DIRECTORY kernels/tessera/simt DESTINATION ${CMAKE_INSTALL_DATADIR}/tessera FILES_MATCHING PATTERN "*.cpp")
install(FILES cmake/matmul_eigen.cpp cmake/matmul_onednn.cpp DESTINATION ${CMAKE_INSTALL_DATADIR}/tessera)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

# One file of targets a component, so that a program needs the libraries of those alone that it asks for.
install(TARGETS tessera_headers tessera EXPORT tessera_core)
install(EXPORT tessera_core NAMESPACE tessera:: FILE tessera-core.cmake DESTINATION ${package_dir})
foreach(component io data scenes)
  if(TARGET tessera_${component})
    install(TARGETS tessera_${component} EXPORT tessera_${component})
    install(EXPORT tessera_${component} NAMESPACE tessera:: FILE tessera-${component}.cmake DESTINATION ${package_dir})
  endif()
endforeach()

configure_package_config_file(cmake/tesseraConfig.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/tesseraConfig.cmake
  INSTALL_DESTINATION ${package_dir} NO_SET_AND_CHECK_MACRO NO_CHECK_REQUIRED_COMPONENTS_MACRO)
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/tesseraConfigVersion.cmake
  COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/tesseraConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/tesseraConfigVersion.cmake
  cmake/libraries.cmake cmake/simt.cmake cmake/cuda.cmake DESTINATION ${package_dir})

# share/pkgconfig: where files for all architectures belong.
set(pkgconfig_dir ${CMAKE_INSTALL_DATADIR}/pkgconfig)
file(RELATIVE_PATH prefix_from_pkgconfig /prefix/${pkgconfig_dir} /prefix)
string(REGEX REPLACE "/$" "" prefix_from_pkgconfig ${prefix_from_pkgconfig})
configure_file(cmake/tessera.pc.in ${CMAKE_CURRENT_BINARY_DIR}/tessera.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/tessera.pc DESTINATION ${pkgconfig_dir})
