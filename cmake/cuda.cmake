# The CUDA half of kernels/: compiled for Hopper and Blackwell without needing a GPU. It must give the CPU's bits,
# hence -fmad=false.
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 90a 100a 120a)
endif()
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
# CMake 3.25 does not know that nvcc has C++20.
set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
file(GLOB cuda_sources CONFIGURE_DEPENDS kernels/cuda/*.cu kernels/cuda/*/*.cu)
add_library(fp4lab_cuda OBJECT ${cuda_sources})
target_include_directories(fp4lab_cuda PRIVATE ${PROJECT_SOURCE_DIR})
# 554: MatrixView<const T> has a conversion to itself that nobody calls.
target_compile_options(fp4lab_cuda PRIVATE -std=c++20 -fmad=false --expt-relaxed-constexpr -Werror all-warnings
  -diag-suppress 554 -Xcompiler=-Wall,-Wextra,-Werror,-ffp-contract=off,-fopenmp)
target_compile_definitions(fp4lab_kernels PRIVATE FP4LAB_WITH_CUDA)
target_sources(fp4lab_kernels PRIVATE $<TARGET_OBJECTS:fp4lab_cuda>)
target_link_libraries(fp4lab_kernels PUBLIC CUDA::cudart_static CUDA::cublasLt CUDA::cublas CUDA::cusolver)
