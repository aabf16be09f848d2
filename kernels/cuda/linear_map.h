// kernels/cuda/linear_map.h - kernels/cpu/linear_map.h on a GPU, with the CPU's bits: butterflies in the same
// stages, dense blocks as the same chains of fused multiply-adds.
#pragma once
#include "core/linear_map.h"
#include "kernels/cuda/gpu.h"

namespace fp4lab::cuda {

/// W (N, K) -> W T, X (T, K) -> X T^-T, W T -> W, in place.
void map_weights(Gpu& gpu, const LinearMap& map, MatrixView<float> W);
void map_activations(Gpu& gpu, const LinearMap& map, MatrixView<float> X);
void unmap_weights(Gpu& gpu, const LinearMap& map, MatrixView<float> W);

/// H (K, K), upper triangle -> T^-1 H T^-T, in place, in double; the lower triangle becomes 0.
void map_hessian(Gpu& gpu, const LinearMap& map, MatrixView<double> H);

}  // namespace fp4lab::cuda
