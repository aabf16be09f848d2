// tests/methods/gptq_cases.h - the GPTQ family as its papers write it: plain loops in double, to compare the
// float32 loop with. Codes and scales come from tests/formats/helpers.h, not from formats/.
#pragma once
#include "methods/rounding/gptq.h"
#include "tests/formats/helpers.h"
#include "tests/methods/sites.h"

namespace fp4lab::gptq_cases {

constexpr Rounding kGptq{.kind = Rounding::gptq};

inline Rounding rounding(Rounding::Kind kind, Rounding::Order order = Rounding::natural,
                         Rounding::Scales scales = Rounding::up_front) {
  return {.kind = kind, .order = order, .scales = scales};
}

inline GptqResult run(const FormatSpec& format, const Rounding& r, const Matrix& W, const MatrixD& H,
                      const WeightScales& search = {}, const MatrixD& D = {}) {
  return gptq(format, search, r, W, H, D, factor_hessian(H, r));
}

inline Matrix dequantized(const QuantizedMatrix& q) {
  Matrix out(q.rows(), q.cols());
  dequantize(q, out);
  return out;
}

/// H as SPEC section 5 damps it: both triangles, dead channels 1 alone on the diagonal.
inline MatrixD damped(const MatrixD& H, double fraction) {
  const int64_t K = H.rows();
  double trace = 0;
  int live = 0;
  for (int64_t i = 0; i < K; ++i) trace += H(i, i), live += H(i, i) > 0;
  MatrixD A(K, K);
  for (int64_t i = 0; i < K; ++i)
    for (int64_t j = 0; j < K; ++j) {
      A(i, j) = i <= j ? H(i, j) : H(j, i);
      if (i == j) A(i, i) = H(i, i) > 0 ? H(i, i) + fraction * trace / live : 1;
    }
  return A;
}

/// Rows and columns in the order of the loop.
inline MatrixD reordered(const MatrixD& A, const std::vector<int32_t>& order) {
  MatrixD out(A.rows(), A.cols());
  for (int64_t i = 0; i < A.rows(); ++i)
    for (int64_t j = 0; j < A.cols(); ++j) out(i, j) = A(order[size_t(i)], order[size_t(j)]);
  return out;
}

/// L lower with A = L L^T.
inline MatrixD cholesky(const MatrixD& A) {
  const int64_t K = A.rows();
  MatrixD L = MatrixD::zeros(K, K);
  for (int64_t i = 0; i < K; ++i)
    for (int64_t j = 0; j <= i; ++j) {
      double sum = A(i, j);
      for (int64_t k = 0; k < j; ++k) sum -= L(i, k) * L(j, k);
      L(i, j) = i == j ? std::sqrt(sum) : sum / L(j, j);
    }
  return L;
}

/// A^-1 of a positive definite A: columns of L^-1, then L^-T L^-1.
inline MatrixD inverse(const MatrixD& A) {
  const int64_t K = A.rows();
  const MatrixD L = cholesky(A);
  MatrixD Y = MatrixD::zeros(K, K), out(K, K);  // L^-1; row c of Yt is column c
  for (int64_t c = 0; c < K; ++c)
    for (int64_t i = c; i < K; ++i) {
      double sum = i == c;
      for (int64_t k = c; k < i; ++k) sum -= L(i, k) * Y(c, k);
      Y(c, i) = sum / L(i, i);
    }
  for (int64_t i = 0; i < K; ++i)
    for (int64_t j = 0; j < K; ++j) {
      double sum = 0;
      for (int64_t k = std::max(i, j); k < K; ++k) sum += Y(i, k) * Y(j, k);
      out(i, j) = sum;
    }
  return out;
}

/// The papers' U, upper, with A^-1 = U^T U.
inline MatrixD paper_factor(const MatrixD& A) {
  const MatrixD L = cholesky(inverse(A));
  MatrixD U(A.rows(), A.cols());
  for (int64_t i = 0; i < A.rows(); ++i)
    for (int64_t j = 0; j < A.cols(); ++j) U(i, j) = L(j, i);
  return U;
}

inline MatrixD product(const MatrixD& A, const MatrixD& B) {
  MatrixD C = MatrixD::zeros(A.rows(), B.cols());
  for (int64_t i = 0; i < A.rows(); ++i)
    for (int64_t k = 0; k < A.cols(); ++k)
      for (int64_t j = 0; j < B.cols(); ++j) C(i, j) += A(i, k) * B(k, j);
  return C;
}

/// GPTAQ's P = alpha triu(D U^T, 1) U.
inline MatrixD gptaq_factor(const MatrixD& D, const MatrixD& U, double alpha) {
  MatrixD Ut(U.rows(), U.cols());
  for (int64_t i = 0; i < U.rows(); ++i)
    for (int64_t j = 0; j < U.cols(); ++j) Ut(i, j) = U(j, i);
  MatrixD S = product(D, Ut);
  for (int64_t i = 0; i < S.rows(); ++i)
    for (int64_t j = 0; j < S.cols(); ++j) S(i, j) = j > i ? alpha * S(i, j) : 0;
  return product(S, U);
}

/// Effective scales and zero points of a result, element by element, for the plain loops to round with.
struct Rounder {
  spec::Grid grid;
  Matrix scale, zero;  // (N, K)

  explicit Rounder(const QuantizedMatrix& q)
      : grid(spec::grid(q.format.element.name)), scale(q.rows(), q.cols()), zero(q.rows(), q.cols()) {
    const int64_t g = q.format.group(q.cols()), groups = q.cols() / g;
    std::vector<float> row(static_cast<size_t>(groups));
    for (int64_t r = 0; r < q.rows(); ++r) {
      effective_scales(q, r, row.data());
      for (int64_t c = 0; c < q.cols(); ++c) {
        scale(r, c) = row[size_t(c / g)];
        zero(r, c) = q.format.has_zero_points() ? q.scales.zero_points[size_t(r * groups + c / g)] : 0;
      }
    }
  }
  double operator()(int64_t r, int64_t c, double v, uint8_t& code) const {
    const int z = int(zero(r, c));
    const double s = double(scale(r, c));
    code = uint8_t(s > 0                           ? grid.encode(float(v / s), z)
                   : grid.kind == spec::Grid::asym ? uint32_t(z)
                                                   : grid.zero_code());
    return s > 0 ? s * grid.decode(code, z) : 0;
  }
};

/// The papers' recursion in loop order: W[:, i:] -= e U[i, i:] - w_i P[i, i:], e = (w_i - q_i) / U_ii. W is
/// by channel, U and P (may be empty) by loop position. Codes (N, K) by channel.
inline std::vector<uint8_t> recursion(const MatrixD& W, const std::vector<int32_t>& order, const MatrixD& U,
                                      const MatrixD& P, const Rounder& round) {
  const int64_t K = W.cols();
  std::vector<uint8_t> codes(size_t(W.size()));
  for (int64_t r = 0; r < W.rows(); ++r) {
    std::vector<double> w;
    for (int64_t i = 0; i < K; ++i) w.push_back(W(r, order[size_t(i)]));
    for (int64_t i = 0; i < K; ++i) {
      const int64_t c = order[size_t(i)];
      const double v = w[size_t(i)], e = (v - round(r, c, v, codes[size_t(r * K + c)])) / U(i, i);
      for (int64_t j = i; j < K; ++j) w[size_t(j)] -= e * U(i, j) - (P.size() ? v * P(i, j) : 0);
    }
  }
  return codes;
}

inline std::vector<uint8_t> codes_of(const QuantizedMatrix& q) {
  std::vector<uint8_t> out(size_t(q.rows() * q.cols()));
  for (int64_t r = 0; r < q.rows(); ++r) unpack_codes(q, r, out.data() + r * q.cols());
  return out;
}

inline double share_equal(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b) {
  int64_t equal = 0;
  for (size_t i = 0; i < a.size(); ++i) equal += a[i] == b.at(i);
  return double(equal) / double(a.size());
}

/// (t - q) A (t - q)^T of one row in double; A with both triangles.
inline double row_loss(const Matrix& T, const Matrix& Q, const MatrixD& A, int64_t r) {
  double total = 0;
  for (int64_t i = 0; i < A.rows(); ++i) {
    double sum = 0;
    for (int64_t j = 0; j < A.rows(); ++j) sum += A(i, j) * (double(T(r, j)) - double(Q(r, j)));
    total += sum * (double(T(r, i)) - double(Q(r, i)));
  }
  return total;
}
/// tr((T - Q) H (T - Q)^T), H the upper triangle.
inline double loss_of(const Matrix& T, const Matrix& Q, const MatrixD& H) {
  const MatrixD A = damped(H, 0);
  double total = 0;
  for (int64_t r = 0; r < T.rows(); ++r) total += row_loss(T, Q, A, r);
  return total;
}

inline MatrixD as_double(const Matrix& W) {
  MatrixD out(W.rows(), W.cols());
  for (int64_t i = 0; i < W.size(); ++i) out.data()[i] = double(W.data()[i]);
  return out;
}

/// A site whose inputs X differ from X_fp, those of the full-precision model, by noise.
struct CrossSite {
  sites::Site site;  // its X is what the quantized model has
  Matrix fp;         // (T, K)
  MatrixD D;         // (X_fp - X)^T X
};
inline CrossSite cross_site(int64_t N, int64_t K, int64_t T, float noise, unsigned seed) {
  CrossSite out{sites::make_site(N, K, T, {}, 30, seed), Matrix(T, K), MatrixD::zeros(K, K)};
  // The noise of a quantized prefix follows what it disturbs: a part of it is shared by all channels.
  const Matrix own = sites::normal(T, K, seed + 10, noise), shared = sites::normal(T, 1, seed + 11, noise);
  Matrix difference(T, K);
  for (int64_t t = 0; t < T; ++t)
    for (int64_t c = 0; c < K; ++c) {
      out.fp(t, c) = out.site.X(t, c) + own(t, c) + shared(t, 0) - 0.3f * noise * out.site.X(t, c);
      difference(t, c) = out.fp(t, c) - out.site.X(t, c);
    }
  cross(difference, out.site.X, out.D);
  return out;
}

}  // namespace fp4lab::gptq_cases
