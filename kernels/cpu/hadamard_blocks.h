// kernels/cpu/hadamard_blocks.h - Hadamard rotations of power-of-two size on one row, by butterflies.
#pragma once
#include <cstdint>

namespace fp4lab {

/// Every run of k * stride channels, which divides `channels`: H_k kron I_stride / sqrt(k), k a power of two,
/// in the order of kernels/cpu/linear_map.h.
void hadamard_blocks(float* x, int64_t channels, int64_t k, int64_t stride);
void hadamard_blocks(double* x, int64_t channels, int64_t k, int64_t stride);

}  // namespace fp4lab
