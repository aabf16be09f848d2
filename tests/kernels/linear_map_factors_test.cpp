// The four kinds of factors against dense matrices in double, and their bits against plain loops.
#include <omp.h>

#include <cmath>
#include <cstring>

#include "kernels/cpu/linear_map.h"
#include "tests/catch.h"
#include "tests/kernels/faults.h"
#include "tests/kernels/linear_map_helpers.h"

using namespace fp4lab;
using namespace fp4lab::test;

namespace {

struct Case {
  const char* name;
  int64_t K;
  LinearMap map;
};
std::vector<Case> cases() {
  std::vector<Case> all;
  const auto add = [&](const char* name, int64_t K, std::vector<Factor> factors) {
    all.push_back({name, K, {std::move(factors)}});
  };
  add("hadamard 12", 48, {HadamardFactor{12, signs(48, 1)}});
  add("hadamard 20, one block", 20, {HadamardFactor{20, {}}});
  add("hadamard 28", 84, {HadamardFactor{28, signs(84, 2)}});
  add("hadamard 4, stride 3", 24, {HadamardFactor{4, signs(24, 3), 3}});
  add("hadamard 16, stride 8", 256, {HadamardFactor{16, signs(256, 4), 8}});
  add("hadamard 32, stride 16", 512, {HadamardFactor{32, {}, 16}});
  add("hadamard 2, stride 64", 128, {HadamardFactor{2, {}, 64}});
  add("hadamard 12, stride 16", 384, {HadamardFactor{12, signs(384, 5), 16}});
  add("hadamard 12, stride 2", 48, {HadamardFactor{12, signs(48, 6), 2}});
  add("hadamard 20, stride 5", 100, {HadamardFactor{20, {}, 5}});
  add("full width of 96", 96, {HadamardFactor{8, signs(96, 7)}, HadamardFactor{12, {}, 8}});
  add("full width of 768", 768, {HadamardFactor{64, signs(768, 8)}, HadamardFactor{12, {}, 64}});
  add("diagonal", 37, {diagonal(37, 1)});
  add("permutation", 41, {permutation(41, 1)});
  for (const int64_t k : {1, 2, 3, 7, 8, 12, 16, 17, 31, 48, 128}) {
    add("blocks", 3 * k, {blocks(3, k, unsigned(10 * k))});
    add("one block for all", 3 * k, {blocks(1, k, unsigned(20 * k))});
    add("orthogonal blocks", 2 * k, {reflections(2, k, unsigned(30 * k))});
  }
  add("a deep block", 600, {reflections(1, 600, 40)});
  add("one of each", 96,
      {diagonal(96, 2), permutation(96, 3), blocks(6, 16, 50), HadamardFactor{12, signs(96, 9), 8}});
  add("and back to front", 96,
      {HadamardFactor{32, signs(96, 10)}, blocks(1, 24, 60), permutation(96, 4), diagonal(96, 5)});
  return all;
}

}  // namespace

TEST_CASE("linear map: every factor is its dense matrix", "[kernels][linear_map]") {
  for (const Case& c : cases()) DYNAMIC_SECTION(c.name << " on " << c.K) {
      const Dense t = dense(c.map, c.K);
      const Matrix X = normal(13, c.K, 1), W = normal(7, c.K, 2);
      // |x_i| < 5, K of them weighted by entries whose squares sum to at most 16^2 (a diagonal and a block);
      // a number is a chain of at most 600 + 40 roundings of 2^-24 that add up like random ones.
      const double bound = 5 * 16 * std::sqrt(640.0) * 0x1p-24;
      Matrix x = X.clone(), w = W.clone();
      map_activations(c.map, x);
      map_weights(c.map, w);
      CHECK(worst(x, product(X, t.activations)) < bound);
      CHECK(worst(w, product(W, t.weights)) < bound);
      // X W^T stays: of the size of sqrt(K), each factor off by as much as above.
      CHECK(worst(product(x, transposed(w)), product(X, transposed(W))) < bound * 5 * std::sqrt(double(c.K)));
      unmap_activations(c.map, x);
      unmap_weights(c.map, w);
      CHECK(worst(x, X) < 4 * bound);
      CHECK(worst(w, W) < 4 * bound);
    }
}

TEST_CASE("linear map: Hessians and cross products move with their inputs", "[kernels][linear_map]") {
  for (const Case& c : cases()) DYNAMIC_SECTION(c.name << " on " << c.K) {
      const Dense t = dense(c.map, c.K);
      const Matrix X = normal(9, c.K, 3), Y = normal(9, c.K, 4);
      const auto moved = [&](const Matrix& m) { return product(m, t.activations); };
      MatrixD H = MatrixD::zeros(c.K, c.K), D = MatrixD::zeros(c.K, c.K);
      for (int64_t i = 0; i < c.K; ++i)
        for (int64_t j = 0; j < c.K; ++j)
          for (int64_t s = 0; s < 9; ++s) {
            H(i, j) += double(X(s, i)) * double(X(s, j));
            D(i, j) += double(X(s, i)) * double(Y(s, j));
          }
      for (int64_t i = 0; i < c.K; ++i)
        for (int64_t j = 0; j < i; ++j) H(i, j) = NAN;  // not read
      map_hessian(c.map, H);
      map_cross(c.map, D);
      MatrixD expected_H = product(transposed(moved(X)), moved(X));
      const MatrixD expected_D = product(transposed(moved(X)), moved(Y));
      for (int64_t i = 0; i < c.K; ++i)
        for (int64_t j = 0; j < i; ++j) expected_H(i, j) = 0;
      // In double; the dense blocks are the float32 numbers on both sides. Chains of 2 K roundings of 2^-53.
      const double bound = 64 * double(c.K) * 0x1p-53;
      CHECK(worst(H, expected_H) <= bound * largest(expected_H));
      CHECK(worst(D, expected_D) <= bound * largest(expected_D));
    }
}

TEST_CASE("linear map: the identity leaves H and D", "[kernels][linear_map]") {
  MatrixD H(2, 2), D(2, 2);
  H(0, 0) = 1, H(0, 1) = 2, H(1, 0) = 3, H(1, 1) = 4;
  D = H.clone();
  map_hessian({}, H);
  map_cross({}, D);
  CHECK((H(0, 0) == 1 && H(0, 1) == 2 && H(1, 0) == 0 && H(1, 1) == 4));
  CHECK((D(0, 0) == 1 && D(0, 1) == 2 && D(1, 0) == 3 && D(1, 1) == 4));
}

TEST_CASE("linear map: a permutation and a diagonal by hand", "[kernels][linear_map]") {
  const LinearMap map{{PermutationFactor{{2, 0, 1}}, DiagonalFactor{{2, 4, 0.5}}}};
  Matrix w(1, 3), x(1, 3);
  for (int c = 0; c < 3; ++c) w(0, c) = x(0, c) = float(c + 1);  // 1 2 3 -> 3 1 2
  map_weights(map, w);
  map_activations(map, x);
  CHECK((w(0, 0) == 6 && w(0, 1) == 4 && w(0, 2) == 1));
  CHECK((x(0, 0) == 1.5f && x(0, 1) == 0.25f && x(0, 2) == 4));
  unmap_weights(map, w);
  unmap_activations(map, x);
  for (int c = 0; c < 3; ++c) CHECK((w(0, c) == float(c + 1) && x(0, c) == float(c + 1)));
  // A division, not a product with the reciprocal.
  Matrix seven(1, 1);
  seven(0, 0) = 7;
  map_activations({{DiagonalFactor{{3}}}}, seven);
  CHECK(seven(0, 0) == 7.0f / 3.0f);
  CHECK(seven(0, 0) != 7 * (1.0f / 3.0f));
}

TEST_CASE("linear map: the bits are those of plain loops", "[kernels][linear_map]") {
  // Dense Hadamard: +-x_b in ascending b from 0, then one multiply.
  for (const int64_t stride : {1, 2, 5, 8, 16, 24})
    for (const int64_t k : {12, 20, 28, 108}) {
      const int64_t K = 2 * k * stride;
      const std::vector<int8_t> H = hadamard_matrix(k);
      const Matrix X = normal(7, K, unsigned(k + stride));
      Matrix x = X.clone(), expected(7, K), back(7, K);
      map_weights({{HadamardFactor{k, {}, stride}}}, x);
      const float scale = float(1 / std::sqrt(double(k)));
      for (int64_t r = 0; r < 7; ++r)
        for (int64_t run = 0; run < K; run += k * stride)
          for (int64_t a = 0; a < k; ++a)
            for (int64_t s = 0; s < stride; ++s) {
              float there = 0, undone = 0;
              for (int64_t b = 0; b < k; ++b) {
                const float v = X(r, run + b * stride + s);
                there += H[size_t(b * k + a)] > 0 ? v : -v;
                undone += H[size_t(a * k + b)] > 0 ? v : -v;
              }
              expected(r, run + a * stride + s) = there * scale;
              back(r, run + a * stride + s) = undone * scale;
            }
      CAPTURE(k, stride);
      CHECK(same_bits(x, expected));
      x = X.clone();
      unmap_activations({{HadamardFactor{k, {}, stride}}}, x);
      CHECK(same_bits(x, back));
    }
  // Butterflies with a stride: one stage at a time.
  for (const int64_t stride : {2, 3, 8, 16, 64, 128})
    for (const int64_t k : {2, 4, 8, 16, 32, 128}) {
      const int64_t K = 2 * k * stride;
      Matrix x = normal(3, K, unsigned(k * stride)), expected = x.clone();
      map_weights({{HadamardFactor{k, {}, stride}}}, x);
      for (int64_t r = 0; r < 3; ++r) {
        float* e = expected.row(r);
        for (int64_t h = 1; h < k; h *= 2)
          for (int64_t c = 0; c < K; ++c)
            if ((c / stride & h) == 0) {
              const float a = e[c], b = e[c + h * stride];
              e[c] = a + b, e[c + h * stride] = a - b;
            }
        for (int64_t c = 0; c < K; ++c) e[c] *= float(1 / std::sqrt(double(k)));
      }
      CAPTURE(k, stride);
      CHECK(same_bits(x, expected));
    }
  // Blocks: one chain of fma over ascending input channel.
  for (const int64_t k : {1, 2, 5, 8, 13, 16, 17, 32, 128, 300, 520})
    for (const int64_t rows : {1, 5, 6, 50}) {
      const int64_t K = 2 * k;
      const BlocksFactor f{k, normals(K * k, unsigned(k)), {}};
      const Matrix X = normal(rows, K, unsigned(k + rows));
      Matrix x = X.clone(), expected(rows, K);
      map_weights({{f}}, x);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < K; ++c) {
          float y = 0;
          for (int64_t i = 0; i < k; ++i)
            y = std::fma(X(r, c / k * k + i), f.weights[size_t((c / k * k + i) * k + c % k)], y);
          expected(r, c) = y;
        }
      CAPTURE(k, rows);
      CHECK(same_bits(x, expected));
    }
}

TEST_CASE("linear map: factors do not see threads, other rows or the stride", "[kernels][linear_map]") {
  const LinearMap map{{diagonal(768, 1), permutation(768, 2), blocks(6, 128, 3),
                       HadamardFactor{64, signs(768, 4)}, HadamardFactor{12, {}, 64}}};
  const int threads = omp_get_max_threads();
  const Matrix X = normal(131, 768, 5);
  Matrix first;
  MatrixD first_H;
  for (const int n : {1, 2, 3, 7}) {
    omp_set_num_threads(n);
    Matrix x = X.clone();
    MatrixD H = MatrixD::zeros(768, 768);
    for (int64_t i = 0; i < H.size(); ++i) H.data()[i] = double(X.data()[i % X.size()]);
    map_activations(map, x);
    map_hessian(map, H);
    if (n == 1) first = x.clone(), first_H = H.clone();
    CAPTURE(n);
    CHECK(same_bits(x, first));
    CHECK(std::memcmp(H.data(), first_H.data(), size_t(H.size()) * sizeof(double)) == 0);
  }
  omp_set_num_threads(threads);

  // One row alone, in the middle of a wider matrix whose other columns stay.
  Matrix wide = normal(1, 768 + 9, 6);
  const Matrix before = wide.clone();
  std::copy_n(X.row(77), 768, wide.data() + 4);
  map_activations(map, {wide.data() + 4, 1, 768, 768 + 9});
  int64_t wrong = 0;
  for (int64_t c = 0; c < 768 + 9; ++c)
    wrong += wide(0, c) != (c >= 4 && c < 772 ? first(77, c - 4) : before(0, c));
  CHECK(wrong == 0);
}

TEST_CASE("linear map: broken factors stop at once", "[kernels][linear_map]") {
  Matrix X = normal(2, 24, 1);
  const auto fault = [&](Factor f) { return fault_of([&] { map_weights({{f}}, X); }); };
  CHECK(contains(fault(HadamardFactor{16, {}}), "k 16, stride 1 on 24 channels"));
  CHECK(contains(fault(HadamardFactor{8, {}, 2}), "k 8, stride 2 on 24 channels"));
  CHECK(contains(fault(HadamardFactor{8, {}, 0}), "stride 0"));
  CHECK(contains(fault(HadamardFactor{6, {}}), "no Hadamard matrix of order 6"));
  CHECK(contains(fault(HadamardFactor{8, {1, 1}}), "2 signs for 24 channels"));
  CHECK(contains(fault(DiagonalFactor{{1, 2}}), "2 scales for 24 channels"));
  CHECK(contains(fault(PermutationFactor{{1, 0}}), "2 places for 24 channels"));
  PermutationFactor twice{std::vector<int32_t>(24, 3)};
  CHECK(contains(fault(twice), "channel 3 of 24 in a permutation"));
  twice.from[0] = 24;
  CHECK(contains(fault(twice), "channel 24 of 24"));
  CHECK(contains(fault(BlocksFactor{5, std::vector<float>(25), {}}), "blocks of 5 on 24 channels"));
  CHECK(contains(fault(BlocksFactor{4, std::vector<float>(32), {}}),
                 "32 numbers for blocks of 4 on 24 channels"));
  CHECK(contains(fault(BlocksFactor{4, std::vector<float>(16), std::vector<float>(96)}),
                 "96 numbers of activation blocks, 16 of weight blocks"));
  MatrixD H = MatrixD::zeros(3, 4);
  CHECK(contains(fault_of([&] { map_hessian({}, H); }), "H (3, 4)"));
  CHECK(contains(fault_of([&] { map_cross({}, H); }), "D (3, 4)"));
}
