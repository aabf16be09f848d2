// kernels/cpu/linear_map.h - moves matrices by a LinearMap.
//   A Hadamard of k channels is butterflies h = 1, 2, 4, ..., k/2, (a, b) -> (a + b, a - b), then one
//   multiply by float(1 / sqrt(k)); every step is one rounded float32 operation, so the bits depend on the
//   row alone.
#pragma once
#include "core/linear_map.h"
#include "core/matrix.h"

namespace fp4lab {

/// W (N, K) -> W T, in place.
void map_weights(const LinearMap& map, MatrixView<float> W);
/// X (T, K) -> X T^-T, in place.
void map_activations(const LinearMap& map, MatrixView<float> X);
/// W T -> W, in place: the inverse of map_weights up to rounding.
void unmap_weights(const LinearMap& map, MatrixView<float> W);
/// X T^-T -> X, in place.
void unmap_activations(const LinearMap& map, MatrixView<float> X);

}  // namespace fp4lab
