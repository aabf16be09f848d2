// tests/methods/sites.h - sites for the tests of data-aware transforms: correlated inputs with
// outlier channels, weights, and the statistics of the inputs.
#pragma once
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "formats/quantize.h"
#include "formats/registry.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/linear_map.h"
#include "kernels/ops.h"
#include "methods/transforms/transform.h"

namespace fp4lab::sites {

inline Matrix normal(int64_t rows, int64_t cols, unsigned seed, float deviation = 1) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> draw(0, deviation);
  Matrix m(rows, cols);
  for (int64_t i = 0; i < m.size(); ++i) m.data()[i] = draw(engine);
  return m;
}

/// What the program would gather from inputs X; the sample is all of X.
inline SiteStats stats_of(const Matrix& X) {
  SiteStats stats;
  stats.tokens = X.rows();
  stats.H = MatrixD::zeros(X.cols(), X.cols());
  syrk(X, stats.H);
  stats.amax.assign(size_t(X.cols()), 0.0f);
  stats.mean_abs.assign(size_t(X.cols()), 0.0);
  for (int64_t t = 0; t < X.rows(); ++t)
    for (int64_t c = 0; c < X.cols(); ++c) {
      const float a = std::fabs(X(t, c));
      stats.amax[size_t(c)] = std::max(stats.amax[size_t(c)], a);
      stats.mean_abs[size_t(c)] += double(a) / double(X.rows());
    }
  stats.sample = X.clone();
  return stats;
}

struct Site {
  Matrix W;  // (N, K), deviation 0.05
  Matrix X;  // (T, K)
  SiteStats stats;
};

/// x = z / 2 + a mixture of K / 4 shared factors, so that neighbouring channels are correlated; the channels
/// in `outliers` are `gain` times as large.
inline Site make_site(int64_t N, int64_t K, int64_t T, const std::vector<int64_t>& outliers = {},
                      float gain = 30, unsigned seed = 1) {
  Site site{normal(N, K, seed, 0.05f), normal(T, K, seed + 1, 0.5f), {}};
  const int64_t factors = K / 4 + 1;
  const Matrix F = normal(T, factors, seed + 2);
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t c = 0; c < K; ++c) site.X(t, c) += 0.7f * F(t, c % factors) + 0.5f * F(t, (c + 1) % factors);
    for (const int64_t c : outliers) site.X(t, c) *= gain;
  }
  site.stats = stats_of(site.X);
  return site;
}

/// || X W^T - X2 W2^T ||^2 in double.
inline double output_error(const Matrix& X, const Matrix& W, const Matrix& X2, const Matrix& W2) {
  double total = 0;
  for (int64_t t = 0; t < X.rows(); ++t)
    for (int64_t n = 0; n < W.rows(); ++n) {
      double sum = 0;
      for (int64_t c = 0; c < X.cols(); ++c)
        sum += double(X(t, c)) * double(W(n, c)) - double(X2(t, c)) * double(W2(n, c));
      total += sum * sum;
    }
  return total;
}

inline const FormatSpec& format(const char* name) { return find_format(name)->spec; }

/// What parse_transforms reads from one transform.
inline TransformSpec spec_of(const std::string& text) {
  return parse_transforms(parse_json(text, "test"), {"s.json", "/method/transform", nullptr}).at(0);
}
inline TransformFit fit_for(int64_t channels, const FormatSpec* weights,
                            const FormatSpec* activations = nullptr) {
  const FormatSpec* f = weights ? weights : activations;
  TransformFit fit;
  fit.channels = channels, fit.group_size = f ? f->group_size : 0;
  fit.weights = weights, fit.activations = activations;
  return fit;
}
/// The map that a transform fits to a site, which has no problem.
inline LinearMap fit_one(const TransformSpec& spec, const Matrix& W, const SiteStats& stats,
                         const FormatSpec* weights, const FormatSpec* activations = nullptr) {
  const TransformInput input{fit_for(W.cols(), weights, activations), 0, W, &stats};
  LinearMap map;
  FP4LAB_CHECK(transform_problem(spec, input.fit).empty(), transform_problem(spec, input.fit));
  entry_of(spec.kind).fit(spec, input, map);
  return map;
}
/// The scales of a map that is one diagonal.
inline std::vector<float> scale_of(const LinearMap& map) {
  return std::get<DiagonalFactor>(map.factors.at(0)).scale;
}
inline Matrix filled(int64_t rows, int64_t cols, const std::vector<float>& values) {
  Matrix m(rows, cols);
  for (int64_t i = 0; i < m.size(); ++i) m.data()[i] = values[size_t(i) % values.size()];
  return m;
}
/// The error of X W^T when both sides are quantized in the coordinates of `map` (null: not quantized).
inline double quantized_error(const Site& site, const LinearMap& map, const FormatSpec* weights,
                              const FormatSpec* activations) {
  Matrix w = site.W.clone(), x = site.X.clone();
  map_weights(map, w);
  map_activations(map, x);
  if (weights) fake_quantize(*weights, w, w);
  if (activations) fake_quantize(*activations, x, x);
  return output_error(site.X, site.W, x, w);
}

/// A copy of what is in the CPU's memory.
inline Matrix matrix_of(const Array& a) {
  Matrix out(a.rows(), a.cols());
  make_cpu_ops()->download(a.view(), out);
  return out;
}

}  // namespace fp4lab::sites
