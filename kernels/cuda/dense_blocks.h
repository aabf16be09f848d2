// kernels/cuda/dense_blocks.h - products of a row's blocks with dense matrices: what kernels/cpu/
// dense_product.h is for, on a GPU.
#pragma once
#include "kernels/cuda/gpu.h"

namespace fp4lab::cuda {

/// Dense matrices M_b (k, k), row-major, for the runs b = 0, 1, ... of k * stride channels.
struct DenseBlocks {
  int64_t k, stride;
  const float* matrices;  // (1 or runs, k, k)
  bool shared;            // one for all runs
  bool transposed;        // M_b^T is meant
};

/// to[r, (b, j, s)] = sum_i from[r, (b, i, s)] M_b[i, j], channel (b, i, s) being (b k + i) stride + s: one
/// chain y = fma(x_i, M_ij, y) over ascending i, from 0, then times factor. `before` and `after` (channels)
/// are signs multiplied to what is read and to the result, or null. T is float or double; `from` and `to`
/// have one shape and do not overlap.
template <class T>
void dense_blocks(Gpu& gpu, const DenseBlocks& blocks, MatrixView<const T> from, T factor,
                  const float* before, const float* after, MatrixView<T> to);

}  // namespace fp4lab::cuda
