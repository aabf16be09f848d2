// methods/rounding/panels.h - column panels (formats/column_kernels.h): a few rows of a matrix turned on
// their side.
#pragma once
#include <algorithm>

#include "core/matrix.h"
#include "formats/column_kernels.h"

namespace fp4lab {

/// Rows that one thread takes through the columns at a time; also the stride of its panels.
inline constexpr int64_t kPanelRows = 64;
static_assert(kPanelRows % kColumnLanes == 0);

constexpr int64_t padded_rows(int64_t rows) {
  return (rows + kColumnLanes - 1) / kColumnLanes * kColumnLanes;
}

/// panel (cols, kPanelRows) = X[row .. row + rows, begin .. begin + cols]^T, zeros beyond the rows.
inline void load_panel(MatrixView<const float> X, int64_t row, int64_t rows, int64_t begin, int64_t cols,
                       float* panel) {
  if (rows < kPanelRows) std::fill_n(panel, cols * kPanelRows, 0.0f);
  for (int64_t r = 0; r < rows; ++r) {
    const float* x = X.row(row + r) + begin;
    for (int64_t k = 0; k < cols; ++k) panel[k * kPanelRows + r] = x[k];
  }
}
/// The way back.
inline void store_panel(const float* panel, int64_t row, int64_t rows, int64_t begin, int64_t cols,
                        MatrixView<float> X) {
  for (int64_t r = 0; r < rows; ++r) {
    float* x = X.row(row + r) + begin;
    for (int64_t k = 0; k < cols; ++k) x[k] = panel[k * kPanelRows + r];
  }
}

}  // namespace fp4lab
