// SPEC section 8: relative MSE of iid blocks, each row of the table composed as a FormatSpec.
#include <cmath>

#include "analysis/tensor_errors.h"
#include "experiments/sources/synthetic.h"
#include "tests/catch.h"

using namespace fp4lab;

namespace {

constexpr int64_t kRows = 4096, kCols = 512;  // 2M samples

Matrix samples(const char* distribution, double sigma, int64_t group) {
  const SyntheticSpec spec{find_distribution(distribution), 5, kRows, kCols, sigma, group};
  Matrix X(kRows, kCols);
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < kRows; ++r) synthetic_row(spec, 1, r, {X.row(r), size_t(kCols)});
  return X;
}

double mse_rel_tensor(const FormatSpec& f, MatrixView<const float> X) {
  const ErrorSums s = measure_errors(X, quantize(f, X));
  return s.error / s.energy;
}

struct Row {
  const char* name;
  FormatSpec format;   // its group size is set by the column
  double expected[4];  // Normal G16, Normal G32, Laplace G16, Laplace G32
};
constexpr TensorScale kDynamic{TensorScale::dynamic};
const Row kTable[] = {
    {"e2m1 FP32 absmax", {kE2M1, 0, kFP32}, {.00886, .01022, .00832, .01051}},
    {"nvfp4-like E4M3 absmax", {kE2M1, 0, kE4M3, {}, kDynamic}, {.00904, .01033, .00859, .01070}},
    {"4-over-6",
     {kE2M1, 0, kE4M3, {.kind = ScaleRule::four_over_six}, kDynamic},
     {.00756, .00937, .00760, .01017}},
    {"E4M3 sweep [-3,+7]",
     {kE2M1, 0, kE4M3, {.kind = ScaleRule::sweep, .lo = -3, .hi = 7}, kDynamic},
     {.00660, .00826, .00680, .00910}},
    {"nvint4-like", {kInt4, 0, kE4M3, {}, kDynamic}, {.00745, .00952, .01052, .01485}},
    {"E8M0 floor", {kE2M1, 0, kUE8M0, {.kind = ScaleRule::floor}}, {.01370, .01335, .01563, .01596}},
    {"E8M0 ceil", {kE2M1, 0, kUE8M0, {.kind = ScaleRule::ceil}}, {.01285, .01367, .01518, .01749}},
    {"E8M0 fpq", {kE2M1, 0, kUE8M0, {.kind = ScaleRule::fpq}}, {.01285, .01367, .01518, .01749}},
    {"E8M0 even", {kE2M1, 0, kUE8M0, {.kind = ScaleRule::even}}, {.01208, .01261, .01372, .01531}},
    {"E8M0 best of two",
     {kE2M1, 0, kUE8M0, {.kind = ScaleRule::search, .k = 2}},
     {.01204, .01250, .01362, .01501}},
    {"E8M0 best of three",
     {kE2M1, 0, kUE8M0, {.kind = ScaleRule::search, .k = 3}},
     {.01204, .01250, .01362, .01501}},
};

}  // namespace

TEST_CASE("relative MSE of iid blocks is the specification's, within 1 %", "[formats][spec]") {
  int column = 0;
  for (const char* distribution : {"normal", "laplace"})
    for (const int group : {16, 32}) {
      // Power-of-two scales see a uniform phase only when the groups differ in scale.
      const Matrix one_scale = samples(distribution, 0, group), spread = samples(distribution, 0.5, group);
      for (const Row& row : kTable) {
        FormatSpec f = row.format;
        f.group_size = group;
        const double found = mse_rel_tensor(f, f.scale == kUE8M0 ? spread : one_scale);
        const double expected = row.expected[column];
        CAPTURE(row.name, distribution, group, found, expected, 100 * (found / expected - 1));
        CHECK(std::fabs(found / expected - 1) <= 0.01);
      }
      ++column;
    }
}
