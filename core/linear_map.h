// core/linear_map.h - a change of coordinates that cancels in X W^T, as data: weights become W T, activations
// X T^-T. Applying one is kernels/cpu/linear_map.h; fitting one is methods/transforms/.
#pragma once
#include <cstdint>
#include <vector>

namespace fp4lab {

/// Block-diagonal along the channels, each block H_k / sqrt(k) after the signs: x -> (x o signs) H_k /
/// sqrt(k), k a power of two that divides K, H_k in natural (Sylvester) order. Orthogonal, so T = T^-T.
struct HadamardFactor {
  int64_t k = 1;
  std::vector<float> signs;  // +-1 per channel (K), or empty: all +1

  bool operator==(const HadamardFactor&) const = default;
};

/// Factors from left to right. Empty: the identity.
struct LinearMap {
  std::vector<HadamardFactor> factors;

  bool identity() const { return factors.empty(); }
  bool operator==(const LinearMap&) const = default;
};

}  // namespace fp4lab
