// core/linear_map.h - a change of coordinates that cancels in X W^T, as data: weights become W T, activations
// X T^-T. Applying one is kernels/cpu/linear_map.h; fitting one is methods/transforms/.
#pragma once
#include <cstdint>
#include <variant>
#include <vector>

namespace fp4lab {

/// (H_k kron I_stride) / sqrt(k) on every run of k * stride channels, after the signs: within a run, channel
/// a * stride + s becomes sum_b H_k[b][a] x[b * stride + s] / sqrt(k). Orthogonal, so T = T^-T.
///   k a power of two: H_k in natural (Sylvester) order; otherwise what hadamard_matrix(k) has
struct HadamardFactor {
  int64_t k = 1;
  std::vector<float> signs;  // +-1 per channel (K), or empty: all +1
  int64_t stride = 1;

  bool operator==(const HadamardFactor&) const = default;
};

/// T = diag(scale): weights times scale, activations divided by it. Finite and positive, one per channel.
struct DiagonalFactor {
  std::vector<float> scale;

  bool operator==(const DiagonalFactor&) const = default;
};

/// Channel j of the result is channel from[j]: for weights and activations alike.
struct PermutationFactor {
  std::vector<int32_t> from;  // (K), a permutation of 0..K-1

  bool operator==(const PermutationFactor&) const = default;
};

/// Block-diagonal with dense blocks of k channels: block b of a weight row becomes w T_b, of an activation
/// row x T_b^-T.
struct BlocksFactor {
  int64_t k = 1;
  std::vector<float> weights;      // T_b, (n, k, k) row-major; n = K / k, or 1: the same for every block
  std::vector<float> activations;  // T_b^-T, as many; empty: the blocks are orthogonal, T_b^-T = T_b

  bool operator==(const BlocksFactor&) const = default;
};

using Factor = std::variant<HadamardFactor, DiagonalFactor, PermutationFactor, BlocksFactor>;

/// Factors from left to right. Empty: the identity.
struct LinearMap {
  std::vector<Factor> factors;

  bool identity() const { return factors.empty(); }
  bool operator==(const LinearMap&) const = default;
};

}  // namespace fp4lab
