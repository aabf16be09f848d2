// kernels/cuda/group_launch.h - starts the group kernel for a problem's element and group size.
#pragma once
#include "kernels/cuda/group_kernel.cuh"

namespace fp4lab::cuda {

/// Codes, scales or values of every group of p.X, as p asks.
void code_groups(Gpu& gpu, const GroupProblem& p);

}  // namespace fp4lab::cuda
