// tests/kernels/gemm_cases.h - the plain loops that gemm.h words, and what they are compared on.
#pragma once
#include <omp.h>

#include <cmath>
#include <string>
#include <vector>

#include "core/random.h"
#include "kernels/cpu/gemm_kernels.h"

namespace fp4lab::test {

/// N(0,1) in a view whose rows have `gap` more elements than it shows.
struct Strided {
  Matrix all;
  MatrixView<float> view;
  Strided(int64_t rows, int64_t cols, uint64_t seed, int64_t gap = 0) : all(rows, cols + gap) {
    const Stream stream(seed, "gemm test");
    for (int64_t i = 0; i < all.size(); ++i) all.data()[i] = float(normal_pair(stream.block(uint64_t(i)))[0]);
    view = {all.data(), rows, cols, cols + gap};
  }
};

/// The definition, as gemm.h words it.
inline void gemm_ref(MatrixView<const float> X, MatrixView<const float> W, MatrixView<float> Y,
                     bool accumulate) {
  for (int64_t i = 0; i < Y.rows; ++i)
    for (int64_t j = 0; j < Y.cols; ++j) {
      float y = accumulate ? Y(i, j) : 0.0f;
      for (int64_t k = 0; k < X.cols; ++k) y = std::fma(X(i, k), W(j, k), y);
      Y(i, j) = y;
    }
}
inline void syrk_ref(MatrixView<const float> X, MatrixView<double> H) {
  for (int64_t i = 0; i < H.rows; ++i)
    for (int64_t j = i; j < H.cols; ++j)
      for (int64_t t = 0; t < X.rows; ++t) H(i, j) = std::fma(double(X(t, i)), double(X(t, j)), H(i, j));
}

inline void cross_ref(MatrixView<const float> X, MatrixView<const float> Y, MatrixView<double> D) {
  for (int64_t i = 0; i < D.rows; ++i)
    for (int64_t j = 0; j < D.cols; ++j)
      for (int64_t t = 0; t < X.rows; ++t) D(i, j) = std::fma(double(X(t, i)), double(Y(t, j)), D(i, j));
}

/// The first element whose bits differ (all NaNs are one), gaps between rows included; "" when none does.
template <class T>
std::string difference(const MatrixOf<T>& got, const MatrixOf<T>& want) {
  for (int64_t i = 0; i < want.rows(); ++i)
    for (int64_t j = 0; j < want.cols(); ++j) {
      const T a = got(i, j), b = want(i, j);
      if (std::isnan(a) && std::isnan(b)) continue;
      if (a != b || std::signbit(a) != std::signbit(b))
        return "(" + std::to_string(i) + ", " + std::to_string(j) + "): " + std::to_string(a) + ", not " +
               std::to_string(b);
    }
  return "";
}

inline std::vector<const GemmKernels*> sets() {
  std::vector<const GemmKernels*> out = {&gemm_kernels_v3()};
  if (gemm_kernels_v4()) out.push_back(gemm_kernels_v4());
  return out;
}

struct Threads {  // as many inside, as before afterwards
  int before = omp_get_max_threads();
  explicit Threads(int n) { omp_set_num_threads(n); }
  ~Threads() { omp_set_num_threads(before); }
};

/// D starts as numbers, the gap between its rows as marks that must survive.
inline MatrixD started(int64_t rows, int64_t cols, int64_t gap) {
  MatrixD D(rows, cols + gap);
  const Stream stream(7, "cross test");
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols + gap; ++j)
      D(i, j) = j >= cols ? 42 : normal_pair(stream.block(uint64_t(i * cols + j)))[0];
  return D;
}

}  // namespace fp4lab::test
