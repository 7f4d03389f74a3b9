# Device sources, kernels/cuda/*.cu: compiled by the C++ compiler for the backend cuda-sim, always, and by nvcc for the
# backend cuda where KOMPAKT_CUDA says so. Included by the root after kompakt_kernels is known.
set(KOMPAKT_CUDA AUTO CACHE STRING "The CUDA backend: ON, OFF, or AUTO (where nvcc is found)")
set_property(CACHE KOMPAKT_CUDA PROPERTY STRINGS AUTO ON OFF)
# 80 is code for every 8.x and text that newer devices compile when they start; tests/cuda_all_archs compiles all.
set(KOMPAKT_CUDA_ARCHITECTURES "80;90a" CACHE STRING "Compute capabilities to compile for, of 80 86 89 90a 120")

file(GLOB cuda_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/*.cu)

# A source has one language in CMake, hence a file that includes it.
set(sim_sources)
foreach(source IN LISTS cuda_sources)
  cmake_path(RELATIVE_PATH source BASE_DIRECTORY ${CMAKE_SOURCE_DIR} OUTPUT_VARIABLE name)
  cmake_path(GET source STEM stem)
  set(wrapper ${CMAKE_BINARY_DIR}/cuda_sim/${stem}.cc)
  file(CONFIGURE OUTPUT ${wrapper} CONTENT "#include \"@name@\"  // IWYU pragma: keep\n" @ONLY)
  # nvcc does not warn of conversions either, and index arithmetic of kernels is full of them.
  set_source_files_properties(${wrapper} PROPERTIES COMPILE_OPTIONS
                              "-Wno-conversion;-Wno-sign-conversion;-Wno-unknown-pragmas;-Wno-sign-compare"
                              OBJECT_DEPENDS ${source})
  list(APPEND sim_sources ${wrapper})
endforeach()
target_sources(kompakt_kernels PRIVATE ${sim_sources})

set(KOMPAKT_HAS_CUDA OFF)
if(NOT KOMPAKT_CUDA STREQUAL "OFF")
  find_program(KOMPAKT_NVCC nvcc PATHS /usr/local/cuda/bin /opt/cuda/bin)
  if(KOMPAKT_NVCC)
    cmake_path(GET KOMPAKT_NVCC PARENT_PATH nvcc_folder)
    cmake_path(GET nvcc_folder PARENT_PATH cuda_root)
    find_path(KOMPAKT_CUDART_INCLUDE cuda_runtime_api.h PATHS ${cuda_root}/include NO_DEFAULT_PATH)
    find_library(KOMPAKT_CUDART cudart_static PATHS ${cuda_root}/lib64 ${cuda_root}/lib NO_DEFAULT_PATH)
  endif()
  if(KOMPAKT_NVCC AND KOMPAKT_CUDART AND KOMPAKT_CUDART_INCLUDE)
    set(KOMPAKT_HAS_CUDA ON)
  elseif(KOMPAKT_CUDA STREQUAL "ON")
    message(FATAL_ERROR "KOMPAKT_CUDA=ON needs nvcc and cudart_static of the CUDA toolkit, 12.8 or later")
  endif()
endif()
# Sanitizers and nvcc do not meet: their builds are of the simulator.
if(KOMPAKT_HAS_CUDA AND CMAKE_CXX_FLAGS MATCHES "-fsanitize")
  set(KOMPAKT_HAS_CUDA OFF)
endif()
set(KOMPAKT_CUDA_RESOURCES ${CMAKE_BINARY_DIR}/cuda)  # what ptxas says of every source: NAME.resources
if(KOMPAKT_HAS_CUDA)
  set(cuda_objects)
  foreach(source IN LISTS cuda_sources)
    cmake_path(GET source STEM stem)
    set(object ${CMAKE_BINARY_DIR}/cuda/${stem}.o)
    add_custom_command(
      OUTPUT ${object}
      COMMAND ${CMAKE_COMMAND} -E env "NVCC=${KOMPAKT_NVCC}" "LAUNCHER=${CMAKE_CXX_COMPILER_LAUNCHER}"
              ${CMAKE_SOURCE_DIR}/kernels/cuda/compile "${KOMPAKT_CUDA_ARCHITECTURES}" ${source} ${object}
      DEPENDS ${source} ${CMAKE_SOURCE_DIR}/kernels/cuda/compile
      DEPFILE ${object}.d
      COMMENT "nvcc ${stem}.cu"
      VERBATIM)
    list(APPEND cuda_objects ${object})
  endforeach()
  list(JOIN KOMPAKT_CUDA_ARCHITECTURES " " architectures)
  add_library(kompakt_cuda STATIC ${cuda_objects} ${CMAKE_CURRENT_LIST_DIR}/runtime/cuda_device.cc)
  set_target_properties(kompakt_cuda PROPERTIES LINKER_LANGUAGE CXX)
  target_include_directories(kompakt_cuda SYSTEM PRIVATE ${KOMPAKT_CUDART_INCLUDE})
  target_link_libraries(kompakt_cuda PUBLIC kompakt_flags kompakt_format ${KOMPAKT_CUDART} ${CMAKE_DL_LIBS} rt pthread)
  target_link_libraries(kompakt_kernels PUBLIC kompakt_cuda)
  set_source_files_properties(${CMAKE_SOURCE_DIR}/kernels/device.cc PROPERTIES COMPILE_DEFINITIONS
                              "KOMPAKT_CUDA=1;KOMPAKT_CUDA_ARCHITECTURES=\"${architectures}\"")
endif()
