#include "analysis/outliers.h"

#include <numeric>

#include "tests/analysis/error_reference.h"

using namespace fp4lab;
using namespace fp4lab::test;

TEST_CASE("tensor errors: outliers are the ceil(p n) largest, ties in row-major order",
          "[analysis][errors]") {
  // Errors are powers of two, so their sum says which elements were taken.
  Matrix X(3, 4), Y(3, 4);
  for (int64_t i = 0; i < 12; ++i) {
    X.data()[i] = i % 2 ? -1.0f : 1.0f;
    Y.data()[i] = X.data()[i] - std::ldexp(1.0f, int(-i));
  }
  X(1, 3) = Y(1, 3) = 8;  // element 7: the largest, exact
  const FormatSpec f{kE2M1, 4, kFP32};
  const double from_first[] = {0, 1, 1.5, 1.75, 1.875, 1.9375, 1.96875, 1.984375};
  for (int k = 1; k <= 8; ++k) {  // the 8, then k - 1 of the ones from the front
    const ErrorSums s = measure_errors(X.view(), Y.view(), f, k / 12.0);
    CAPTURE(k);
    CHECK(s.outliers == k);
    CHECK(s.outlier_ape == from_first[k - 1]);
  }
  CHECK(measure_errors(X.view(), Y.view(), f, 1e-9).outliers == 1);  // ceil, never none
  CHECK(measure_errors(X.view(), Y.view(), f, 2.001 / 12).outliers == 3);
  CHECK(measure_errors(X.view(), Y.view(), f, 0.999).outliers == 12);
  CHECK(measure_errors(X.view(), Y.view(), f, 1).outliers == 12);
  // The product of share and size may round up: 0.07 * 100 > 7.
  const Matrix hundred = random_matrix(1, 100, 3);
  CHECK(measure_errors(hundred.view(), hundred.view(), {kE2M1, 4, kFP32}, 0.07).outliers == 7);
  // Zeros are no outliers.
  const Matrix sparse = matrix_of(1, 8, {0, 0, 1e-45f, 0, 0, 0, -2, 0});
  CHECK(measure_errors(sparse.view(), sparse.view(), f, 0.5).outliers == 2);
  CHECK_THROWS_AS(measure_errors(sparse.view(), sparse.view(), f, 0.0), Fault);
  CHECK_THROWS_AS(measure_errors(sparse.view(), sparse.view(), f, 1.0001), Fault);
}

TEST_CASE("tensor errors: the outlier cut agrees with sorting", "[analysis][errors]") {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const Matrix X = random_matrix(5, 160, seed);
    for (const double share : {0.001, 0.01, 0.2, 0.5, 0.9, 0.999}) {
      std::vector<int64_t> order(size_t(X.size()));
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(),
                       [&](int64_t a, int64_t b) { return std::fabs(X.data()[a]) > std::fabs(X.data()[b]); });
      std::vector<bool> expected(order.size());
      for (size_t i = 0; i < size_t(std::ceil(share * double(X.size()) - 1e-9)); ++i)
        expected[size_t(order[i])] = X.data()[order[i]] != 0;
      const OutlierCut cut = outlier_cut(X, share);
      int64_t wrong = 0;
      for (int64_t i = 0; i < X.size(); ++i)
        wrong += cut.holds(float_bits(std::fabs(X.data()[i])), i) != expected[size_t(i)];
      CAPTURE(seed, share);
      CHECK(wrong == 0);
    }
  }
}
