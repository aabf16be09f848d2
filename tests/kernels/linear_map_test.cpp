#include "kernels/cpu/linear_map.h"

#include <omp.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <random>

#include "tests/catch.h"

using namespace fp4lab;

namespace {

Matrix normal(int64_t rows, int64_t cols, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> draw;
  Matrix m(rows, cols);
  for (int64_t i = 0; i < m.size(); ++i) m.data()[i] = draw(engine);
  return m;
}

std::vector<float> signs(int64_t channels, unsigned seed) {
  std::mt19937 engine(seed);
  std::vector<float> s;
  for (int64_t c = 0; c < channels; ++c) s.push_back(engine() & 1 ? -1.0f : 1.0f);
  return s;
}

LinearMap hadamard(int64_t k, std::vector<float> with_signs = {}) {
  return {{HadamardFactor{k, std::move(with_signs)}}};
}

/// x -> (x o signs) H_k / sqrt(k) one stage at a time, as kernels/cpu/linear_map.h writes it.
void apply_ref(const HadamardFactor& f, float* x, int64_t channels) {
  for (int64_t c = 0; c < channels; ++c)
    if (!f.signs.empty()) x[c] *= f.signs[size_t(c)];
  for (int64_t h = 1; h < f.k; h *= 2)
    for (int64_t c = 0; c < channels; ++c)
      if ((c & h) == 0) {
        const float a = x[c], b = x[c + h];
        x[c] = a + b, x[c + h] = a - b;
      }
  const float scale = float(1 / std::sqrt(double(f.k)));
  if (f.k > 1)
    for (int64_t c = 0; c < channels; ++c) x[c] *= scale;
}

/// Element (i, j) of H_k: -1 to the number of ones that i and j share (Sylvester's order).
int sylvester(int64_t i, int64_t j) { return std::popcount(uint64_t(i & j)) % 2 ? -1 : 1; }

/// (K, K) of one factor, from its definition.
MatrixD dense(const HadamardFactor& f, int64_t channels) {
  MatrixD t = MatrixD::zeros(channels, channels);
  for (int64_t i = 0; i < channels; ++i)
    for (int64_t j = i / f.k * f.k; j < (i / f.k + 1) * f.k; ++j)
      t(i, j) = (f.signs.empty() ? 1.0 : double(f.signs[size_t(i)])) * sylvester(i % f.k, j % f.k) /
                std::sqrt(double(f.k));
  return t;
}

/// X W^T in double.
MatrixD product(const Matrix& X, const Matrix& W) {
  MatrixD y = MatrixD::zeros(X.rows(), W.rows());
  for (int64_t t = 0; t < X.rows(); ++t)
    for (int64_t n = 0; n < W.rows(); ++n)
      for (int64_t c = 0; c < X.cols(); ++c) y(t, n) += double(X(t, c)) * double(W(n, c));
  return y;
}

double norm(const Matrix& m) {
  double sum = 0;
  for (int64_t i = 0; i < m.size(); ++i) sum += double(m.data()[i]) * double(m.data()[i]);
  return std::sqrt(sum);
}
double distance(const Matrix& a, const Matrix& b) {
  double sum = 0;
  for (int64_t i = 0; i < a.size(); ++i)
    sum += (double(a.data()[i]) - double(b.data()[i])) * (double(a.data()[i]) - double(b.data()[i]));
  return std::sqrt(sum);
}

bool same_bits(const Matrix& a, const Matrix& b) {
  return a.rows() == b.rows() && a.cols() == b.cols() &&
         std::memcmp(a.data(), b.data(), size_t(a.size()) * sizeof(float)) == 0;
}

Matrix rows(std::initializer_list<std::initializer_list<float>> values) {
  Matrix m(int64_t(values.size()), int64_t(values.begin()->size()));
  float* to = m.data();
  for (const auto& row : values)
    for (const float v : row) *to++ = v;
  return m;
}

constexpr int64_t kSizes[] = {2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};

}  // namespace

TEST_CASE("linear map: H_2 and H_4 by hand", "[kernels][linear_map]") {
  const float r = float(1 / std::sqrt(2.0));
  Matrix two = rows({{1, 0, 3, 4}, {0, 1, -2, 2}});
  map_weights(hadamard(2), two);
  CHECK(same_bits(two, rows({{r, r, 7 * r, -1 * r}, {r, -r, 0, -4 * r}})));

  // Rows of the identity become the rows of H_4 / 2.
  Matrix four = rows({{1, 0, 0, 0}, {0, 1, 0, 0}, {0, 0, 1, 0}, {0, 0, 0, 1}});
  map_activations(hadamard(4), four);
  CHECK(
      same_bits(four, rows({{.5, .5, .5, .5}, {.5, -.5, .5, -.5}, {.5, .5, -.5, -.5}, {.5, -.5, -.5, .5}})));

  // Signs come before the rotation on the way there, after it on the way back.
  Matrix x = rows({{1, 2, 3, 4}});
  const LinearMap map = hadamard(4, {1, -1, 1, -1});
  map_weights(map, x);
  CHECK(same_bits(x, rows({{-1, 5, 0, -2}})));  // (1, -2, 3, -4) H_4 / 2 = (-2, 10, 0, -4) / 2
  unmap_weights(map, x);
  CHECK(same_bits(x, rows({{1, 2, 3, 4}})));
}

TEST_CASE("linear map: a large block is Sylvester's matrix", "[kernels][linear_map]") {
  for (const int64_t k : kSizes) {
    if (k > 512) break;
    Matrix identity = Matrix::zeros(k, k);
    for (int64_t i = 0; i < k; ++i) identity(i, i) = 1;
    map_weights(hadamard(k), identity);
    const float scale = float(1 / std::sqrt(double(k)));
    int64_t wrong = 0;
    for (int64_t i = 0; i < k; ++i)
      for (int64_t j = 0; j < k; ++j) wrong += identity(i, j) != float(sylvester(i, j)) * scale;
    CAPTURE(k);
    CHECK(wrong == 0);
  }
}

TEST_CASE("linear map: the bits of one stage at a time", "[kernels][linear_map]") {
  for (const int64_t k : kSizes)
    for (const int64_t blocks : {1, 2, 3, 7})
      for (const bool random : {false, true}) {
        const int64_t channels = k * blocks;
        const HadamardFactor factor{k, random ? signs(channels, 5) : std::vector<float>{}};
        Matrix x = normal(3, channels, unsigned(channels)), expected = x.clone();
        map_weights({{factor}}, x);
        for (int64_t r = 0; r < 3; ++r) apply_ref(factor, expected.row(r), channels);
        CAPTURE(k, blocks, random);
        CHECK(same_bits(x, expected));
        Matrix again = normal(3, channels, unsigned(channels));
        map_activations({{factor}}, again);
        CHECK(same_bits(again, expected));
      }
}

TEST_CASE("linear map: only the view's columns are touched", "[kernels][linear_map]") {
  for (const int64_t k : {2, 4, 8, 64}) {
    const int64_t channels = k == 8 || k == 64 ? 3 * k : 6 * k + k;  // 14, 28: not whole registers
    const LinearMap map = hadamard(k, signs(channels, 1));
    Matrix wide = normal(5, channels + 9, 2), before = wide.clone(), narrow(5, channels);
    for (int64_t r = 0; r < 5; ++r)
      for (int64_t c = 0; c < channels; ++c) narrow(r, c) = wide(r, c + 4);
    map_weights(map, {wide.data() + 4, 5, channels, channels + 9});
    map_weights(map, narrow);
    int64_t wrong = 0;
    for (int64_t r = 0; r < 5; ++r)
      for (int64_t c = 0; c < channels + 9; ++c)
        wrong += wide(r, c) != (c >= 4 && c < channels + 4 ? narrow(r, c - 4) : before(r, c));
    CAPTURE(k);
    CHECK(wrong == 0);
  }
}

TEST_CASE("linear map: identity, empty matrices, k = 1", "[kernels][linear_map]") {
  const Matrix x = normal(4, 24, 3);
  for (const LinearMap& map : {LinearMap{}, hadamard(1)}) {
    Matrix y = x.clone();
    map_weights(map, y), map_activations(map, y), unmap_weights(map, y), unmap_activations(map, y);
    CHECK(same_bits(x, y));
  }
  CHECK(LinearMap{}.identity());
  Matrix none(0, 64);
  map_weights(hadamard(32), none);
  CHECK(none.size() == 0);
  Matrix flipped = x.clone();
  map_weights(hadamard(1, signs(24, 4)), flipped);
  CHECK(flipped(0, 0) == x(0, 0) * signs(24, 4)[0]);
}

TEST_CASE("linear map: there and back, and the norm", "[kernels][linear_map]") {
  for (const int64_t k : kSizes) {
    const int64_t channels = 2 * k;
    const LinearMap map{{HadamardFactor{k, signs(channels, 6)}, HadamardFactor{2, {}},
                         HadamardFactor{k, signs(channels, 7)}}};
    const Matrix x = normal(4, channels, 8);
    Matrix y = x.clone();
    map_weights(map, y);
    CAPTURE(k);
    CHECK(norm(y) == Approx(norm(x)).epsilon(1e-6));
    CHECK(distance(x, y) > 0.1 * norm(x));
    unmap_weights(map, y);
    // Each of the 2 (2 log2(k) + 1) stages rounds by at most 2^-24 of its elements; the errors are
    // independent, so that their norm grows with the root of that: below 8 2^-24 = 4.8e-7 for k = 16384.
    CHECK(distance(x, y) < 1e-6 * norm(x));
    y = x.clone();
    map_activations(map, y);
    unmap_activations(map, y);
    CHECK(distance(x, y) < 1e-6 * norm(x));
  }
}

TEST_CASE("linear map: factors apply from left to right", "[kernels][linear_map]") {
  const int64_t channels = 16;
  const HadamardFactor factors[] = {
      {4, signs(channels, 1)}, {16, signs(channels, 2)}, {2, signs(channels, 3)}};
  const LinearMap map{{factors[0], factors[1], factors[2]}};
  MatrixD t = dense(factors[0], channels);
  for (size_t f = 1; f < 3; ++f) {
    const MatrixD next = dense(factors[f], channels);
    MatrixD both = MatrixD::zeros(channels, channels);
    for (int64_t i = 0; i < channels; ++i)
      for (int64_t j = 0; j < channels; ++j)
        for (int64_t c = 0; c < channels; ++c) both(i, j) += t(i, c) * next(c, j);
    t = std::move(both);
  }
  Matrix identity = Matrix::zeros(channels, channels);
  for (int64_t i = 0; i < channels; ++i) identity(i, i) = 1;
  Matrix there = identity.clone(), back = identity.clone();
  map_weights(map, there);
  unmap_weights(map, back);
  for (int64_t i = 0; i < channels; ++i)
    for (int64_t j = 0; j < channels; ++j) {
      CHECK(there(i, j) == Approx(t(i, j)).margin(1e-6));
      CHECK(back(i, j) == Approx(t(j, i)).margin(1e-6));  // orthogonal: the inverse is the transpose
    }
}

TEST_CASE("linear map: X W^T stays", "[kernels][linear_map]") {
  const Matrix X = normal(9, 384, 1), W = normal(11, 384, 2);
  const MatrixD before = product(X, W);
  for (const int64_t k : {2, 4, 16, 32, 128}) {
    const LinearMap map{{HadamardFactor{k, signs(384, 9)}, HadamardFactor{8, {}}}};
    Matrix x = X.clone(), w = W.clone();
    map_activations(map, x);
    map_weights(map, w);
    const MatrixD after = product(x, w);
    // |x| |w| is about 384; two roundings of 2^-24 per stage, fewer than 12 stages, independent.
    double worst = 0;
    for (int64_t i = 0; i < before.size(); ++i)
      worst = std::max(worst, std::fabs(before.data()[i] - after.data()[i]));
    CAPTURE(k);
    CHECK(worst < 384 * 1e-6);
  }
}

TEST_CASE("linear map: the same bits on any number of threads", "[kernels][linear_map]") {
  const LinearMap map{{HadamardFactor{128, signs(1024, 1)}, HadamardFactor{32, {}}}};
  const int threads = omp_get_max_threads();
  Matrix first;
  for (const int n : {1, 2, 3, 5}) {
    omp_set_num_threads(n);
    Matrix x = normal(67, 1024, 4);  // above the size that one thread does alone
    map_weights(map, x);
    if (n == 1) first = x.clone();
    CAPTURE(n);
    CHECK(same_bits(x, first));
  }
  omp_set_num_threads(threads);
}

TEST_CASE("linear map: a NaN stays in its row and block", "[kernels][linear_map]") {
  Matrix x = normal(3, 96, 5);
  x(1, 40) = NAN;
  map_weights(hadamard(32), x);
  for (int64_t r = 0; r < 3; ++r)
    for (int64_t c = 0; c < 96; ++c) CHECK(std::isnan(x(r, c)) == (r == 1 && c >= 32 && c < 64));
}
