#include "kernels/cpu/dense_product.h"

#include <immintrin.h>

#include <algorithm>
#include <cmath>

namespace fp4lab {

namespace {

typedef float Floats __attribute__((vector_size(32)));
typedef double Doubles __attribute__((vector_size(32)));

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  using type = Floats;
};
template <>
struct VectorOf<double> {
  using type = Doubles;
};

// Written out, since the build contracts nothing by itself (-ffp-contract=off).
Floats fused(Floats a, Floats b, Floats c) {
  return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
Doubles fused(Doubles a, Doubles b, Doubles c) {
  return (Doubles)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
}

// A tile is kRows rows of Y by C registers: 12 accumulators of the 16 there are.
constexpr int kRows = 6;
// Deeper products copy kDepth rows of B's columns together: 16 KB, and the pages of B are touched once.
// Accumulators then go through Y, which stores and loads them exactly.
constexpr int64_t kDepth = 256;

template <class T>
using Tile = void (*)(int64_t depth, const T* a, int64_t a_stride, const T* b, int64_t b_stride, T* y,
                      int64_t y_stride, bool from_zero);

/// y (R, C registers) += a (R, depth) b (depth, C registers).
template <class T, int R, int C>
void tile(int64_t depth, const T* a, int64_t a_stride, const T* b, int64_t b_stride, T* y, int64_t y_stride,
          bool from_zero) {
  using V = typename VectorOf<T>::type;
  constexpr int64_t n = sizeof(V) / sizeof(T);
  V sum[R][C] = {};
  if (!from_zero) {
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int c = 0; c < C; ++c) __builtin_memcpy(&sum[r][c], y + r * y_stride + c * n, sizeof(V));
  }
  for (int64_t k = 0; k < depth; ++k, b += b_stride) {
    V row[C];
#pragma GCC unroll 2
    for (int c = 0; c < C; ++c) __builtin_memcpy(&row[c], b + c * n, sizeof(V));
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const V x = a[r * a_stride + k] - V{};  // in every lane
#pragma GCC unroll 2
      for (int c = 0; c < C; ++c) sum[r][c] = fused(x, row[c], sum[r][c]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int c = 0; c < C; ++c) __builtin_memcpy(y + r * y_stride + c * n, &sum[r][c], sizeof(V));
}

template <class T, int C>
constexpr Tile<T> kTiles[kRows] = {tile<T, 1, C>, tile<T, 2, C>, tile<T, 3, C>,
                                   tile<T, 4, C>, tile<T, 5, C>, tile<T, 6, C>};

/// Columns [j, j + C registers) of Y, whole chains.
template <class T, int C>
void columns(MatrixView<const T> A, MatrixView<const T> B, MatrixView<T> Y, int64_t j) {
  constexpr int64_t width = C * int64_t(sizeof(typename VectorOf<T>::type) / sizeof(T));
  T packed[kDepth * width];
  for (int64_t k = 0; k < A.cols; k += kDepth) {
    const int64_t depth = std::min(kDepth, A.cols - k);
    const T* b = &B(k, j);
    int64_t stride = B.stride;
    if (A.cols > kDepth) {
      for (int64_t d = 0; d < depth; ++d) std::copy_n(&B(k + d, j), width, packed + d * width);
      b = packed, stride = width;
    }
    for (int64_t i = 0; i < A.rows; i += kRows)
      kTiles<T, C>[std::min<int64_t>(kRows, A.rows - i) - 1](depth, &A(i, k), A.stride, b, stride, &Y(i, j),
                                                             Y.stride, k == 0);
  }
}

/// The last columns are computed with what fills their registers, some of them for the second time.
template <class T, int C>
bool all_columns(MatrixView<const T> A, MatrixView<const T> B, MatrixView<T> Y) {
  constexpr int64_t width = C * int64_t(sizeof(typename VectorOf<T>::type) / sizeof(T));
  if (Y.cols < width) return false;
  for (int64_t j = 0; j < Y.cols; j += width) columns<T, C>(A, B, Y, std::min(j, Y.cols - width));
  return true;
}

template <class T>
void product(MatrixView<const T> A, MatrixView<const T> B, MatrixView<T> Y) {
  FP4LAB_CHECK(A.cols == B.rows && Y.rows == A.rows && Y.cols == B.cols, "A (", A.rows, ", ", A.cols,
               "), B (", B.rows, ", ", B.cols, "), Y (", Y.rows, ", ", Y.cols, ")");
  if (Y.rows == 0 || Y.cols == 0) return;
  if (A.cols > 0 && (all_columns<T, 2>(A, B, Y) || all_columns<T, 1>(A, B, Y))) return;
  for (int64_t i = 0; i < Y.rows; ++i)
    for (int64_t j = 0; j < Y.cols; ++j) {
      T y = 0;
      for (int64_t k = 0; k < A.cols; ++k) y = std::fma(A(i, k), B(k, j), y);
      Y(i, j) = y;
    }
}

}  // namespace

void dense_product(MatrixView<const float> A, MatrixView<const float> B, MatrixView<float> Y) {
  product(A, B, Y);
}
void dense_product(MatrixView<const double> A, MatrixView<const double> B, MatrixView<double> Y) {
  product(A, B, Y);
}

}  // namespace fp4lab
