// The transforms that look at no data (and `permute`), each against its definition.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "kernels/cpu/linear_map.h"
#include "tests/catch.h"
#include "tests/methods/sites.h"

using namespace fp4lab;

namespace {

TransformSpec kind(TransformSpec::Kind kind, int64_t k) {
  TransformSpec spec{kind};
  spec.k = k;
  return spec;
}
TransformFit fit_of(int64_t channels, int64_t group, int64_t head_dim = 0) {
  TransformFit fit;
  fit.channels = channels, fit.group_size = group, fit.head_dim = head_dim;
  return fit;
}
/// (K, K): row i is what the unit vector i becomes.
Matrix matrix_of(const LinearMap& map, int64_t K) {
  Matrix T = Matrix::zeros(K, K);
  for (int64_t i = 0; i < K; ++i) T(i, i) = 1;
  map_activations(map, T);
  return T;
}
/// The largest element of |T^T T - I|.
double skewness(const Matrix& T) {
  double worst = 0;
  for (int64_t a = 0; a < T.cols(); ++a)
    for (int64_t b = 0; b < T.cols(); ++b) {
      double sum = a == b ? -1 : 0;
      for (int64_t i = 0; i < T.rows(); ++i) sum += double(T(i, a)) * double(T(i, b));
      if (!(std::fabs(sum) <= worst)) worst = std::isnan(sum) ? INFINITY : std::fabs(sum);
    }
  return worst;
}
int sign_changes(const Matrix& T, int64_t column) {
  int changes = 0;
  for (int64_t i = 1; i < T.rows(); ++i) changes += (T(i, column) > 0) != (T(i - 1, column) > 0);
  return changes;
}

}  // namespace

TEST_CASE("hadamard: the full width", "[methods][transforms]") {
  struct Row {
    int64_t channels;
    std::vector<HadamardFactor> factors;
  };
  const Row rows[] = {
      {768, {{64, {}}, {12, {}, 64}}},
      {1536, {{128, {}}, {12, {}, 128}}},
      {96, {{8, {}}, {12, {}, 8}}},
      {512, {{512, {}}}},
      {12, {{12, {}}}},
      {11008, {{32, {}}, {344, {}, 32}}},
      {14336, {{512, {}}, {28, {}, 512}}},
      {2, {{2, {}}}},
  };
  for (const Row& row : rows) {
    const TransformSpec full = kind(TransformSpec::hadamard, kFullWidth);
    CAPTURE(row.channels);
    for (const int64_t group : {0, 16, 24}) {  // the group does not matter
      CHECK(transform_problem(full, fit_of(row.channels, group)) == "");
      LinearMap expected;
      for (const HadamardFactor& f : row.factors) expected.factors.push_back(f);
      CHECK(fit_transforms({full}, fit_of(row.channels, group)) == expected);
    }
    if (row.channels > 1536) continue;
    // Every element of the whole matrix is +-1 / sqrt(K).
    const Matrix T = matrix_of(fit_transforms({full}, fit_of(row.channels, 16)), row.channels);
    int64_t wrong = 0;
    for (int64_t i = 0; i < T.size(); ++i)
      wrong += std::fabs(double(std::fabs(T.data()[i])) * std::sqrt(double(row.channels)) - 1) > 3e-7;
    CHECK(wrong == 0);
    if (row.channels <= 768) CHECK(skewness(T) < 1e-6);
  }
  TransformSpec random = kind(TransformSpec::hadamard, kFullWidth);
  random.randomize = true;
  const LinearMap map = fit_transforms({random}, fit_of(96, 16));
  CHECK(std::get<HadamardFactor>(map.factors.at(0)).signs.size() == 96);
  CHECK(std::get<HadamardFactor>(map.factors.at(1)).signs.empty());

  random.k = kFullWidth;
  for (const int64_t channels : {1, 3, 92, 33, 184, 14})
    CHECK(transform_problem(random, fit_of(channels, 1)) ==
          "hadamard: k = \"full\": no Hadamard matrix is known here for " + std::to_string(channels) +
              " channels, as a power of two times an order of Paley's");
}

TEST_CASE("hadamard: across heads", "[methods][transforms]") {
  const TransformSpec heads = kind(TransformSpec::hadamard, kHeads);
  CHECK(fit_transforms({heads}, fit_of(4096, 16, 128)) == LinearMap{{HadamardFactor{32, {}, 128}}});
  CHECK(fit_transforms({heads}, fit_of(1536, 16, 128)) == LinearMap{{HadamardFactor{12, {}, 128}}});
  // Two heads of three channels: sums and differences of the same channel.
  Matrix x(1, 6);
  for (int c = 0; c < 6; ++c) x(0, c) = float(c + 1);
  map_activations(fit_transforms({heads}, fit_of(6, 0, 3)), x);
  const double r = std::sqrt(0.5), expected[] = {5 * r, 7 * r, 9 * r, -3 * r, -3 * r, -3 * r};
  for (int c = 0; c < 6; ++c) CHECK(double(x(0, c)) == Approx(expected[c]).epsilon(1e-6));

  CHECK(
      transform_problem(heads, fit_of(4096, 16)) ==
      "hadamard: k = \"heads\" is for the site o of a model, whose input has heads; elsewhere k is a number "
      "or \"full\"");
  CHECK(transform_problem(heads, fit_of(4096, 16, 96)) ==
        "hadamard: heads of 96 channels do not divide 4096");
  CHECK(transform_problem(heads, fit_of(64, 16, 64)) == "hadamard: k = \"heads\" needs more than one head");
  CHECK(transform_problem(heads, fit_of(896, 16, 64)) ==
        "hadamard: no Hadamard matrix of order 14 is known here, for k = \"heads\" of 14 heads");
}

TEST_CASE("blocks: which sizes serve", "[methods][transforms]") {
  for (const auto type : {TransformSpec::dct, TransformSpec::dst, TransformSpec::random_orthogonal}) {
    const std::string name(entry_of(type).name);
    CAPTURE(name);
    for (const int64_t k : {0, 2, 3, 24, 48, -1})
      CHECK(transform_problem(kind(type, k), fit_of(48, 24)) == "");
    CHECK(transform_problem(kind(type, 5), fit_of(48, 16)) ==
          name + ": k = 5 does not divide 48 channels; blocks that do: 2, 3, 4, 6, 8, 12, 16, 24, 48");
    CHECK(transform_problem(kind(type, 0), fit_of(33, 16)) ==
          name + ": the format's group size 16 does not divide 33 channels; blocks that do: 3, 11, 33");
    CHECK(
        transform_problem(kind(type, 0), fit_of(33, 0)) ==
        name +
            ": the largest power of two, 1, is no block; those that divide 33 channels as \"k\": 3, 11, 33");
    CHECK(transform_problem(kind(type, 0), fit_of(1, 1)) ==
          name + ": no block of 2 or more divides 1 channels");
    CHECK(std::get<BlocksFactor>(fit_transforms({kind(type, 0)}, fit_of(48, 0)).factors.at(0)).k == 16);
    CHECK(std::get<BlocksFactor>(fit_transforms({kind(type, -1)}, fit_of(48, 16)).factors.at(0)).k == 48);
  }
  CHECK(transform_problem(kind(TransformSpec::gsr, kFullWidth), fit_of(64, 16)) == "");
  CHECK(transform_problem(kind(TransformSpec::gsr, kFullWidth), fit_of(48, 16)) ==
        "gsr: the full width 48 is not a power of two; those that divide 48 channels as \"k\": 2, 4, 8, 16");
}

TEST_CASE("gsr: coordinate s changes sign s times", "[methods][transforms]") {
  for (int64_t k = 2; k <= 256; k *= 2) {
    const LinearMap map = fit_transforms({kind(TransformSpec::gsr, k)}, fit_of(2 * k, 16));
    const Matrix T = matrix_of(map, 2 * k);
    CAPTURE(k);
    int64_t wrong = 0;
    for (int64_t block = 0; block < 2; ++block) {
      Matrix own(k, k);
      for (int64_t i = 0; i < k; ++i)
        for (int64_t j = 0; j < k; ++j) {
          own(i, j) = T(block * k + i, block * k + j);
          wrong += std::fabs(own(i, j)) != float(1 / std::sqrt(double(k)));
          wrong += T(block * k + i, (1 - block) * k + j) != 0;
        }
      for (int64_t s = 0; s < k; ++s) wrong += sign_changes(own, s) != s || own(0, s) < 0;
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("dct and dst: entries from the definition", "[methods][transforms]") {
  // k = 4, typed: cos and sin of multiples of pi / 8.
  const double c1 = std::sqrt(0.5) * 0.923879532511286756, c3 = std::sqrt(0.5) * 0.382683432365089772;
  const double dct[4][4] = {
      {0.5, c1, 0.5, c3}, {0.5, c3, -0.5, -c1}, {0.5, -c3, -0.5, c1}, {0.5, -c1, 0.5, -c3}};
  const double dst[4][4] = {
      {c3, 0.5, c1, 0.5}, {c1, 0.5, -c3, -0.5}, {c1, -0.5, -c3, 0.5}, {c3, -0.5, c1, -0.5}};
  const Matrix C = matrix_of(fit_transforms({kind(TransformSpec::dct, 4)}, fit_of(8, 16)), 8);
  const Matrix S = matrix_of(fit_transforms({kind(TransformSpec::dst, 4)}, fit_of(8, 16)), 8);
  for (int64_t i = 0; i < 8; ++i)
    for (int64_t j = 0; j < 8; ++j) {
      const bool inside = i / 4 == j / 4;
      CHECK(double(C(i, j)) == Approx(inside ? dct[i % 4][j % 4] : 0).margin(1e-7));
      CHECK(double(S(i, j)) == Approx(inside ? dst[i % 4][j % 4] : 0).margin(1e-7));
    }
  for (const int64_t k : {2, 3, 12, 16, 31, 128, 384})
    for (const auto type : {TransformSpec::dct, TransformSpec::dst}) {
      const Matrix T = matrix_of(fit_transforms({kind(type, k)}, fit_of(k, 16)), k);
      CAPTURE(k, int(type));
      CHECK(skewness(T) < 1e-6);  // k products with entries off by 2^-24 of 1 / sqrt(k)
      int64_t wrong = 0;          // the wave of column j crosses zero j times, and starts positive
      for (int64_t j = 0; j < k; ++j) wrong += sign_changes(T, j) != j || T(0, j) < 0;
      CHECK(wrong == 0);
    }
}

TEST_CASE("random_orthogonal: orthogonal, and every draw another", "[methods][transforms]") {
  for (const int64_t k : {2, 3, 8, 16, 50, 200}) {
    const TransformSpec spec = kind(TransformSpec::random_orthogonal, k);
    TransformFit fit = fit_of(3 * k, 16);
    const LinearMap map = fit_transforms({spec, spec}, fit);
    const auto& T = std::get<BlocksFactor>(map.factors.at(0)).weights;
    const auto& second = std::get<BlocksFactor>(map.factors.at(1)).weights;
    REQUIRE(int64_t(T.size()) == 3 * k * k);
    CAPTURE(k);
    const auto block = [&](const std::vector<float>& all, int64_t b) {
      Matrix m(k, k);
      std::copy_n(all.data() + b * k * k, k * k, m.data());
      return m;
    };
    for (int64_t b = 0; b < 3; ++b) CHECK(skewness(block(T, b)) < 1e-6);
    // Two Haar matrices are as far apart as their 2 k numbers of length 1 allow: tr(A^T B) is about N(0, 1).
    const auto alike = [&](const Matrix& a, const Matrix& b) {
      double sum = 0;
      for (int64_t i = 0; i < a.size(); ++i) sum += double(a.data()[i]) * double(b.data()[i]);
      return sum;
    };
    if (k < 8) continue;
    CHECK(std::fabs(alike(block(T, 0), block(T, 1))) < 5);
    CHECK(std::fabs(alike(block(T, 0), block(second, 0))) < 5);
    fit.seed = 2;
    CHECK(std::fabs(alike(block(T, 0),
                          block(std::get<BlocksFactor>(fit_transforms({spec}, fit).factors[0]).weights, 0))) <
          5);
    fit.seed = 1, fit.index = 1;
    CHECK(std::fabs(alike(block(T, 0),
                          block(std::get<BlocksFactor>(fit_transforms({spec}, fit).factors[0]).weights, 0))) <
          5);
  }
}

TEST_CASE("random_orthogonal: the moments of the Haar measure", "[methods][transforms]") {
  // Of 2000 3 x 3 blocks: E q_ij = 0, E q_ij^2 = 1/3, E q_ij^4 = 1/5, E det = 0 (both signs alike), E trace =
  // 0, E trace^2 = 1; five standard deviations of a mean of 2000 are 0.11 of its deviation.
  const int64_t blocks = 2000;
  const LinearMap map = fit_transforms({kind(TransformSpec::random_orthogonal, 3)}, fit_of(3 * blocks, 16));
  const std::vector<float>& T = std::get<BlocksFactor>(map.factors.at(0)).weights;
  double mean[9] = {}, second[9] = {}, fourth[9] = {}, det = 0, trace = 0, trace2 = 0;
  for (int64_t b = 0; b < blocks; ++b) {
    double q[9];
    for (int i = 0; i < 9; ++i) {
      q[i] = double(T[size_t(9 * b + i)]);
      mean[i] += q[i] / blocks, second[i] += q[i] * q[i] / blocks,
          fourth[i] += q[i] * q[i] * q[i] * q[i] / blocks;
    }
    const double own = q[0] + q[4] + q[8];
    trace += own / blocks, trace2 += own * own / blocks;
    det += (q[0] * (q[4] * q[8] - q[5] * q[7]) - q[1] * (q[3] * q[8] - q[5] * q[6]) +
            q[2] * (q[3] * q[7] - q[4] * q[6])) /
           blocks;
  }
  for (int i = 0; i < 9; ++i) {
    CAPTURE(i);
    CHECK(std::fabs(mean[i]) < 0.11 * std::sqrt(1 / 3.0));
    CHECK(std::fabs(second[i] - 1 / 3.0) < 0.11 * std::sqrt(1 / 5.0 - 1 / 9.0));
    CHECK(std::fabs(fourth[i] - 1 / 5.0) < 0.11 * std::sqrt(1 / 9.0 - 1 / 25.0));
  }
  CHECK(std::fabs(det) < 0.11);
  CHECK(std::fabs(trace) < 0.11);
  CHECK(std::fabs(trace2 - 1) < 0.11 * std::sqrt(2.0));
}

TEST_CASE("permute: balanced blocks and descending diagonals", "[methods][transforms]") {
  const auto order = [](const std::string& text, int64_t group, const std::vector<double>& values) {
    SiteStats stats;
    const int64_t K = int64_t(values.size());
    stats.mean_abs = values;
    stats.H = MatrixD::zeros(K, K);
    for (int64_t c = 0; c < K; ++c) stats.H(c, c) = values[size_t(c)];
    Matrix W = Matrix::zeros(1, K);
    const TransformSpec spec = sites::spec_of(text);
    REQUIRE(transform_problem(spec, fit_of(K, group)) == "");
    return std::get<PermutationFactor>(fit_transforms({spec}, fit_of(K, group), W, &stats).factors.at(0))
        .from;
  };
  using Order = std::vector<int32_t>;
  // 9 -> block 0, 8 -> 1, 7 -> 1 (15), 2 -> 0 (11), 1 -> 0 (full at 12), 1 -> 1.
  CHECK(order(R"({"type": "permute", "k": 3})", 2, {9, 8, 7, 2, 1, 1}) == Order{0, 3, 4, 1, 2, 5});
  // The group is the default; the lightest block is full when the last channels come.
  CHECK(order(R"("permute")", 2, {1, 10, 2, 9}) == Order{0, 1, 2, 3});
  CHECK(order(R"("permute")", 2, {10, 9, 2, 1}) == Order{0, 3, 1, 2});
  // All alike: round robin, by index.
  CHECK(order(R"("permute")", 2, {5, 5, 5, 5, 5, 5}) == Order{0, 3, 1, 4, 2, 5});
  CHECK(order(R"("permute")", 3, {0, 0, 0, 0, 0, 0}) == Order{0, 1, 2, 3, 4, 5});
  CHECK(order(R"({"type": "permute", "by": "hessian"})", 0, {1, 3, 2, 3, 0}) == Order{1, 3, 2, 0, 4});

  // Eight outliers side by side end in eight blocks.
  std::vector<double> mass(256, 1.0);
  for (size_t c = 100; c < 108; ++c) mass[c] = 100;
  const Order spread = order(R"("permute")", 32, mass);
  for (size_t b = 0; b < 8; ++b) {
    double sum = 0;
    for (size_t c = 0; c < 32; ++c) sum += mass[size_t(spread[32 * b + c])];
    CHECK(sum == 131);
    CHECK(std::is_sorted(spread.begin() + ptrdiff_t(32 * b), spread.begin() + ptrdiff_t(32 * b + 32)));
  }

  for (const char* text : {R"("permute")", R"({"type": "permute", "by": "hessian"})"})
    for (const double bad : {double(NAN), double(INFINITY)}) {
      std::string message;
      try {
        order(text, 2, {1, 2, bad, 4});
      } catch (const DataError& e) {
        message = e.what();
      }
      CAPTURE(text, message);
      CHECK(message.find("of channel 2 is ") != message.npos);
    }
  CHECK(transform_problem(sites::spec_of(R"("permute")"), fit_of(64, 0)) ==
        "permute: a scale per row leaves no blocks to balance; k is to be that of the rotation that follows");
  CHECK(transform_problem(sites::spec_of(R"({"type": "permute", "k": 5})"), fit_of(64, 16)) ==
        "permute: k = 5 does not divide 64 channels; blocks that do: 2, 4, 8, 16, 32, 64");
}

TEST_CASE("permute: what it looks at depends on its key", "[methods][transforms]") {
  const TransformSpec mass = sites::spec_of(R"("permute")"),
                      hessian = sites::spec_of(R"({"type": "permute", "by": "hessian"})"),
                      hadamard = sites::spec_of(R"("hadamard")");
  CHECK(needs_of({mass}) == StatsNeeds{true, false, false, false});
  CHECK(needs_of({hessian}) == StatsNeeds{false, true, false, false});
  CHECK(needs_of({hadamard, mass}) == StatsNeeds{true, false, false, true});
  CHECK(needs_of({hadamard, hessian}) == StatsNeeds{false, true, false, false});
  CHECK(needs_of({hadamard}) == StatsNeeds{});
}
