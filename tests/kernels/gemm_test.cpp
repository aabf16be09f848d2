#include "kernels/cpu/gemm.h"

#include <limits>
#include <string>
#include <vector>

#include "formats/row_kernels.h"
#include "tests/catch.h"
#include "tests/kernels/gemm_cases.h"

using namespace fp4lab;
using namespace fp4lab::test;

namespace {

void check_gemm(int64_t m, int64_t n, int64_t k, int64_t gap, bool accumulate) {
  const Strided X(m, k, 1, gap), W(n, k, 2, gap), Y(m, n, 3, gap);
  Strided want(m, n, 3, gap);
  gemm_ref(X.view, W.view, want.view, accumulate);
  for (const GemmKernels* set : sets()) {
    Matrix got = Y.all.clone();
    gemm_with(*set, X.view, W.view, {got.data(), m, n, n + gap}, accumulate);
    CAPTURE(set->name, m, n, k, gap, accumulate);
    CHECK(difference(got, want.all) == "");
  }
}

/// H starts as numbers, the lower triangle as marks that must survive.
MatrixD marked(int64_t k, int64_t gap) {
  MatrixD H(k, k + gap);
  const Stream stream(5, "syrk test");
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = 0; j < k + gap; ++j)
      H(i, j) = j < i || j >= k ? 42 : normal_pair(stream.block(uint64_t(i * k + j)))[0];
  return H;
}

void check_syrk(int64_t t, int64_t k, int64_t gap) {
  const Strided X(t, k, 4, gap);
  MatrixD want = marked(k, gap);
  syrk_ref(X.view, {want.data(), k, k, k + gap});
  for (const GemmKernels* set : sets()) {
    MatrixD got = marked(k, gap);
    syrk_with(*set, X.view, {got.data(), k, k, k + gap});
    CAPTURE(set->name, t, k, gap);
    CHECK(difference(got, want) == "");
  }
}

}  // namespace

TEST_CASE("gemm: every small shape has the bits of the plain loop", "[kernels][gemm]") {
  const int64_t ks[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 40};
  for (int64_t m = 1; m <= 30; ++m)
    for (int64_t n = 1; n <= 40; ++n) {
      const int64_t k = ks[(m * 7 + n) % 12];
      check_gemm(m, n, k, m % 3, (m + n) % 2);
    }
}

TEST_CASE("gemm: every k, dense and strided, from zero and from Y", "[kernels][gemm]") {
  for (int64_t k = 1; k <= 70; ++k)
    for (int64_t gap : {0, 5})
      for (bool accumulate : {false, true}) check_gemm(17, 35, k, gap, accumulate);
}

TEST_CASE("gemm: beyond every block and task", "[kernels][gemm]") {
  check_gemm(15, 33, 384, 0, false);    // one cache block of k, and around it
  check_gemm(15, 33, 385, 1, true);     //
  check_gemm(5, 9, 2048, 0, false);     // what is packed at a time
  check_gemm(5, 9, 2049, 0, true);      //
  check_gemm(16, 40, 4500, 3, false);   // twice that
  check_gemm(127, 257, 21, 0, false);   // a second task both ways
  check_gemm(2049, 3, 5, 0, true);      // a second block of rows
  check_gemm(3, 2081, 5, 2, false);     // and of columns
  check_gemm(2050, 2049, 2, 0, false);  // both
}

TEST_CASE("gemm: an answer worked out by hand; the chain is fused and in order", "[kernels][gemm]") {
  const float x[] = {1, 2, 3, -1, 0, 0.5f}, w[] = {4, 5, 6, 1, 1, 2};
  float y[4] = {100, 200, 300, 400};
  gemm({x, 2, 3, 3}, {w, 2, 3, 3}, {y, 2, 2, 2});
  CHECK((y[0] == 32 && y[1] == 9 && y[2] == -1 && y[3] == 0));
  gemm({x, 2, 3, 3}, {w, 2, 3, 3}, {y, 2, 2, 2}, true);
  CHECK((y[0] == 64 && y[1] == 18 && y[2] == -2 && y[3] == 0));
  // (1 + u)(1 - u) - 1 = -u^2 only if the product is not rounded on its own; 2^-24 is lost beside 1 unless it
  // comes after the 1 has gone.
  const float a[] = {-1, 1 + 0x1p-20f}, b[] = {1, 1 - 0x1p-20f};
  gemm({a, 1, 2, 2}, {b, 1, 2, 2}, {y, 1, 1, 1});
  CHECK(y[0] == -0x1p-40f);
  const float c[] = {0x1p-25f, 1, -1}, d[] = {1, -1, 0x1p-25f}, one[] = {1, 1, 1};
  gemm({c, 1, 3, 3}, {one, 1, 3, 3}, {y, 1, 1, 1});
  CHECK(y[0] == 0);
  gemm({d, 1, 3, 3}, {one, 1, 3, 3}, {y, 1, 1, 1});
  CHECK(y[0] == 0x1p-25f);
}

TEST_CASE("gemm: NaN and Inf reach their own outputs and no others", "[kernels][gemm]") {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (const GemmKernels* set : sets())
    for (float bad : {inf, -inf, nan})
      for (int64_t at : {0, 13, 14, 18})
        for (bool in_w : {false, true}) {
          Strided X(19, 50, 1), W(37, 50, 2);
          (in_w ? W : X).view(at, 49) = bad;
          (in_w ? X : W).view(3, 49) = 0;  // 0 * Inf
          Matrix got(19, 37), want(19, 37);
          gemm_ref(X.view, W.view, want, false);
          gemm_with(*set, X.view, W.view, got, false);
          CAPTURE(set->name, bad, at, in_w);
          CHECK(difference(got, want) == "");
          CHECK(std::isnan(in_w ? got(3, at) : got(at, 3)));
          CHECK(std::isfinite(in_w ? got(4, at + 1) : got((at + 1) % 19, 4)));
        }
}

TEST_CASE("gemm, syrk and cross: the bits do not depend on the threads", "[kernels][gemm]") {
  const Strided X(300, 700, 1), W(530, 700, 2), other(300, 90, 3);
  Matrix want(300, 530);
  MatrixD gram = marked(700, 0), crossed = started(700, 90, 0);
  cross_ref(X.view, other.view, crossed);
  gemm_ref(X.view, W.view, want.view(), false);
  syrk_ref(X.view, gram);
  for (const GemmKernels* set : sets())
    for (int n : {1, 2, 3}) {
      const Threads threads(n);
      Matrix Y(300, 530);
      MatrixD H = marked(700, 0), D = started(700, 90, 0);
      cross_with(*set, X.view, other.view, D);
      gemm_with(*set, X.view, W.view, Y, false);
      syrk_with(*set, X.view, H);
      CAPTURE(set->name, n);
      CHECK(difference(Y, want) == "");
      CHECK(difference(H, gram) == "");
      CHECK(difference(D, crossed) == "");
    }
}

TEST_CASE("gemm: calls from several threads at once", "[kernels][gemm]") {
  const Strided X(40, 300, 1), W(100, 300, 2);
  Matrix want(40, 100);
  gemm_ref(X.view, W.view, want, false);
  std::vector<std::string> differences(6);
#pragma omp parallel for num_threads(3) schedule(dynamic)
  for (int i = 0; i < 6; ++i) {
    Matrix Y(40, 100);
    gemm(X.view, W.view, Y);
    differences[size_t(i)] = difference(Y, want);
  }
  for (const std::string& d : differences) CHECK(d == "");
}

TEST_CASE("gemm: empty shapes", "[kernels][gemm]") {
  Matrix Y(3, 5);
  for (int64_t i = 0; i < Y.size(); ++i) Y.data()[i] = 7;
  gemm(Matrix(3, 0), Matrix(5, 0), Y, true);  // nothing is added
  for (int64_t i = 0; i < Y.size(); ++i) CHECK(Y.data()[i] == 7);
  gemm(Matrix(2, 0), Matrix(4, 0), {Y.data(), 2, 4, 5});  // zeros, and only in the view
  for (int64_t i = 0; i < 3; ++i)
    for (int64_t j = 0; j < 5; ++j) CHECK(Y(i, j) == (i < 2 && j < 4 ? 0.0f : 7.0f));
  const Strided X(3, 4, 1), none(0, 4, 1);
  gemm(none.view, X.view, Matrix(0, 3));
  gemm(X.view, none.view, Matrix(3, 0));
}

TEST_CASE("syrk: every small shape has the bits of the plain loop, the lower triangle untouched",
          "[kernels][gemm]") {
  for (int64_t k = 1; k <= 66; ++k)
    for (int64_t t : {1, 2, 7, 40}) check_syrk(t, k, k % 3);
}

TEST_CASE("syrk: beyond every block and task", "[kernels][gemm]") {
  check_syrk(385, 50, 0);
  check_syrk(4097, 20, 1);
  check_syrk(3, 300, 0);
  check_syrk(2, 2070, 0);
}

TEST_CASE("syrk: two calls over split rows are one call", "[kernels][gemm]") {
  const Strided X(500, 90, 4);
  MatrixD whole = marked(90, 0);
  syrk(X.view, whole);
  for (int64_t cut : {0, 1, 123, 384, 499, 500}) {
    MatrixD H = marked(90, 0);
    syrk(X.view.middle_rows(0, cut), H);
    syrk(X.view.middle_rows(cut, 500 - cut), H);
    CAPTURE(cut);
    CHECK(difference(H, whole) == "");
  }
}

TEST_CASE("syrk: widened first, so no product is rounded; NaN and Inf propagate", "[kernels][gemm]") {
  const float x[] = {1 + 0x1p-20f, 1 - 0x1p-20f};
  double h[4] = {0, 0, 42, 0};
  syrk({x, 1, 2, 2}, {h, 2, 2, 2});
  CHECK((h[0] == 1 + 0x1p-19 + 0x1p-40 && h[1] == 1 - 0x1p-40 && h[2] == 42));
  Strided X(30, 40, 4);
  X.view(11, 17) = std::numeric_limits<float>::quiet_NaN();
  X.view(12, 3) = std::numeric_limits<float>::infinity();
  MatrixD got = marked(40, 0), want = marked(40, 0);
  syrk(X.view, got);
  syrk_ref(X.view, want);
  CHECK(difference(got, want) == "");
  CHECK((std::isnan(got(5, 17)) && std::isinf(got(3, 3)) && std::isfinite(got(5, 18))));
}

TEST_CASE("gemm, syrk and cross: shapes that do not fit stop with all of them", "[kernels][gemm]") {
  Matrix Y(3, 5);
  MatrixD H(4, 4);
  auto message = [](auto call) -> std::string {
    try {
      call();
    } catch (const std::exception& e) {
      return e.what();
    }
    return "";
  };
  auto ends = [](const std::string& text, const std::string& end) {
    return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
  };
  CHECK(ends(message([&] { gemm(Matrix(3, 7), Matrix(5, 8), Y); }), "X (3, 7), W (5, 8), Y (3, 5)"));
  CHECK(ends(message([&] { gemm(Matrix(2, 7), Matrix(5, 7), Y); }), "X (2, 7), W (5, 7), Y (3, 5)"));
  CHECK(ends(message([&] { gemm(Matrix(3, 7), Matrix(6, 7), Y); }), "X (3, 7), W (6, 7), Y (3, 5)"));
  CHECK(ends(message([&] { syrk(Matrix(3, 5), H); }), "X (3, 5), H (4, 4)"));
  CHECK(ends(message([&] { cross(Matrix(3, 4), Matrix(2, 4), H); }), "X (3, 4), Y (2, 4), D (4, 4)"));
  CHECK(ends(message([&] { cross(Matrix(3, 5), Matrix(3, 4), H); }), "X (3, 5), Y (3, 4), D (4, 4)"));
  CHECK(ends(message([&] { cross(Matrix(3, 4), Matrix(3, 5), H); }), "X (3, 4), Y (3, 5), D (4, 4)"));
}

TEST_CASE("gemm and syrk: the chosen set is one of the two", "[kernels][gemm]") {
  CHECK(std::string(gemm_kernels_v3().name) == "x86-64-v3");
  CHECK((gemm_kernels_v4() != nullptr) == (row_kernels_v4() != nullptr));
  if (gemm_kernels_v4()) CHECK(std::string(gemm_kernels_v4()->name) == "x86-64-v4");
}
