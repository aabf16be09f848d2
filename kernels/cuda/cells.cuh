// kernels/cuda/cells.cuh - loops over the elements of a matrix: what elementwise kernels have in common.
#pragma once
#include <algorithm>

#include "kernels/cuda/gpu.h"

namespace fp4lab::cuda {

/// A warp takes 32 neighbouring columns of a row, four times: so many loads are under way at once.
inline constexpr int kCellRows = 8, kCellsAtOnce = 4, kCellColumns = 32 * kCellsAtOnce;

inline dim3 cell_block() { return {32, kCellRows}; }
/// As many blocks as a GPU holds, twice; for_cells goes on in strides. rows and cols are positive.
inline dim3 cell_grid(const Gpu& gpu, int64_t rows, int64_t cols) {
  FP4LAB_CHECK(cols <= INT32_MAX - 65536 * kCellColumns, cols, " columns");
  const int64_t most = 16 * gpu.multiprocessors();
  const unsigned across = blocks_for(cols, kCellColumns, most);
  return {across, blocks_for(rows, kCellRows, std::max<int64_t>(1, most / across))};
}

/// store(r, c, load(r, c)) for every element, each by one thread; four loads come before their stores, so
/// that an element must not be loaded where another is stored.
template <class Load, class Store>
__device__ __forceinline__ void for_cells(int64_t rows, int64_t cols, const Load& load, const Store& store) {
  const int n = int(cols);
  for (int64_t r = int64_t(blockIdx.y) * kCellRows + threadIdx.y; r < rows;
       r += int64_t(gridDim.y) * kCellRows)
    for (int c = int(blockIdx.x) * kCellColumns + int(threadIdx.x); c < n;
         c += int(gridDim.x) * kCellColumns) {
      decltype(load(r, c)) loaded[kCellsAtOnce];
#pragma unroll
      for (int i = 0; i < kCellsAtOnce; ++i)
        if (c + 32 * i < n) loaded[i] = load(r, c + 32 * i);
#pragma unroll
      for (int i = 0; i < kCellsAtOnce; ++i)
        if (c + 32 * i < n) store(r, c + 32 * i, loaded[i]);
    }
}

}  // namespace fp4lab::cuda
