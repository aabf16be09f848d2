// What a format needs from the whole matrix before its groups can be coded: tensor scales and fitted
// exponents.
#include <algorithm>
#include <cmath>

#include "formats/group_coder.h"

namespace fp4lab {

namespace {

/// Largest magnitude of every row; DataError for the first NaN or Inf.
std::vector<float> row_amax(MatrixView<const float> X) {
  std::vector<uint32_t> bits(size_t(X.rows));
  const RowKernels& kernels = row_kernels();
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < X.rows; ++i) {
    // From the last row to the first: whoever quantizes next begins with rows that are still in the cache.
    const int64_t r = X.rows - 1 - i;
    bits[size_t(r)] = kernels.max_magnitude(X.row(r), X.cols);
  }
  std::vector<float> amax(size_t(X.rows));
  for (int64_t r = 0; r < X.rows; ++r) {
    if (bits[size_t(r)] >= 0x7f800000u) report_nonfinite(X, r);
    amax[size_t(r)] = bits_float(bits[size_t(r)]);
  }
  return amax;
}

/// SPEC "fitted": a and b from the smallest and the largest group scale m/Qmax, m > 0.
std::vector<float> fitted_factors(const FormatSpec& format, MatrixView<const float> X) {
  const int64_t g = format.group(X.cols), groups = format.groups(X.cols);
  std::vector<float> low(size_t(X.rows)), high(size_t(X.rows));
  const RowKernels& kernels = row_kernels();
#pragma omp parallel
  {
    std::vector<float> amax(static_cast<size_t>(groups));
#pragma omp for schedule(static)
    for (int64_t r = 0; r < X.rows; ++r) {
      kernels.group_amax(X.row(r), groups, g, amax.data());
      float lo = INFINITY, hi = 0;
      for (float m : amax) {
        if (m > 0) lo = std::min(lo, m);
        hi = std::max(hi, m);
      }
      low[size_t(r)] = lo, high[size_t(r)] = hi;
    }
  }
  const float smallest = X.rows ? *std::min_element(low.begin(), low.end()) : INFINITY;
  const float largest = X.rows ? *std::max_element(high.begin(), high.end()) : 0;
  if (largest == 0) return {0.0f, 0.0f};
  // A denormal m / Qmax may round to 0, which has no logarithm: the smallest float stands in.
  const double bottom = std::log2(double(std::max(smallest / format.element.scale_max, 0x1p-149f)));
  const double top = std::log2(double(std::max(largest / format.element.scale_max, 0x1p-149f)));
  return {float((top - bottom) / 255), float(bottom)};
}

}  // namespace

void report_nonfinite(MatrixView<const float> X, int64_t row) {
  for (int64_t c = 0; c < X.cols; ++c)
    if (!std::isfinite(X(row, c)))
      throw DataError(str("row ", row, ", column ", c, " is ",
                          std::isnan(X(row, c)) ? "NaN"
                          : X(row, c) > 0       ? "Inf"
                                                : "-Inf"));
  FP4LAB_CHECK(false, "row ", row, " has no NaN or Inf");
  std::abort();
}

float tensor_scale_divisor(const FormatSpec& format) {
  if (format.rule.kind == ScaleRule::four_over_six) return 256.0f * format.element.scale_max;
  return format.scale.max * format.element.scale_max;
}

std::vector<float> tensor_factors(const FormatSpec& format, const WeightScales& search,
                                  MatrixView<const float> X) {
  FormatSpec f = format;
  if (search.kind == WeightScales::replace) f.rule = search.replacement;
  if (f.rule.kind == ScaleRule::fpq) return {2.0f / f.element.scale_max};
  if (f.tensor_scale.mode == TensorScale::none && f.rule.kind != ScaleRule::fitted) return {};
  if (f.tensor_scale.mode == TensorScale::fixed) return {f.tensor_scale.value};
  const std::vector<float> amax = row_amax(X);
  if (f.rule.kind == ScaleRule::fitted) return fitted_factors(f, X);
  // amax = 0 gives 1: any positive number would do, every group scale is 0.
  auto scale_for = [&](float m) { return m > 0 ? m / tensor_scale_divisor(f) : 1.0f; };
  if (f.tensor_scale.mode == TensorScale::per_token) {
    std::vector<float> factors;
    for (float m : amax) factors.push_back(scale_for(m));
    return factors;
  }
  const float first = scale_for(amax.empty() ? 0.0f : *std::max_element(amax.begin(), amax.end()));
  return {search.kind == WeightScales::alternate ? alternate_tensor_scale(format, X, first) : first};
}

float alternate_tensor_scale(const FormatSpec& format, MatrixView<const float> X, float first) {
  const int64_t g = format.group(X.cols), groups = format.groups(X.cols);
  const WeightScales sweep{WeightScales::alternate, {}};
  const RowKernels& kernels = row_kernels();
  float s_t = first, best_s_t = first;
  double best_error = INFINITY;
  for (int round = 0; round < 15; ++round) {
    // With s_T fixed: the best stored s_G of each group. With s_G and the codes fixed, u = s_G q:
    // s_T = sum x u / sum u^2 minimises sum (x - s_T u)^2.
    const GroupCoder coder(format, sweep, X.cols, {s_t});
    std::vector<double> error(size_t(X.rows)), xu(size_t(X.rows)), uu(size_t(X.rows));
#pragma omp parallel
    {
      GroupScratch scratch(groups, coder.candidates_per_group());
      std::vector<uint8_t> bytes(static_cast<size_t>(groups));
      std::vector<float> effective(static_cast<size_t>(groups)), value(static_cast<size_t>(X.cols));
#pragma omp for schedule(static)
      for (int64_t r = 0; r < X.rows; ++r) {
        coder.choose(X.row(r), r, groups, bytes.data(), nullptr, effective.data(), scratch);
        kernels.fake(format.element, X.row(r), effective.data(), nullptr, groups, g, value.data());
        double e = 0, p = 0, q = 0;
        for (int64_t c = 0; c < X.cols; ++c) {
          const double x = double(X(r, c)), v = double(value[size_t(c)]), u = v / double(s_t);
          e += (x - v) * (x - v), p += x * u, q += u * u;
        }
        error[size_t(r)] = e, xu[size_t(r)] = p, uu[size_t(r)] = q;
      }
    }
    double e = 0, p = 0, q = 0;
    for (size_t r = 0; r < size_t(X.rows); ++r) e += error[r], p += xu[r], q += uu[r];
    const double previous = best_error;
    if (e < best_error) best_error = e, best_s_t = s_t;
    if (!(p > 0 && q > 0) || e == 0 || !(previous - e >= 1e-3 * e)) break;
    s_t = float(p / q);
  }
  return best_s_t;
}

}  // namespace fp4lab
