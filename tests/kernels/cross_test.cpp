#include <limits>

#include "kernels/cpu/gemm.h"
#include "tests/catch.h"
#include "tests/kernels/gemm_cases.h"

using namespace fp4lab;
using namespace fp4lab::test;

namespace {

void check_cross(int64_t t, int64_t rows, int64_t cols, int64_t gap) {
  const Strided X(t, rows, 4, gap), Y(t, cols, 6, 2 * gap);
  MatrixD want = started(rows, cols, gap);
  cross_ref(X.view, Y.view, {want.data(), rows, cols, cols + gap});
  for (const GemmKernels* set : sets()) {
    MatrixD got = started(rows, cols, gap);
    cross_with(*set, X.view, Y.view, {got.data(), rows, cols, cols + gap});
    CAPTURE(set->name, t, rows, cols, gap);
    CHECK(difference(got, want) == "");
  }
}

}  // namespace

TEST_CASE("cross: every small shape has the bits of the plain loop", "[kernels][gemm]") {
  for (int64_t rows = 1; rows <= 30; ++rows)
    for (int64_t cols = 1; cols <= 34; ++cols)
      check_cross(1 + (rows * 5 + cols) % 17, rows, cols, (rows + cols) % 3);
}

TEST_CASE("cross: beyond every block and task", "[kernels][gemm]") {
  check_cross(385, 50, 33, 0);
  check_cross(4097, 20, 18, 1);  // twice what is packed at a time, and one
  check_cross(3, 127, 300, 0);   // a second task both ways
  check_cross(2, 2070, 20, 0);   // a second block of rows
  check_cross(2, 20, 2070, 1);   // and of columns
}

TEST_CASE("cross: an answer worked out by hand; nothing where nothing is", "[kernels][gemm]") {
  const float x[] = {1, 2, 3, 4}, y[] = {5, 6, 7, 8, 9, 10};  // two tokens
  double d[] = {100, 200, 300, 400, 500, 600};
  cross({x, 2, 2, 2}, {y, 2, 3, 3}, {d, 2, 3, 3});
  CHECK((d[0] == 129 && d[1] == 233 && d[2] == 337 && d[3] == 442 && d[4] == 548 && d[5] == 654));
  cross({x, 0, 2, 2}, {y, 0, 3, 3}, {d, 2, 3, 3});
  cross({x, 2, 0, 2}, {y, 2, 3, 3}, {d, 0, 3, 3});
  cross({x, 2, 2, 2}, {y, 2, 0, 3}, {d, 2, 0, 3});
  CHECK((d[0] == 129 && d[5] == 654));
}

TEST_CASE("cross: X with itself is symmetric and has syrk's upper triangle", "[kernels][gemm]") {
  const Strided X(130, 75, 4, 3);
  MatrixD D = MatrixD::zeros(75, 75), H = MatrixD::zeros(75, 75);
  for (int64_t cut : {0, 41}) {  // two calls over split rows are one call
    const int64_t rows = cut == 0 ? 41 : 130 - 41;
    cross(X.view.middle_rows(cut, rows), X.view.middle_rows(cut, rows), D);
  }
  syrk(X.view, H);
  for (int64_t i = 0; i < 75; ++i)
    for (int64_t j = i; j < 75; ++j) REQUIRE((D(i, j) == H(i, j) && D(j, i) == H(i, j)));
}

TEST_CASE("cross: NaN and Inf reach their own row or column and no other", "[kernels][gemm]") {
  Strided X(30, 40, 4);
  const Strided Y(30, 21, 5);
  X.view(11, 17) = std::numeric_limits<float>::quiet_NaN();
  X.view(12, 3) = std::numeric_limits<float>::infinity();
  for (const GemmKernels* set : sets()) {
    MatrixD got = started(40, 21, 0), want = started(40, 21, 0);
    cross_with(*set, X.view, Y.view, got);
    cross_ref(X.view, Y.view, want);
    CHECK(difference(got, want) == "");
    CHECK((std::isnan(got(17, 5)) && std::isinf(got(3, 5)) && std::isfinite(got(5, 17))));
  }
}
