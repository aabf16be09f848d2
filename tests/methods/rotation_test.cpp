// Rotated weights against plain products with dense rotations in double.
#include "methods/rotation/rotated_model.h"

#include <omp.h>

#include <bit>

#include "kernels/cpu/linear_map.h"
#include "tests/catch.h"
#include "tests/methods/made_up_model.h"

using namespace fp4lab;
using namespace fp4lab::test;
using Norm = ModelWeights::Norm;

namespace {

MatrixD identity(int64_t n) {
  MatrixD I = MatrixD::zeros(n, n);
  for (int64_t i = 0; i < n; ++i) I(i, i) = 1;
  return I;
}
/// (power kron) Sylvester within runs, hadamard_matrix(dense) between them, over sqrt(size); row i times
/// sign i.
MatrixD rotation(const Width& w, const std::vector<double>& signs) {
  const std::vector<int8_t> H = hadamard_matrix(w.dense);
  MatrixD R(w.size(), w.size());
  for (int64_t i = 0; i < w.size(); ++i)
    for (int64_t j = 0; j < w.size(); ++j) {
      const int sylvester = std::popcount(uint64_t((i % w.power) & (j % w.power))) % 2 ? -1 : 1;
      const int between = H[size_t(i / w.power * w.dense + j / w.power)];
      R(i, j) = sylvester * between / std::sqrt(double(w.size())) * (signs.empty() ? 1 : signs[size_t(i)]);
    }
  return R;
}
std::vector<double> signs_of(uint64_t seed, int64_t n) {
  std::vector<double> signs;
  for (int64_t i = 0; i < n; ++i)
    signs.push_back(Stream(seed, "rotation signs", 0).block(uint64_t(i))[0] & 1 ? -1 : 1);
  return signs;
}
/// The same matrix for each of n heads.
MatrixD blocks(const MatrixD& R, int64_t n) {
  const int64_t d = R.rows();
  MatrixD B = MatrixD::zeros(n * d, n * d);
  for (int64_t i = 0; i < n * d; ++i)
    for (int64_t j = 0; j < d; ++j) B(i, i / d * d + j) = R(i % d, j);
  return B;
}
/// L^T diag W diag(gain) R, as doubles.
MatrixD moved(const MatrixD& L, const Matrix& W, const std::vector<float>& gain, const MatrixD& R) {
  MatrixD right = MatrixD::zeros(W.rows(), R.cols()), out = MatrixD::zeros(L.cols(), R.cols());
  for (int64_t i = 0; i < W.rows(); ++i)
    for (int64_t k = 0; k < W.cols(); ++k) {
      const double w = double(W(i, k)) * (gain.empty() ? 1 : double(gain[size_t(k)]));
      for (int64_t j = 0; j < R.cols(); ++j) right(i, j) += w * R(k, j);
    }
  for (int64_t k = 0; k < L.rows(); ++k)
    for (int64_t i = 0; i < L.cols(); ++i)
      for (int64_t j = 0; j < R.cols(); ++j) out(i, j) += L(k, i) * right(k, j);
  return out;
}
/// The largest difference over the largest number.
double distance(const Matrix& got, const MatrixD& want) {
  REQUIRE((got.rows() == want.rows() && got.cols() == want.cols()));
  double worst = 0, largest = 0;
  for (int64_t i = 0; i < want.size(); ++i) {
    worst = std::max(worst, std::fabs(double(got.data()[i]) - want.data()[i]));
    largest = std::max(largest, std::fabs(want.data()[i]));
  }
  return worst / largest;
}
bool same(const Matrix& a, const Matrix& b) {
  return a.rows() == b.rows() && a.cols() == b.cols() && std::equal(a.data(), a.data() + a.size(), b.data());
}

}  // namespace

TEST_CASE("rotation: every tensor is what the equations say", "[methods][rotation]") {
  for (const Case& c : kCases)
    for (const RotationSpec& spec : {kBoth, kStreamOnly})
      DYNAMIC_SECTION(c.name << (spec.heads ? ", heads" : "")) {
        const TempFolder folder;
        const Checkpoint model = make_up(folder, c.shape);
        const RotatedModel rotated(model, spec, 11);
        const MatrixD R1 = rotation(c.hidden, signs_of(11, c.hidden.size()));
        const MatrixD R2 = spec.heads ? rotation(c.head, {}) : identity(c.shape.head_dim);
        const double bound = 1e-6;  // of the largest number; about 1e-7 is what float32 gives
        for (int64_t layer = 0; layer < MadeUp::layers; ++layer) {
          const std::vector<float> in = model.load_norm(layer, Norm::input),
                                   post = model.load_norm(layer, Norm::post_attention);
          const std::vector<float> none;
          for (int i = 0; i < kLinears; ++i) {
            const auto l = Linear(i);
            const Matrix W = model.load(layer, l), got = rotated.load(layer, l);
            const auto want = [&]() -> MatrixD {
              switch (l) {
                case Linear::q:
                case Linear::k: return moved(identity(W.rows()), W, in, R1);
                case Linear::v: return moved(blocks(R2, c.shape.kv_heads), W, in, R1);
                case Linear::o: return moved(R1, W, none, blocks(R2, c.shape.heads));
                case Linear::gate:
                case Linear::up: return moved(identity(W.rows()), W, post, R1);
                case Linear::down: return moved(R1, W, none, identity(W.cols()));
              }
              return {};
            };
            CAPTURE(linear_name(layer, l));
            CHECK(distance(got, want()) < bound);
            CHECK_FALSE(same(got, W));
          }
        }
        CHECK(distance(rotated.load_head(0, MadeUp::vocab),
                       moved(identity(MadeUp::vocab), model.load_head(0, MadeUp::vocab),
                             model.load_final_norm(), R1)) < bound);
        Matrix E(3, c.shape.hidden), rotated_E(3, c.shape.hidden);
        const int32_t ids[] = {52, 0, 17};
        model.embed(ids, E);
        rotated.embed(ids, rotated_E);
        CHECK(distance(rotated_E, moved(identity(3), E, {}, R1)) < bound);
      }
}

TEST_CASE("rotation: the norms of the stream are exactly one, those of heads stay", "[methods][rotation]") {
  for (const Case& c : kCases) {
    const TempFolder folder;
    const Checkpoint model = make_up(folder, c.shape);
    const RotatedModel rotated(model, kBoth, 1);
    const std::vector<float> ones(size_t(c.shape.hidden), 1.0f);
    CAPTURE(c.name);
    for (int64_t layer = 0; layer < MadeUp::layers; ++layer) {
      CHECK(rotated.load_norm(layer, Norm::input) == ones);
      CHECK(rotated.load_norm(layer, Norm::post_attention) == ones);
      if (!c.shape.qwen3) continue;
      CHECK(rotated.load_norm(layer, Norm::q) == model.load_norm(layer, Norm::q));
      CHECK(rotated.load_norm(layer, Norm::k) == model.load_norm(layer, Norm::k));
    }
    CHECK(rotated.load_final_norm() == ones);
    CHECK_FALSE(rotated.config().tied_head);
    CHECK(model.config().tied_head == c.shape.tied);
    CHECK(rotated.path() == model.path());
    for (int l = 0; l < kLinears; ++l) CHECK(rotated.shape(Linear(l)) == model.shape(Linear(l)));
  }
}

TEST_CASE("rotation: bits depend on the seed alone, not on how much is read at once or on threads",
          "[methods][rotation]") {
  for (const Case& c : {kCases[0], kCases[4]}) {
    const TempFolder folder;
    const Checkpoint model = make_up(folder, c.shape);
    const RotatedModel rotated(model, kBoth, 1), again(model, kBoth, 1), other(model, kBoth, 2);
    CAPTURE(c.name);
    for (int s = 0; s < kSites; ++s) {
      const Matrix W = rotated.load(1, linears_of(SiteKind(s)));
      CHECK(same(W, again.load(1, linears_of(SiteKind(s)))));
      CHECK_FALSE(same(W, other.load(1, linears_of(SiteKind(s)))));
      const int before = omp_get_max_threads();
      for (const int threads : {1, 3}) {
        omp_set_num_threads(threads);
        CHECK(same(W, rotated.load(1, linears_of(SiteKind(s)))));
      }
      omp_set_num_threads(before);
      int64_t row = 0;
      for (const Linear l : linears_of(SiteKind(s))) {
        const Matrix part = rotated.load(1, l);
        CHECK(std::equal(part.data(), part.data() + part.size(), W.row(row)));
        row += part.rows();
      }
    }
    const Matrix head = rotated.load_head(0, MadeUp::vocab), rows = rotated.load_head(7, 20);
    CHECK(std::equal(rows.data(), rows.data() + rows.size(), head.row(7)));
    CHECK_FALSE(same(head, other.load_head(0, MadeUp::vocab)));
    CHECK(rotated.load_head(5, 0).size() == 0);
  }
}

TEST_CASE("rotation: widths that no known Hadamard matrix has are refused by name", "[methods][rotation]") {
  const auto problem = [](int64_t hidden, int64_t head, const RotationSpec& spec) {
    ModelConfig config{};
    config.hidden_size = hidden, config.head_dim = head;
    return rotation_problem(spec, config);
  };
  for (const int64_t width : {2, 4, 12, 20, 24, 28, 48, 64, 1536, 3584, 4096, 5120, 8192, 14336, 28672}) {
    CAPTURE(width);
    CHECK(problem(width, 64, kBoth) == "");
    CHECK(problem(64, width, kBoth) == "");
  }
  // 92 = 4 * 23: 91 and 45 are no prime powers; 6 and 46 are no multiples of 4.
  CHECK(problem(92, 64, kBoth) ==
        "rotation: hidden_size is 92, 23 times a power of two, and no Hadamard matrix of such an order is "
        "known here");
  CHECK(problem(64, 6, kBoth) ==
        "rotation: head_dim is 6, 3 times a power of two, and no Hadamard matrix of such an order is known "
        "here");
  CHECK(problem(64, 6, kStreamOnly) == "");
  CHECK(problem(92, 6, {}) == "");

  const TempFolder folder;
  const Checkpoint model = make_up(folder, {false, 92, 8, 2, 1, 6, false});
  CHECK(message_of<ConfigError>([&] { RotatedModel(model, kBoth, 1); }) ==
        folder.path().string() +
            ": rotation: hidden_size is 92, 23 times a power of two, and no Hadamard "
            "matrix of such an order is known here");
  CHECK_THROWS_AS(RotatedModel(model, {}, 1), Fault);
}
