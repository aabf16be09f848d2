#include "methods/transforms/awq.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "formats/quantize.h"
#include "kernels/cpu/gemm.h"

namespace fp4lab {

namespace {

std::vector<float> scales_for(const std::vector<double>& mean_abs, double a) {
  std::vector<double> s(mean_abs.size(), 1.0);
  double least = INFINITY, largest = 0;
  for (size_t j = 0; j < s.size(); ++j)
    if (mean_abs[j] > 0) {
      s[j] = std::max(std::pow(mean_abs[j], a), 1e-4);
      least = std::min(least, s[j]), largest = std::max(largest, s[j]);
    }
  const double middle = largest > 0 ? std::sqrt(largest) * std::sqrt(least) : 1.0;
  std::vector<float> out(s.size(), 1.0f);
  for (size_t j = 0; j < s.size(); ++j)
    // 2^100: a float that is finite, and whose inverse is.
    if (mean_abs[j] > 0) out[j] = float(std::clamp(s[j] / middle, 0x1p-100, 0x1p100));
  return out;
}

/// H / tokens as a whole matrix in float32: the relative errors of a sum of squares stay near 1e-6, and what
/// is compared differs by far more.
Matrix whole_hessian(const SiteStats& stats) {
  const MatrixD& H = stats.H;
  const double tokens = double(std::max<int64_t>(stats.tokens, 1));
  Matrix whole(H.rows(), H.cols());
  for (int64_t i = 0; i < H.rows(); ++i)
    for (int64_t j = i; j < H.cols(); ++j) whole(i, j) = whole(j, i) = float(H(i, j) / tokens);
  return whole;
}

/// sum over rows of d H d^T. Rows are added in their order, whatever the number of threads.
double error_of(MatrixView<const float> D, const Matrix& H) {
  constexpr int64_t kTile = 512;  // rows whose products are held at a time
  Matrix product(std::min(kTile, D.rows), D.cols);
  std::vector<double> rows(size_t(D.rows), 0.0);
  for (int64_t begin = 0; begin < D.rows; begin += kTile) {
    const int64_t count = std::min(kTile, D.rows - begin);
    const MatrixView<const float> d = D.middle_rows(begin, count);
    gemm(d, H.view(), product.view().middle_rows(0, count));
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < count; ++n) {
      double sum = 0;
      for (int64_t j = 0; j < D.cols; ++j) sum += double(d(n, j)) * double(product(n, j));
      rows[size_t(begin + n)] = sum;
    }
  }
  double total = 0;
  for (const double row : rows) total += row;
  return total;
}

}  // namespace

TransformSpec read_awq(Params& p) {
  TransformSpec spec{TransformSpec::awq};
  spec.steps = int(p.integer("steps", 20, {"exponents i / steps tried, i = 0 .. steps - 1", 1, 1000}));
  return spec;
}

void write_awq(const TransformSpec& spec, Json& object) { object["steps"] = spec.steps; }

std::string awq_problem(const TransformSpec&, const TransformFit& fit) {
  if (!fit.weights)
    return "awq: it searches the scales that quantize the weights best, and these stay in full precision; "
           "\"smooth\" helps activations";
  const std::string shape = shape_problem(*fit.weights, fit.channels);
  return shape.empty() ? "" : "awq: " + shape;
}

void fit_awq(const TransformSpec& spec, const TransformInput& input, LinearMap& map) {
  const MatrixView<const float> W = input.W;
  const SiteStats& stats = *input.stats;
  FP4LAB_CHECK(
      int64_t(stats.mean_abs.size()) == W.cols && stats.H.rows() == W.cols && stats.H.cols() == W.cols,
      "awq: W has ", W.cols, " channels, H ", stats.H.rows(), ", mean_abs ", stats.mean_abs.size());
  const Matrix H = whole_hessian(stats);
  Matrix D(W.rows, W.cols);
  double least = INFINITY;
  DiagonalFactor best{std::vector<float>(size_t(W.cols), 1.0f)};
  for (int i = 0; i < spec.steps; ++i) {
    const std::vector<float> s = scales_for(stats.mean_abs, double(i) / spec.steps);
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < W.rows; ++n)
      for (int64_t j = 0; j < W.cols; ++j) D(n, j) = W(n, j) * s[size_t(j)];
    fake_quantize(*input.fit.weights, D.view(), D.view());
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < W.rows; ++n)
      for (int64_t j = 0; j < W.cols; ++j) D(n, j) = W(n, j) - D(n, j) / s[size_t(j)];
    const double error = error_of(D, H);
    if (error < least) least = error, best.scale = s;
  }
  map.factors.emplace_back(std::move(best));
}

}  // namespace fp4lab
