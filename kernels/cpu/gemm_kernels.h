// kernels/cpu/gemm_kernels.h - the inner loops of gemm.h, compiled for x86-64-v3 and x86-64-v4 from one
// source (gemm_kernels.inc). The drawing of one tile; every number in Y is one chain of fma over ascending k:
//
//        B strip (k, cols)        a panel holds `width` >= `rows` values for each k, so that both are read
//        +----------------+       forwards; what lies beyond the matrix is zero and never stored
//        |  ..... k ..... |
//   +-+  +----------------+
//   |A|  | Y (rows, cols) |       rows x cols accumulators fill the registers: 14 x 2 vectors (AVX-512),
//   +-+  +----------------+       6 x 2 (AVX2)
#pragma once
#include "core/matrix.h"

namespace fp4lab {

/// One output tile: r <= rows rows of A panel times a whole B strip of `cols`.
///   a (k, width)   b (k, cols)   y (r, cols), rows `stride` apart; starts from zero when `from_zero`
template <class T>
using TileKernel = void (*)(int64_t k, const T* a, const T* b, T* y, int64_t stride, bool from_zero);

constexpr int kMaxTileRows = 14;

template <class T>
struct TileKernels {
  int rows, width, cols;
  TileKernel<T> tile[kMaxTileRows];  // [r - 1] for r = 1..rows
};

struct GemmKernels {
  const char* name;  // "x86-64-v3", "x86-64-v4"
  TileKernels<float> f32;
  TileKernels<double> f64;

  /// panel (k, width): panel[j * width + r] = x[r * stride + j] for r < rows <= width, else 0. width is a
  /// multiple of the vector.
  void (*pack_transposed)(const float* x, int64_t stride, int64_t rows, int64_t k, float* panel,
                          int64_t width);
};

/// Both sets, for tests; the v4 one is null when this processor cannot run it.
const GemmKernels& gemm_kernels_v3();
const GemmKernels* gemm_kernels_v4();

/// gemm, syrk and cross with a given set, for tests and benchmarks.
void gemm_with(const GemmKernels& set, MatrixView<const float> X, MatrixView<const float> W,
               MatrixView<float> Y, bool accumulate);
void syrk_with(const GemmKernels& set, MatrixView<const float> X, MatrixView<double> H);
void cross_with(const GemmKernels& set, MatrixView<const float> X, MatrixView<const float> Y,
                MatrixView<double> D);

}  // namespace fp4lab
