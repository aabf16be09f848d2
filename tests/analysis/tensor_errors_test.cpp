#include "analysis/tensor_errors.h"

#include <omp.h>

#include <cstring>
#include <limits>
#include <numeric>

#include "formats/registry.h"
#include "tests/analysis/error_reference.h"

using namespace fp4lab;
using namespace fp4lab::test;

namespace {

/// Sets the number of threads, and puts it back.
struct Threads {
  int before = omp_get_max_threads();
  explicit Threads(int n) { omp_set_num_threads(n); }
  ~Threads() { omp_set_num_threads(before); }
};

constexpr FormatSpec kFloor4{kE2M1, 4, kUE8M0, {.kind = ScaleRule::floor}};

}  // namespace

TEST_CASE("tensor errors: a row worked out by hand", "[analysis][errors]") {
  // Scale 1: 7.5 saturates to 6, 1.25 is a tie that goes to 1, -0.125 is dead. Zeros. Scale 1/2: exact.
  const Matrix X = matrix_of(1, 12, {7.5f, 1.25f, -0.125f, 0, 0, 0, 0, 0, -3, 3, 0.5f, 0.5f});
  const ErrorSums s = measure_errors(X, quantize(kFloor4, X), 0.2);
  CHECK(s.elements == 12);
  CHECK(s.groups == 3);
  CHECK(s.zero_groups == 1);
  CHECK(s.energy == 76.328125);
  CHECK(s.error == 2.328125);
  CHECK(s.group_relative == 2.328125 / 57.828125);
  CHECK(s.top == 2.25);
  CHECK(s.top_relative == Approx(0.04).epsilon(1e-15));
  CHECK(s.crest == Approx(7.5 / std::sqrt(57.828125 / 4) + 3 / std::sqrt(18.5 / 4)).epsilon(1e-15));
  CHECK(s.nonzero == 7);
  CHECK(s.dead == 1);
  CHECK(s.clipped == 1);
  CHECK(s.overflowing_groups == 1);
  CHECK(s.outliers == 3);  // ceil(2.4): 7.5, -3, 3
  CHECK(s.outlier_ape == Approx(0.2).epsilon(1e-15));
  CHECK(s.outlier_se == Approx(0.04).epsilon(1e-15));
  CHECK(s.bits == 72);  // 4 + 8/4 bits
  std::vector<int64_t> histogram(320);
  histogram[160] = histogram[159] = 1;  // 2^0 and 2^-1; the zeros have no scale
  CHECK(s.scale_histogram == histogram);

  CHECK(metric("mse", s) == Approx(2.328125 / 12));
  CHECK(metric("mse_rel", s) == Approx(0.0402594 / 2).epsilon(1e-5));
  CHECK(metric("mse_rel_tensor", s) == Approx(0.0305015).epsilon(1e-5));
  CHECK(metric("mse_top", s) == Approx(1.125));
  CHECK(metric("mse_top_rel", s) == Approx(0.02));
  CHECK(metric("outlier_mape", s) == Approx(0.2 / 3));
  CHECK(metric("outlier_mse_rel", s) == Approx(0.04 / 3));
  CHECK(metric("qsnr_db", s) == Approx(15.15679).epsilon(1e-5));
  CHECK(metric("dead_zone_share", s) == Approx(1.0 / 7));
  CHECK(metric("clipped_share", s) == Approx(1.0 / 12));
  CHECK(metric("overflow_share", s) == Approx(1.0 / 3));
  CHECK(metric("crest_factor", s) == Approx((1.972521 + 1.394972) / 2).epsilon(1e-6));
  CHECK(metric("zero_group_share", s) == Approx(1.0 / 3));
  CHECK(metric("bits_per_element", s) == 6);
  CHECK(error_metrics().size() == 14);
}

TEST_CASE("tensor errors: the first of equal magnitudes is the top", "[analysis][errors]") {
  const FormatSpec f{kE2M1, 2, kFP32};
  const Matrix Y = matrix_of(1, 4, {-1, 2, 1, -2});
  const ErrorSums s = measure_errors(matrix_of(1, 4, {-2, 2, 2, -2}).view(), Y.view(), f);
  CHECK(s.top == 2);  // (-2 - -1)^2 and (2 - 1)^2
  CHECK(s.top_relative == 0.5);
  const ErrorSums t = measure_errors(matrix_of(1, 4, {-1, 1, 1, -1}).view(), Y.view(), f);
  CHECK(t.top == 0);
  CHECK(t.error == 2);
  // Far into a long group, past whole registers and in the remainder.
  for (const int64_t at : {0, 7, 8, 15, 16, 20, 36}) {
    Matrix X = Matrix::zeros(1, 37), Z = Matrix::zeros(1, 37);
    for (int64_t c = at; c < 37; ++c) X(0, c) = -4, Z(0, c) = c == at ? -3.0f : 0.0f;
    CAPTURE(at);
    CHECK(measure_errors(X.view(), Z.view(), {kE2M1, kWholeRow, kFP32}).top == 1);
  }
}

TEST_CASE("tensor errors: clipped is |x| > Qmax s in float, and any x under a zero scale",
          "[analysis][errors]") {
  const FormatSpec f{kInt4, 4, kFP32};
  const Matrix X = matrix_of(1, 8, {7, -7, 7.000001f, -7.000001f, 0, -0.0f, 1e-45f, -1});
  Scales scales;
  scales.rows = 1, scales.cols = 8;
  scales.bytes.assign(8, 0);
  const float one = 1;
  std::memcpy(scales.bytes.data(), &one, 4);
  const ErrorSums s = measure_errors(X, round(f, X, scales));
  CHECK(s.clipped == 4);  // two beyond 7, two under the scale 0
  CHECK(s.overflowing_groups == 2);
  CHECK(s.nonzero == 6);
  CHECK(s.dead == 2);
  CHECK(std::accumulate(s.scale_histogram.begin(), s.scale_histogram.end(), int64_t{0}) == 1);
  CHECK(s.scale_histogram[160] == 1);

  // Zero point 5, scale 1: -5 to 10 can be represented.
  const FormatSpec asym{*find_element("int4-asym"), 4, kFP32};
  QuantizedMatrix q = quantize(asym, matrix_of(1, 4, {-5, 10, 0, 0}));
  REQUIRE(q.scales.zero_points.size() == 1);
  REQUIRE(q.scales.zero_points[0] == 5);
  CHECK(measure_errors(matrix_of(1, 4, {-5, 10, 0, 3}), q).clipped == 0);
  CHECK(measure_errors(matrix_of(1, 4, {-5.001f, 10.001f, 0, 3}), q).clipped == 2);
}

TEST_CASE("tensor errors: every format agrees with plain loops", "[analysis][errors][formats]") {
  std::vector<std::pair<std::string, FormatSpec>> all;
  for (const FormatEntry& f : formats()) all.emplace_back(f.name, f.spec);
  all.emplace_back("per token", FormatSpec{kE2M1, 16, kE4M3, {}, {TensorScale::per_token}});
  for (const int g : {2, 4, 10, 20, 64}) all.emplace_back(str("g", g), FormatSpec{kE2M1, g, kFP32});
  for (const auto& [name, f] : all) {
    DYNAMIC_SECTION(name) {
      const Matrix X = random_matrix(37, 1280, 11);
      const QuantizedMatrix q = quantize(f, X);
      Matrix Y(X.rows(), X.cols());
      dequantize(q, Y);
      for (const double share : {0.001, 0.3}) {
        const ErrorSums expected = plain_loops(X, Y, f, &q, share);
        CHECK(expected.error > 0);
        CHECK(expected.dead > 0);
        check_equal(measure_errors(X, q, share), expected, 1e-12);
        check_equal(measure_errors(X.view(), Y.view(), f, share), plain_loops(X, Y, f, nullptr, share),
                    1e-12);
      }
    }
  }
}

TEST_CASE("tensor errors: whole rows, single elements of a tile, strided views", "[analysis][errors]") {
  const FormatSpec row{kInt4, kWholeRow, kFP32};
  for (const int64_t cols : {1, 3, 7, 8, 9, 37, 20000}) {
    const Matrix X = random_matrix(3, cols, uint64_t(cols));
    const QuantizedMatrix q = quantize(row, X);
    Matrix Y(3, cols);
    dequantize(q, Y);
    CAPTURE(cols);
    check_equal(measure_errors(X, q), plain_loops(X, Y, row, &q, 0.001), 1e-12);
  }
  const Matrix wide = random_matrix(6, 64, 5), other = random_matrix(6, 96, 6);
  const MatrixView<const float> X{wide.data() + 3, 6, 32, 64}, Y{other.data() + 5, 6, 32, 96};
  check_equal(measure_errors(X, Y, kMxfp4), plain_loops(X, Y, kMxfp4, nullptr, 0.001), 1e-12);
}

TEST_CASE("tensor errors: sums run in the documented order, for any number of threads",
          "[analysis][errors]") {
  // Tall enough for several blocks of rows.
  const Matrix X = random_matrix(9000, 40, 21);
  const FormatSpec f{kE2M1, 20, kE4M3, {}, {TensorScale::dynamic}};
  const QuantizedMatrix q = quantize(f, X);
  Matrix Y(X.rows(), X.cols());
  dequantize(q, Y);
  double energy = 0, error = 0;
  for (int64_t r = 0; r < X.rows(); ++r) {
    double row_energy = 0, row_error = 0;
    for (int64_t k = 0; k < 2; ++k) {
      double e[8] = {}, d[8] = {};
      for (int64_t i = 0; i < 20; ++i) {
        const double x = X(r, 20 * k + i), miss = x - double(Y(r, 20 * k + i));
        e[i % 8] += x * x, d[i % 8] += miss * miss;
      }
      for (int half = 4; half >= 1; half /= 2)
        for (int l = 0; l < half; ++l) e[l] += e[l + half], d[l] += d[l + half];
      row_energy += e[0], row_error += d[0];
    }
    energy += row_energy, error += row_error;
  }
  ErrorSums one;
  {
    const Threads threads(1);
    one = measure_errors(X, q);
  }
  CHECK(one.energy == energy);
  CHECK(one.error == error);
  for (const int n : {2, 3, 8}) {
    const Threads threads(n);
    CAPTURE(n);
    check_equal(measure_errors(X, q), one, 0);
    check_equal(measure_errors(X.view(), Y.view(), f), measure_errors(X.view(), Y.view(), f), 0);
  }
}

TEST_CASE("tensor errors: zeros, subnormals and exact reconstructions", "[analysis][errors]") {
  const Matrix zeros = Matrix::zeros(2, 32);
  const ErrorSums z = measure_errors(zeros, quantize(kMxfp4, zeros));
  CHECK(z.zero_groups == 2);
  CHECK(z.outliers == 0);
  CHECK(z.clipped == 0);
  CHECK(std::count(z.scale_histogram.begin(), z.scale_histogram.end(), 0) == 320);
  for (const char* undefined : {"mse_rel", "mse_rel_tensor", "mse_top", "mse_top_rel", "outlier_mape",
                                "outlier_mse_rel", "qsnr_db", "dead_zone_share", "crest_factor"}) {
    CAPTURE(undefined);
    CHECK(std::isnan(metric(undefined, z)));
  }
  CHECK(metric("mse", z) == 0);
  CHECK(metric("zero_group_share", z) == 1);
  CHECK(std::isnan(metric("mse", ErrorSums{})));

  Matrix tiny = Matrix::zeros(1, 32);
  tiny(0, 5) = -0x1p-149f;
  const ErrorSums t = measure_errors(tiny.view(), zeros.view().middle_rows(0, 1), kMxfp4);
  CHECK(t.zero_groups == 0);
  CHECK(t.energy == 0x1p-298);
  CHECK(t.group_relative == 1);
  CHECK(t.top_relative == 1);
  CHECK(t.crest == Approx(std::sqrt(32.0)).epsilon(1e-15));
  CHECK(t.outlier_ape == 1);

  // The smallest scale of all lands in its bin: 2^-149.
  Matrix four = Matrix::zeros(1, 4);
  four(0, 0) = 7 * 0x1p-149f;
  CHECK(measure_errors(four, quantize({kInt4, 4, kFP32}, four)).scale_histogram[160 - 149] == 1);

  const Matrix X = random_matrix(4, 32, 1);
  const ErrorSums exact = measure_errors(X.view(), X.view(), kMxfp4);
  CHECK(exact.error == 0);
  CHECK(metric("qsnr_db", exact) == std::numeric_limits<double>::infinity());
  const Matrix empty(0, 32);
  CHECK(measure_errors(empty.view(), empty.view(), kMxfp4).elements == 0);
}

TEST_CASE("tensor errors: sums of tensors add up; shapes are checked", "[analysis][errors]") {
  const Matrix A = random_matrix(3, 64, 1), B = random_matrix(5, 32, 2);
  const ErrorSums a = measure_errors(A, quantize(kMxfp4, A)), b = measure_errors(B, quantize(kNvfp4, B));
  ErrorSums sum;  // its histogram is empty
  sum += a;
  check_equal(sum, a, 0);
  sum += b;
  for (const Field& f : kFields) {
    CAPTURE(f.name);
    if (f.count) CHECK(sum.*f.count == a.*f.count + b.*f.count);
    if (f.real) CHECK(sum.*f.real == a.*f.real + b.*f.real);
  }
  for (size_t i = 0; i < 320; ++i)
    CHECK(sum.scale_histogram[i] == a.scale_histogram[i] + b.scale_histogram[i]);
  CHECK(metric("bits_per_element", sum) == Approx((192 * 4.25 + 160 * 4.5) / 352));
  CHECK_THROWS_AS(measure_errors(A, quantize(kMxfp4, B)), Fault);
  CHECK_THROWS_AS(measure_errors(A.view(), B.view(), kMxfp4), Fault);
  CHECK_THROWS_AS(measure_errors(B.view(), B.view(), {kE2M1, 64, kFP32}), Fault);
}
