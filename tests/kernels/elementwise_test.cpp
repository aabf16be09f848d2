#include "kernels/cpu/elementwise.h"

#include <omp.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#include "core/random.h"
#include "tests/catch.h"
#include "tests/kernels/faults.h"

using namespace fp4lab;
using namespace fp4lab::test;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();
constexpr double kUnit = 0x1p-24;  // half a unit in the last place: the relative error of one rounding

Matrix normal(int64_t rows, int64_t cols, uint64_t seed, float size = 1) {
  Matrix m(rows, cols);
  const Stream stream(seed, "elementwise test");
  for (int64_t i = 0; i < m.size(); ++i)
    m.data()[i] = size * float(normal_pair(stream.block(uint64_t(i)))[0]);
  return m;
}

bool same_bits(const Matrix& a, const Matrix& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), size_t(a.size()) * sizeof(float)) == 0;
}

/// The columns [first, first + count).
template <class T>
MatrixView<T> columns(MatrixView<T> X, int64_t first, int64_t count) {
  return {X.data + first, X.rows, count, X.stride};
}

/// What `make` returns is the same with 1, 2 and 3 threads.
void check_threads(const std::function<Matrix()>& make) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  const Matrix want = make();
  for (int threads : {2, 3}) {
    omp_set_num_threads(threads);
    CHECK(same_bits(make(), want));
  }
  omp_set_num_threads(before);
}

}  // namespace

TEST_CASE("elementwise: rms_norm against its formula", "[kernels][elementwise]") {
  // Three roundings beside the sum, which is in double: root, quotient, product.
  const double bound = 3 * kUnit + 1e-12;
  for (int64_t n : {1, 3, 15, 16, 17, 31, 32, 64, 100, 16384})
    for (int64_t runs : {1, 3})
      for (float size : {1.0f, 1e-18f, 1e18f, 1e38f}) {
        const int64_t rows = 4;
        Matrix wide = normal(rows, n * runs + 2, 81, size), out = Matrix::zeros(rows, n * runs + 2);
        const MatrixView<float> X = columns(wide.view(), 1, n * runs), Y = columns(out.view(), 1, n * runs);
        for (int64_t t = 0; t < rows; ++t)
          for (int64_t c = 0; c < X.cols; ++c) X(t, c) = std::max(-3e38f, std::min(3e38f, X(t, c)));
        const Matrix weight = normal(1, n, 82);
        const std::span<const float> w(weight.data(), size_t(n));
        rms_norm(X, w, 1e-5f, Y);
        double worst = 0;
        for (int64_t t = 0; t < rows; ++t) {
          for (int64_t c = 0; c < X.cols; c += n) {
            long double sum = 0;
            for (int64_t i = c; i < c + n; ++i) sum += (long double)(X(t, i)) * X(t, i);
            const long double root = std::sqrt(sum / (long double)(n) + (long double)(1e-5f));
            for (int64_t i = 0; i < n; ++i) {
              const long double want = X(t, c + i) / root * weight(0, i);
              worst = std::max(worst, double(std::fabs((Y(t, c + i) - want) / want)));
            }
          }
          CHECK((out(t, 0) == 0 && out(t, n * runs + 1) == 0));
        }
        CAPTURE(n, runs, size, worst / kUnit);
        CHECK(worst <= bound);
        rms_norm(X, w, 1e-5f, X);  // in place
        for (int64_t t = 0; t < rows; ++t)
          CHECK(std::memcmp(X.row(t), Y.row(t), size_t(X.cols) * sizeof(float)) == 0);
      }
}

TEST_CASE("elementwise: rms_norm by hand, of zeros, and around a NaN", "[kernels][elementwise]") {
  Matrix X = Matrix::zeros(2, 4);
  const float row[] = {3, 4, 0, 0};
  std::copy_n(row, 4, X.row(0));
  const float weight[] = {1, 10}, all[] = {1, 2, 3, 4};
  rms_norm(X, weight, 12.5f, X);  // runs (3, 4): mean 12.5, and 12.5 more: root 5; and (0, 0)
  CHECK((X(0, 0) == 0.6f && X(0, 1) == 8.0f && X(0, 2) == 0 && X(1, 0) == 0 && X(1, 3) == 0));
  Matrix Y = normal(2, 8, 83);
  Y(1, 5) = kNan;
  rms_norm(Y, all, 0, Y);
  for (int64_t i = 0; i < 16; ++i) CHECK(std::isnan(Y.data()[i]) == (i >= 12));
  check_threads([] {
    Matrix Z = normal(70, 512, 84);
    const std::vector<float> w(64, 1.1f);
    rms_norm(Z, w, 1e-6f, Z);
    return Z;
  });
  CHECK(contains(fault_of([&] { rms_norm(Y, std::span(all).first(3), 0, Y); }), "8 columns, 3 weights"));
  CHECK(contains(fault_of([&] { rms_norm(Y, {}, 0, Y); }), "0 weights"));
  CHECK(contains(fault_of([&] { rms_norm(Y, all, 0, X); }), "X (2, 8), out (2, 4)"));
}

TEST_CASE("elementwise: rope turns pairs half a head apart", "[kernels][elementwise]") {
  Matrix table(2, 4);  // position 0: no turn, position 1: a quarter turn of pair 0, a half turn of pair 1
  const float angles[] = {1, 1, 0, 0, 0, -1, 1, 0};
  std::copy_n(angles, 8, table.data());
  Matrix X(3, 8);
  for (int64_t i = 0; i < 24; ++i) X.data()[i] = float(i + 1);
  rope(X, 4, table, 2);
  const float want[] = {1,   2,   3,  4,   5,   6,   7,  8,    // position 0
                        -11, -10, 9,  -12, -15, -14, 13, -16,  // (9, 11) -> (-11, 9), (10, 12) -> (-10, -12)
                        17,  18,  19, 20,  21,  22,  23, 24};  // position 0 again
  for (int64_t i = 0; i < 24; ++i) CHECK(X.data()[i] == want[i]);
}

TEST_CASE("elementwise: rope against its formula", "[kernels][elementwise]") {
  for (int64_t d : {2, 6, 16, 64, 128, 130}) {
    const int64_t length = 5, rows = 13, cols = 3 * d;
    Matrix table(length + 2, d), wide = normal(rows, cols + 1, 85);
    for (int64_t t = 0; t < table.rows(); ++t)
      for (int64_t i = 0; i < d / 2; ++i) {
        const double angle = double(t) * std::pow(100.0, -2.0 * double(i) / double(d));
        table(t, i) = float(std::cos(angle)), table(t, i + d / 2) = float(std::sin(angle));
      }
    const Matrix before = wide.clone();
    rope(columns(wide.view(), 0, cols), d, table, length);
    for (int64_t t = 0; t < rows; ++t) {
      for (int64_t c = 0; c < cols; ++c) {
        const int64_t i = c % d % (d / 2), pair = c / d * d + i;
        const double cosine = double(table(t % length, i)), sine = double(table(t % length, i + d / 2));
        const double a = double(before(t, pair)), b = double(before(t, pair + d / 2));
        const double x = c % d < d / 2 ? a * cosine : b * cosine, y = c % d < d / 2 ? -b * sine : a * sine;
        CAPTURE(d, t, c);  // two products and a sum: each is rounded once
        CHECK(std::fabs(double(wide(t, c)) - (x + y)) <= 2 * kUnit * (std::fabs(x) + std::fabs(y)) + 1e-40);
      }
      CHECK(wide(t, cols) == before(t, cols));
    }
    check_threads([&] {
      Matrix Y = normal(300, cols, 86);
      rope(Y, d, table, length);
      return Y;
    });
  }
  Matrix X(2, 12), table(3, 4);
  CHECK(contains(fault_of([&] { rope(X, 8, table, 3); }), "12 columns, heads of 8"));
  CHECK(contains(fault_of([&] { rope(X, 3, table, 3); }), "heads of 3"));
  CHECK(contains(fault_of([&] { rope(X, 4, table, 4); }), "table (3, 4), length 4"));
  CHECK(contains(fault_of([&] { rope(X, 2, table, 3); }), "table (3, 4), length 3, heads of 2"));
}

TEST_CASE("elementwise: swiglu against its formula", "[kernels][elementwise]") {
  // exp is within 1 ulp = 2 units, and the sum, the quotient and the product are rounded once each. Every
  // 4099th float; gates below -87 underflow and are tried apart.
  std::vector<float> gates;
  for (uint32_t bits = 0x00800000u; bits < 0x7e000000u; bits += 4099)
    for (uint32_t sign : {0u, 0x80000000u})
      if (const float g = bits_float(sign | bits); g > -87) gates.push_back(g);
  const int64_t n = int64_t(gates.size());
  Matrix gate_up(1, 2 * n), out(1, n);
  for (int64_t i = 0; i < n; ++i) gate_up(0, i) = gates[size_t(i)], gate_up(0, n + i) = i % 2 ? 1.5f : -0.75f;
  swiglu(gate_up, out);
  double worst = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double g = double(gates[size_t(i)]);
    const double want = g / (1 + std::exp(-g)) * double(gate_up(0, n + i));
    if (std::fabs(want) > 0x1p-125) worst = std::max(worst, std::fabs(double(out(0, i)) / want - 1));
  }
  CAPTURE(worst / kUnit);
  CHECK(worst <= 5 * kUnit);
  CHECK(worst >= 0.9 * kUnit);
}

TEST_CASE("elementwise: swiglu at every width, at its ends, and for any threads", "[kernels][elementwise]") {
  for (int64_t n = 1; n <= 40; ++n) {
    Matrix gate_up = Matrix::zeros(2, 2 * n), wide(2, n + 1);
    for (int64_t i = 0; i < wide.size(); ++i) wide.data()[i] = 9;
    for (int64_t c = 0; c < n; ++c) gate_up(1, c) = 100 + float(c), gate_up(1, n + c) = 2;
    swiglu(gate_up, columns(wide.view(), 0, n));
    for (int64_t c = 0; c < n; ++c) CHECK((wide(0, c) == 0 && wide(1, c) == 200 + 2 * float(c)));
    CHECK((wide(0, n) == 9 && wide(1, n) == 9));
  }
  Matrix ends(1, 8), out(1, 4);
  const float row[] = {-1e4f, -88, kNan, 3e38f, 5, 1, 1, 1};
  std::copy_n(row, 8, ends.data());
  swiglu(ends, out);
  CHECK((out(0, 0) == 0 && std::isnan(out(0, 2)) && out(0, 3) == 3e38f));
  CHECK(double(out(0, 1)) == Approx(-88 * std::exp(-88.0)).epsilon(1e-6));
  check_threads([] {
    const Matrix X = normal(70, 1030, 87);
    Matrix Y(70, 515);
    swiglu(X, Y);
    return Y;
  });
  CHECK(contains(fault_of([&] { swiglu(out, ends); }), "gate_up (1, 4), out (1, 8)"));
}

TEST_CASE("elementwise: first_nonfinite finds the first in row-major order", "[kernels][elementwise]") {
  Matrix wide = normal(5, 20, 88);
  for (int64_t t = 0; t < 5; ++t) wide(t, 19) = kNan;  // outside the view
  const MatrixView<float> X = columns(wide.view(), 0, 19);
  CHECK(first_nonfinite(X) == -1);
  CHECK(first_nonfinite(MatrixView<const float>{}) == -1);
  for (const float bad : {kNan, -kNan, kInf, -kInf, bits_float(0x7f800001u)})
    for (int64_t at = 0; at < X.size(); ++at) {
      float& x = X(at / 19, at % 19);
      const float before = x;
      x = bad;
      CHECK(first_nonfinite(X) == at);
      x = before;
    }
  for (const float fine :
       {std::numeric_limits<float>::max(), -std::numeric_limits<float>::max(), 1e-45f, -0.0f}) {
    X(2, 3) = fine;
    CHECK(first_nonfinite(X) == -1);
  }
  const int before = omp_get_max_threads();
  for (int threads : {1, 2, 3}) {
    omp_set_num_threads(threads);
    Matrix big = Matrix::zeros(300, 100);
    for (int64_t at : {29999, 20000, 10050, 10049, 3, 0}) {
      big.data()[at] = kInf;
      CHECK(first_nonfinite(big) == at);
    }
  }
  omp_set_num_threads(before);
}

TEST_CASE("elementwise: column_stats are sums in order, in two calls as in one", "[kernels][elementwise]") {
  const int before = omp_get_max_threads();
  for (int64_t cols : {1, 2, 127, 128, 129, 300})
    for (int threads : {1, 2, 3}) {
      omp_set_num_threads(threads);
      Matrix wide = normal(211, cols + 1, 89);
      const MatrixView<float> X = columns(wide.view(), 1, cols);
      std::vector<float> amax(size_t(cols), 0.25f), want_amax = amax;
      std::vector<double> sum(size_t(cols), 0.125), want_sum = sum;
      X(7, 0) = -0.0f, X(9, cols - 1) = -1e30f;
      for (int64_t t = 0; t < X.rows; ++t)
        for (int64_t c = 0; c < cols; ++c) {
          want_amax[size_t(c)] = std::max(want_amax[size_t(c)], std::fabs(X(t, c)));
          want_sum[size_t(c)] += double(std::fabs(X(t, c)));
        }
      column_stats(X.middle_rows(0, 100), amax, sum);
      column_stats(X.middle_rows(100, 111), amax, sum);
      CAPTURE(cols, threads);
      CHECK((amax == want_amax && sum == want_sum));
    }
  omp_set_num_threads(before);
  Matrix X = Matrix::zeros(2, 2);
  X(0, 1) = kNan, X(1, 1) = 2;
  std::vector<float> amax(2), one(1);
  std::vector<double> sum(2);
  column_stats(X, amax, sum);
  CHECK((amax[1] == 2 && std::isnan(sum[1]) && sum[0] == 0));
  CHECK(contains(fault_of([&] { column_stats(X, one, sum); }), "2 columns, 1 maxima, 2 sums"));
}
