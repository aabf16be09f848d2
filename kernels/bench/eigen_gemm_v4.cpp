#include "kernels/bench/eigen_gemm.h"

// Eigen under a name of its own: the linker keeps one copy of each of its functions, and the rest of the
// program must not get the ones compiled here for AVX-512.
#define Eigen EigenV4
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // inside g++ 12's AVX-512 intrinsics, GCC bug 105593
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <Eigen/Core>

namespace fp4lab {

namespace {

template <class T>
auto map(MatrixView<T> m) {
  using Plain = Eigen::Matrix<std::remove_const_t<T>, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  return Eigen::Map<std::conditional_t<std::is_const_v<T>, const Plain, Plain>, 0, Eigen::OuterStride<>>(
      m.data, m.rows, m.cols, Eigen::OuterStride<>(m.stride));
}

}  // namespace

void eigen_gemm(MatrixView<const float> X, MatrixView<const float> W, MatrixView<float> Y) {
  map(Y).noalias() = map(X) * map(W).transpose();
}

void eigen_syrk(MatrixView<const double> X, MatrixView<double> H) {
  map(H).selfadjointView<Eigen::Upper>().rankUpdate(map(X).transpose());
}

}  // namespace fp4lab
