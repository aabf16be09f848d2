// analysis/outliers.h - which elements of a tensor are its outliers: the top share p of the magnitudes.
#pragma once
#include <cstdint>

#include "core/matrix.h"

namespace fp4lab {

/// Magnitudes above the threshold are outliers; of those equal to it, the first in row-major order.
struct OutlierCut {
  uint32_t threshold = UINT32_MAX;  // float bits without the sign: they order like the magnitudes
  int64_t last_tie = -1;            // row-major index of the last outlier that equals the threshold

  bool holds(uint32_t magnitude_bits, int64_t index) const {
    return magnitude_bits > threshold || (magnitude_bits == threshold && index <= last_tie);
  }
};

/// The cut that holds exactly ceil(share n) elements, or all non-zero ones when they are fewer (zeros never
/// are outliers: they have no relative error). X is finite; share in (0, 1]. Exact, without a copy of X: two
/// histograms over the bits and, for ties, one scan. Memory: 512 KB per thread.
OutlierCut outlier_cut(MatrixView<const float> X, double share);

}  // namespace fp4lab
