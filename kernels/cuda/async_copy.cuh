// kernels/cuda/async_copy.cuh - copies from global to shared memory that pass no registers (cp.async). A
// thread's copies since its last `async_commit` are one batch; batches arrive in their order.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace fp4lab::cuda {

/// One float; 0 where `valid` is false (from is not read then). Any alignment a float can have.
__device__ __forceinline__ void async_copy(float* shared, const float* from, bool valid = true) {
  const auto to = uint32_t(__cvta_generic_to_shared(shared));
  const int bytes = valid ? 4 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Until at most the `kLeft` newest batches of this thread are still on their way. Those of others have
/// arrived after the __syncthreads() that follows.
template <int kLeft>
__device__ __forceinline__ void async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

}  // namespace fp4lab::cuda
