// kernels/cuda/stream_groups.h - the common case of code_groups (group_launch.h) at the speed of memory:
// scales by a rule on amax alone, groups of 16, 32, 64, 128 or 256, aligned rows.
#pragma once
#include "kernels/cuda/group_kernel.cuh"

namespace fp4lab::cuda {

bool can_stream_groups(const GroupProblem& p);
/// The same bytes as the general kernel's.
void stream_groups(Gpu& gpu, const GroupProblem& p);

}  // namespace fp4lab::cuda
