// tests/analysis/error_reference.h - inputs for the error metrics, and SPEC section 7 as plain loops to
// compare with.
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>
#include <vector>

#include "analysis/tensor_errors.h"
#include "core/random.h"
#include "tests/catch.h"

namespace fp4lab::test {

inline Matrix matrix_of(int64_t rows, int64_t cols, const std::vector<float>& values) {
  Matrix m(rows, cols);
  REQUIRE(int64_t(values.size()) == m.size());
  std::copy(values.begin(), values.end(), m.data());
  return m;
}

/// Normal numbers whose scale differs by group of 16, with groups of zeros, tied magnitudes and subnormals.
inline Matrix random_matrix(int64_t rows, int64_t cols, uint64_t seed) {
  const Stream numbers(seed, "test/tensor_errors");
  Matrix m(rows, cols);
  for (int64_t i = 0; i < m.size(); ++i) {
    const auto z = normal_pair(numbers.block(uint64_t(i)));
    const int kind = int(numbers.below(uint64_t(i / 16), 12));
    float x = float(z[0] * std::exp2(kind - 6));
    if (kind == 0) x = 0;
    if (kind == 1) x = float(z[0]) * 0x1p-140f;
    if (kind == 2) x = std::nearbyint(float(z[0]) * 2) / 2;
    m.data()[i] = x;
  }
  return m;
}

struct Field {
  const char* name;
  double ErrorSums::*real;
  int64_t ErrorSums::*count;
};
inline const Field kFields[] = {{"elements", nullptr, &ErrorSums::elements},
                                {"groups", nullptr, &ErrorSums::groups},
                                {"zero_groups", nullptr, &ErrorSums::zero_groups},
                                {"nonzero", nullptr, &ErrorSums::nonzero},
                                {"dead", nullptr, &ErrorSums::dead},
                                {"clipped", nullptr, &ErrorSums::clipped},
                                {"overflowing_groups", nullptr, &ErrorSums::overflowing_groups},
                                {"outliers", nullptr, &ErrorSums::outliers},
                                {"energy", &ErrorSums::energy, nullptr},
                                {"error", &ErrorSums::error, nullptr},
                                {"group_relative", &ErrorSums::group_relative, nullptr},
                                {"top", &ErrorSums::top, nullptr},
                                {"top_relative", &ErrorSums::top_relative, nullptr},
                                {"crest", &ErrorSums::crest, nullptr},
                                {"outlier_ape", &ErrorSums::outlier_ape, nullptr},
                                {"outlier_se", &ErrorSums::outlier_se, nullptr},
                                {"bits", &ErrorSums::bits, nullptr}};

/// Counts equal; sums within `relative` (0: the same bits).
inline void check_equal(const ErrorSums& a, const ErrorSums& b, double relative) {
  for (const Field& f : kFields) {
    CAPTURE(f.name);
    if (f.count) {
      CHECK(a.*f.count == b.*f.count);
    } else {
      CAPTURE(a.*f.real, b.*f.real);
      CHECK(std::fabs(a.*f.real - b.*f.real) <= relative * std::fabs(b.*f.real));
    }
  }
  CHECK(a.scale_histogram == b.scale_histogram);
}

/// SPEC section 7 as plain loops. `q` null: no clipping, no histogram.
inline ErrorSums plain_loops(MatrixView<const float> X, MatrixView<const float> Y, const FormatSpec& f,
                             const QuantizedMatrix* q, double share) {
  ErrorSums s;
  s.scale_histogram.assign(320, 0);
  const int64_t g = f.group(X.cols), groups = f.groups(X.cols);
  std::vector<float> scales(static_cast<size_t>(groups));
  std::vector<std::array<double, 2>> all;  // |x|, |x - x^| in row-major order
  for (int64_t r = 0; r < X.rows; ++r) {
    if (q) effective_scales(*q, r, scales.data());
    for (int64_t k = 0; k < groups; ++k) {
      double energy = 0, error = 0, top = -1, top_error = 0;
      bool overflows = false;
      for (int64_t c = k * g; c < (k + 1) * g; ++c) {
        const double x = X(r, c), e = x - Y(r, c);
        energy += x * x, error += e * e;
        if (std::fabs(x) > top) top = std::fabs(x), top_error = e;
        s.elements += 1, s.nonzero += x != 0, s.dead += x != 0 && Y(r, c) == 0;
        all.push_back({std::fabs(x), std::fabs(e)});
        if (!q) continue;
        bool clipped = std::fabs(X(r, c)) > f.element.scale_max * scales[size_t(k)];
        if (f.element.kind == ElementKind::int_asym) {
          const int z = q->scales.zero_points[size_t(r * groups + k)], high = (1 << f.element.bits) - 1;
          clipped = X(r, c) < float(-z) * scales[size_t(k)] || X(r, c) > float(high - z) * scales[size_t(k)];
        }
        s.clipped += clipped;
        overflows = overflows || clipped;
      }
      s.groups += 1, s.overflowing_groups += overflows;
      s.energy += energy, s.error += error;
      s.zero_groups += top == 0;
      if (top == 0) continue;
      s.group_relative += error / energy;
      s.top += top_error * top_error, s.top_relative += top_error * top_error / (top * top);
      s.crest += top / std::sqrt(energy / double(g));
      if (q && scales[size_t(k)] > 0) s.scale_histogram[size_t(std::ilogb(scales[size_t(k)]) + 160)] += 1;
    }
  }
  std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a[0] > b[0]; });
  all.resize(size_t(std::ceil(share * double(all.size()) - 1e-9)));
  for (const auto& [x, e] : all) {
    if (x == 0) continue;
    s.outliers += 1, s.outlier_ape += e / x, s.outlier_se += e * e / (x * x);
  }
  s.bits = double(s.elements) * bits_per_element(f, X.cols);
  return s;
}

inline double metric(std::string_view name, const ErrorSums& s) {
  for (const ErrorMetric& m : error_metrics())
    if (m.name == name) return m.value(s);
  FAIL("no metric " << name);
  return 0;
}

}  // namespace fp4lab::test
