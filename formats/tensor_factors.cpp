// What a format needs from the whole matrix before its groups can be coded: tensor scales and fitted
// exponents.
#include <algorithm>
#include <cmath>

#include "formats/group_coder.h"

namespace fp4lab {

namespace {

/// amax of every group, (rows, groups), and of every row; DataError for the first NaN or Inf.
struct Magnitudes {
  Floats groups;
  std::vector<float> rows;
};
Magnitudes magnitudes(const FormatSpec& format, MatrixView<const float> X) {
  const int64_t g = format.group(X.cols), groups = format.groups(X.cols);
  Magnitudes m{Floats(size_t(X.rows * groups)), std::vector<float>(size_t(X.rows))};
  std::vector<uint32_t> bits(size_t(X.rows));
  const RowKernels& kernels = row_kernels();
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < X.rows; ++r) {
    kernels.group_amax(X.row(r), groups, g, m.groups.data() + r * groups);
    bits[size_t(r)] = kernels.max_magnitude(m.groups.data() + r * groups, groups);
  }
  for (int64_t r = 0; r < X.rows; ++r) {
    if (bits[size_t(r)] >= 0x7f800000u) report_nonfinite(X, r);
    m.rows[size_t(r)] = bits_float(bits[size_t(r)]);
  }
  return m;
}

/// SPEC "fitted": a and b from the smallest and the largest group scale m/Qmax, m > 0.
std::vector<float> fitted_factors(const FormatSpec& format, const Magnitudes& m) {
  float smallest = INFINITY, largest = 0;
  for (const float amax : m.groups) {
    if (amax > 0) smallest = std::min(smallest, amax);
    largest = std::max(largest, amax);
  }
  return fitted_factors(format, smallest, largest);
}

}  // namespace

void report_nonfinite(MatrixView<const float> X, int64_t row) {
  report_nonfinite(std::span<const float>(X.row(row), size_t(X.cols)), row);
}

void report_nonfinite(std::span<const float> values, int64_t row) {
  for (size_t c = 0; c < values.size(); ++c)
    if (!std::isfinite(values[c]))
      throw DataError(str("row ", row, ", column ", c, " is ",
                          std::isnan(values[c]) ? "NaN"
                          : values[c] > 0       ? "Inf"
                                                : "-Inf"));
  FP4LAB_CHECK(false, "row ", row, " has no NaN or Inf");
  std::abort();
}

float tensor_scale_divisor(const FormatSpec& format) {
  if (format.rule.kind == ScaleRule::four_over_six) return 256.0f * format.element.scale_max;
  return format.scale.max * format.element.scale_max;
}

float tensor_scale_for(const FormatSpec& format, float amax) {
  // amax = 0 gives 1: any positive number would do, every group scale is 0.
  return amax > 0 ? amax / tensor_scale_divisor(format) : 1.0f;
}

std::vector<float> tensor_factors(const FormatSpec& format, const WeightScales& search,
                                  MatrixView<const float> X, Floats* group_amax) {
  FormatSpec f = format;
  if (search.kind == WeightScales::replace) f.rule = search.replacement;
  if (f.rule.kind == ScaleRule::fpq) return {2.0f / f.element.scale_max};
  if (f.tensor_scale.mode == TensorScale::none && f.rule.kind != ScaleRule::fitted) return {};
  if (f.tensor_scale.mode == TensorScale::fixed) return {f.tensor_scale.value};
  Magnitudes m = magnitudes(f, X);
  const std::vector<float>& amax = m.rows;
  const std::vector<float> fitted =
      f.rule.kind == ScaleRule::fitted ? fitted_factors(f, m) : std::vector<float>{};
  if (group_amax) *group_amax = std::move(m.groups);
  if (f.rule.kind == ScaleRule::fitted) return fitted;
  if (f.tensor_scale.mode == TensorScale::per_token) {
    std::vector<float> factors;
    for (float a : amax) factors.push_back(tensor_scale_for(f, a));
    return factors;
  }
  const float first = tensor_scale_for(f, amax.empty() ? 0.0f : *std::max_element(amax.begin(), amax.end()));
  return {search.kind == WeightScales::alternate ? alternate_tensor_scale(format, X, first) : first};
}

float alternate_tensor_scale(float first, const std::function<AlternateSums(float s_t)>& sums) {
  float s_t = first, best_s_t = first;
  double best_error = INFINITY;
  for (int round = 0; round < 15; ++round) {
    // With s_T fixed: the best stored s_G of each group. With s_G and the codes fixed, u = s_G q:
    // s_T = sum x u / sum u^2 minimises sum (x - s_T u)^2.
    const auto [e, p, q] = sums(s_t);
    const double previous = best_error;
    if (e < best_error) best_error = e, best_s_t = s_t;
    if (!(p > 0 && q > 0) || e == 0 || !(previous - e >= 1e-3 * e)) break;
    s_t = float(p / q);
  }
  return best_s_t;
}

float alternate_tensor_scale(const FormatSpec& format, MatrixView<const float> X, float first) {
  const int64_t g = format.group(X.cols), groups = format.groups(X.cols);
  const WeightScales sweep{WeightScales::alternate, {}};
  const RowKernels& kernels = row_kernels();
  return alternate_tensor_scale(first, [&](float s_t) {
    const GroupCoder coder(format, sweep, X.cols, {s_t});
    std::vector<AlternateSums> rows(size_t(X.rows));
#pragma omp parallel
    {
      GroupScratch scratch(groups, coder.candidates_per_group());
      std::vector<uint8_t> bytes(static_cast<size_t>(groups));
      std::vector<float> effective(static_cast<size_t>(groups)), value(static_cast<size_t>(X.cols));
#pragma omp for schedule(static)
      for (int64_t r = 0; r < X.rows; ++r) {
        coder.choose(X.row(r), r, groups, nullptr, bytes.data(), nullptr, effective.data(), scratch);
        kernels.fake(format.element, X.row(r), effective.data(), nullptr, groups, g, value.data(), X.row(r));
        AlternateSums s;
        for (int64_t c = 0; c < X.cols; ++c) {
          const double x = double(X(r, c)), v = double(value[size_t(c)]), u = v / double(s_t);
          s.error += (x - v) * (x - v), s.xu += x * u, s.uu += u * u;
        }
        rows[size_t(r)] = s;
      }
    }
    AlternateSums all;
    for (const AlternateSums& s : rows) all.error += s.error, all.xu += s.xu, all.uu += s.uu;
    return all;
  });
}

}  // namespace fp4lab
