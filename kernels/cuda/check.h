// kernels/cuda/check.h - every CUDA call goes through here: a failure names the call and the size of the
// problem.
#pragma once
#include <cuda_runtime.h>

#include "core/errors.h"

namespace fp4lab {

/// Throws Error "<what>: <CUDA's message>".
inline void check_cuda(cudaError_t status, const std::string& what) {
  if (status != cudaSuccess) throw Error(what + ": " + cudaGetErrorString(status));
}
/// After a kernel launch: its name and size, and whatever went wrong with it.
inline void check_launch(const std::string& what) { check_cuda(cudaGetLastError(), what); }

}  // namespace fp4lab
