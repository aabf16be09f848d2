// kernels/cpu/linear_map.h - moves matrices by a LinearMap, factor by factor. In float32 every number has one
// chain of rounded operations, so that the bits depend on the row alone:
//   Hadamard, k a power of two   butterflies (a, b) -> (a + b, a - b), h = stride, 2 stride, ...,
//                                k stride / 2 apart, then one multiply by float(1 / sqrt(k)); k = 1 is the
//                                identity
//   Hadamard of other sizes      x_0, x_1, ..., x_{k-1} of the run added or subtracted in this order, from 0,
//                                as hadamard_matrix(k) says, then the same multiply
//   Blocks                       y_j = fma(x_i, T_ij, y_j) for i = 0, 1, ..., k - 1 from 0
//   Diagonal                     one multiply (weights) or one division (activations); back: the other one
//   signs                        multiplied before a Hadamard on the way there, after it on the way back
#pragma once
#include <vector>

#include "core/linear_map.h"
#include "core/matrix.h"

namespace fp4lab {

/// A k x k Hadamard matrix, row-major, entries +-1, H H^T = k I: Sylvester's natural order for powers of two,
/// otherwise 2^j copies (Sylvester) of a Paley matrix of order q + 1 or 2 (q + 1), q a prime power, with the
/// largest j that has one. Empty when none of these has order k.
std::vector<int8_t> hadamard_matrix(int64_t k);
bool has_hadamard_matrix(int64_t k);

/// Stops with what is wrong when a factor does not fit rows of K channels; so do the functions below.
void check_map(const LinearMap& map, int64_t K);

/// W (N, K) -> W T, in place.
void map_weights(const LinearMap& map, MatrixView<float> W);
/// X (T, K) -> X T^-T, in place.
void map_activations(const LinearMap& map, MatrixView<float> X);
/// W T -> W, in place: the inverse of map_weights up to rounding.
void unmap_weights(const LinearMap& map, MatrixView<float> W);
/// X T^-T -> X, in place.
void unmap_activations(const LinearMap& map, MatrixView<float> X);

/// H (K, K) = X^T X, upper triangle -> T^-1 H T^-T, in place: the Hessian of X T^-T. In double, cost
/// O(K^2 k); the lower triangle is not read and becomes 0.
void map_hessian(const LinearMap& map, MatrixView<double> H);
/// Any D (K, K) -> T^-1 D T^-T, in place: for X^T Y of inputs that both move.
void map_cross(const LinearMap& map, MatrixView<double> D);

}  // namespace fp4lab
