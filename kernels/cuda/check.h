// kernels/cuda/check.h - every CUDA call and every launch goes through here: a failure names the operation
// and the size of the problem.
#pragma once
#include <cuda_runtime.h>

#include "core/errors.h"

/// `call` is anything that gives a cudaError_t; the rest says what was asked, and is formed only on failure:
/// FP4LAB_CUDA_CALL(cudaMemcpyAsync(...), "copy of ", rows, " x ", cols). Throws Error.
#define FP4LAB_CUDA_CALL(call, ...)                                                                 \
  do {                                                                                              \
    const cudaError_t fp4lab_status = (call);                                                       \
    if (fp4lab_status != cudaSuccess)                                                               \
      throw ::fp4lab::Error(::fp4lab::str(__VA_ARGS__, ": ", cudaGetErrorName(fp4lab_status), ", ", \
                                          cudaGetErrorString(fp4lab_status)));                      \
  } while (0)
/// After a kernel launch: its name and sizes.
#define FP4LAB_CUDA_LAUNCHED(...) FP4LAB_CUDA_CALL(cudaGetLastError(), __VA_ARGS__)
