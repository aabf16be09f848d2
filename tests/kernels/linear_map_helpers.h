// tests/kernels/linear_map_helpers.h - factors to try, and the dense matrices that they stand for.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>

#include "kernels/cpu/linear_map.h"

namespace fp4lab::test {

inline std::vector<float> normals(int64_t n, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> draw;
  std::vector<float> out(static_cast<size_t>(n));
  for (float& x : out) x = draw(engine);
  return out;
}
inline Matrix normal(int64_t rows, int64_t cols, unsigned seed) {
  Matrix m(rows, cols);
  const std::vector<float> values = normals(rows * cols, seed);
  std::copy(values.begin(), values.end(), m.data());
  return m;
}
inline std::vector<float> signs(int64_t channels, unsigned seed) {
  std::vector<float> s = normals(channels, seed);
  for (float& x : s) x = x < 0 ? -1.0f : 1.0f;
  return s;
}
/// From 1/4 to 4.
inline DiagonalFactor diagonal(int64_t channels, unsigned seed) {
  std::vector<float> s = normals(channels, seed);
  for (float& x : s) x = std::exp2(std::tanh(x) * 2);
  return {s};
}
inline PermutationFactor permutation(int64_t channels, unsigned seed) {
  PermutationFactor f{std::vector<int32_t>(static_cast<size_t>(channels))};
  std::iota(f.from.begin(), f.from.end(), 0);
  std::shuffle(f.from.begin(), f.from.end(), std::mt19937(seed));
  return f;
}
/// Blocks whose inverse needs no solver: I + u v^T with v.u = 1, so that T^-T = I - v u^T / 2.
inline BlocksFactor blocks(int64_t n, int64_t k, unsigned seed) {
  BlocksFactor f{k, {}, {}};
  for (int64_t b = 0; b < n; ++b) {
    const std::vector<float> u = normals(k, seed + unsigned(2 * b)),
                             w = normals(k, seed + unsigned(2 * b) + 1);
    double uu = 0, uw = 0;
    for (size_t i = 0; i < u.size(); ++i)
      uu += double(u[i]) * double(u[i]), uw += double(u[i]) * double(w[i]);
    std::vector<double> v(u.size());  // (u + a part of w across u) / |u|^2
    for (size_t i = 0; i < u.size(); ++i)
      v[i] = (double(u[i]) + 0.3 * (double(w[i]) - uw / uu * double(u[i]))) / uu;
    for (size_t i = 0; i < u.size(); ++i)
      for (size_t j = 0; j < u.size(); ++j) {
        f.weights.push_back(float((i == j) + double(u[i]) * v[j]));
        f.activations.push_back(float((i == j) - v[i] * double(u[j]) / 2));
      }
  }
  return f;
}
/// Householder's I - 2 u u^T / |u|^2.
inline BlocksFactor reflections(int64_t n, int64_t k, unsigned seed) {
  BlocksFactor f{k, {}, {}};
  for (int64_t b = 0; b < n; ++b) {
    const std::vector<float> u = normals(k, seed + unsigned(b));
    double uu = 0;
    for (const float x : u) uu += double(x) * double(x);
    for (size_t i = 0; i < u.size(); ++i)
      for (size_t j = 0; j < u.size(); ++j)
        f.weights.push_back(float((i == j) - 2 * double(u[i]) * double(u[j]) / uu));
  }
  return f;
}

/// T and T^-T (K, K), from the definitions in core/linear_map.h.
struct Dense {
  MatrixD weights, activations;
};
inline Dense dense(const HadamardFactor& f, int64_t K) {
  const std::vector<int8_t> H = hadamard_matrix(f.k);
  MatrixD t = MatrixD::zeros(K, K);
  for (int64_t from = 0; from < K; ++from)
    for (int64_t to = 0; to < K; ++to) {
      const int64_t run = f.k * f.stride;
      if (from / run != to / run || from % f.stride != to % f.stride) continue;
      t(from, to) = (f.signs.empty() ? 1.0 : double(f.signs[size_t(from)])) *
                    H[size_t(from % run / f.stride * f.k + to % run / f.stride)] / std::sqrt(double(f.k));
    }
  MatrixD same = t.clone();
  return {std::move(t), std::move(same)};
}
inline Dense dense(const DiagonalFactor& f, int64_t K) {
  Dense d{MatrixD::zeros(K, K), MatrixD::zeros(K, K)};
  for (int64_t c = 0; c < K; ++c)
    d.weights(c, c) = double(f.scale[size_t(c)]), d.activations(c, c) = 1 / double(f.scale[size_t(c)]);
  return d;
}
inline Dense dense(const PermutationFactor& f, int64_t K) {
  Dense d{MatrixD::zeros(K, K), MatrixD::zeros(K, K)};
  for (int64_t j = 0; j < K; ++j)
    d.weights(f.from[size_t(j)], j) = 1, d.activations(f.from[size_t(j)], j) = 1;
  return d;
}
inline Dense dense(const BlocksFactor& f, int64_t K) {
  Dense d{MatrixD::zeros(K, K), MatrixD::zeros(K, K)};
  const bool shared = int64_t(f.weights.size()) == f.k * f.k;
  const std::vector<float>& other = f.activations.empty() ? f.weights : f.activations;
  for (int64_t i = 0; i < K; ++i)
    for (int64_t j = i / f.k * f.k; j < (i / f.k + 1) * f.k; ++j) {
      const size_t at = size_t((shared ? i % f.k : i) * f.k + j % f.k);
      d.weights(i, j) = double(f.weights[at]), d.activations(i, j) = double(other[at]);
    }
  return d;
}
inline Dense dense(const LinearMap& map, int64_t K) {
  Dense all{MatrixD::zeros(K, K), MatrixD::zeros(K, K)};
  for (int64_t c = 0; c < K; ++c) all.weights(c, c) = all.activations(c, c) = 1;
  const auto times = [K](const MatrixD& a, const MatrixD& b) {
    MatrixD y = MatrixD::zeros(K, K);
    for (int64_t i = 0; i < K; ++i)
      for (int64_t k = 0; k < K; ++k)
        if (a(i, k) != 0)
          for (int64_t j = 0; j < K; ++j) y(i, j) += a(i, k) * b(k, j);
    return y;
  };
  for (const Factor& factor : map.factors) {
    const Dense next = std::visit([K](const auto& f) { return dense(f, K); }, factor);
    all = {times(all.weights, next.weights), times(all.activations, next.activations)};
  }
  return all;
}

/// X M in double, for X of either precision.
template <class M>
MatrixD product(const M& X, const MatrixD& T) {
  MatrixD y = MatrixD::zeros(X.rows(), T.cols());
  for (int64_t i = 0; i < X.rows(); ++i)
    for (int64_t k = 0; k < X.cols(); ++k)
      for (int64_t j = 0; j < T.cols(); ++j) y(i, j) += double(X(i, k)) * T(k, j);
  return y;
}
template <class M>
MatrixD transposed(const M& m) {
  MatrixD t(m.cols(), m.rows());
  for (int64_t i = 0; i < m.rows(); ++i)
    for (int64_t j = 0; j < m.cols(); ++j) t(j, i) = double(m(i, j));
  return t;
}
template <class A, class B>
double worst(const A& a, const B& b) {
  double w = 0;
  for (int64_t i = 0; i < a.size(); ++i) {
    const double d = std::fabs(double(a.data()[i]) - double(b.data()[i]));
    w = std::max(w, d >= 0 ? d : INFINITY);  // a NaN is the worst
  }
  return w;
}
inline double largest(const MatrixD& m) { return worst(m, MatrixD::zeros(m.rows(), m.cols())); }
inline bool same_bits(const Matrix& a, const Matrix& b) {
  return a.rows() == b.rows() && a.cols() == b.cols() &&
         std::memcmp(a.data(), b.data(), size_t(a.size()) * sizeof(float)) == 0;
}

}  // namespace fp4lab::test
