#include <omp.h>

#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "core/random.h"
#include "kernels/cpu/elementwise.h"
#include "tests/catch.h"

using namespace fp4lab;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();

/// update_scores over tiles of `tile` entries, out of wider matrices.
std::vector<TokenScores> score(const Matrix& full, const Matrix* quantized, std::vector<int32_t> labels,
                               int64_t tile) {
  std::vector<TokenScores> scores(size_t(full.rows()));
  for (int64_t first = 0; first < full.cols(); first += tile) {
    const int64_t n = std::min(tile, full.cols() - first);
    const MatrixView<const float> f{full.data() + first, full.rows(), n, full.cols()};
    MatrixView<const float> q;
    if (quantized) q = {quantized->data() + first, full.rows(), n, full.cols()};
    update_scores(f, q, first, labels, scores);
  }
  return scores;
}

/// Logits of one token, alone.
TokenScores score_one(const std::vector<float>& full, const std::vector<float>& quantized, int64_t tile) {
  Matrix f(1, int64_t(full.size())), q(1, int64_t(full.size()));
  for (int64_t i = 0; i < f.cols(); ++i) f(0, i) = full[size_t(i)];
  for (size_t i = 0; i < quantized.size(); ++i) q(0, int64_t(i)) = quantized[i];
  return score(f, quantized.empty() ? nullptr : &q, {-1}, tile)[0];
}

double log_partition(const LogitSums& s) { return double(s.max) + std::log(s.sum); }
double kl(const TokenScores& s) {
  return s.cross / s.full.sum - log_partition(s.full) + log_partition(s.quantized);
}

bool same(const LogitSums& a, const LogitSums& b) {
  return a.max == b.max && a.sum == b.sum && a.label == b.label && a.best == b.best;
}
bool same(const TokenScores& a, const TokenScores& b) {
  return same(a.full, b.full) && same(a.quantized, b.quantized) && a.cross == b.cross;
}

struct Logits {
  Matrix full, quantized;
  std::vector<int32_t> labels;
};
/// Tokens whose logits spread more and more, and a quantized model that is near, then far, then exactly
/// equal.
Logits random_logits(int64_t tokens, int64_t vocabulary) {
  Logits l{Matrix(tokens, vocabulary), Matrix(tokens, vocabulary), {}};
  const Stream stream(91, "logits");
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < vocabulary; ++i) {
      const auto [a, b] = normal_pair(stream.block(uint64_t(t * vocabulary + i)));
      l.full(t, i) = float(a * double(t + 1) - 5);
      l.quantized(t, i) = l.full(t, i) + (t % 3 == 2 ? 0.0f : float(b) * (t % 3 == 1 ? 3.0f : 0.05f));
    }
    l.labels.push_back(t % 4 == 3 ? -1 : int32_t(t * 37 % vocabulary));
  }
  return l;
}

}  // namespace

TEST_CASE("update_scores: a softmax over the whole vocabulary in double", "[kernels][elementwise]") {
  const int64_t tokens = 12;
  for (int64_t vocabulary : {1, 15, 16, 17, 1000})
    for (int64_t tile : {1, 7, 16, 100, 333, 1000}) {
      const Logits l = random_logits(tokens, vocabulary);
      const std::vector<TokenScores> got = score(l.full, &l.quantized, l.labels, tile);
      for (int64_t t = 0; t < tokens; ++t) {
        long double sum[2] = {0, 0}, max[2], cross = 0, moved = 0, spread = 0;
        int64_t best[2] = {0, 0};
        for (int m = 0; m < 2; ++m) {
          const float* x = m ? l.quantized.row(t) : l.full.row(t);
          for (int64_t i = 1; i < vocabulary; ++i)
            if (x[i] > x[best[m]]) best[m] = i;
          max[m] = x[best[m]];
          for (int64_t i = 0; i < vocabulary; ++i) {
            sum[m] += std::exp(x[i] - max[m]);
            spread = std::max(spread, max[m] - x[i]);
          }
        }
        for (int64_t i = 0; i < vocabulary; ++i) {
          const long double p = std::exp(l.full(t, i) - max[0]) / sum[0];
          const long double d = (long double)(l.full(t, i)) - l.quantized(t, i);
          cross += p * d, moved += p * std::fabs(d);
        }
        const long double log_sum[2] = {max[0] + std::log(sum[0]), max[1] + std::log(sum[1])};
        const TokenScores& s = got[size_t(t)];
        CAPTURE(vocabulary, tile, t);
        CHECK((s.full.max == float(max[0]) && s.quantized.max == float(max[1])));
        CHECK((s.full.best == best[0] && s.quantized.best == best[1]));
        const int32_t label = l.labels[size_t(t)];
        CHECK(s.full.label == (label < 0 ? 0 : l.full(t, label)));
        CHECK(s.quantized.label == (label < 0 ? 0 : l.quantized(t, label)));
        // With u = 2^-24 a weight is off by the factor 1 + 2u (exp) + u spread (rounding of l - max), so its
        // sums are; the rest is double.
        const double off = 0x1p-24 * double(2 + spread) * 1.01 + 1e-13;
        CHECK(std::fabs(log_partition(s.full) - double(log_sum[0])) <= off);
        CHECK(std::fabs(log_partition(s.quantized) - double(log_sum[1])) <= off);
        CHECK(std::fabs(kl(s) - double(cross - log_sum[0] + log_sum[1])) <= off * (2 + 2 * double(moved)));
        if (t % 3 == 2) CHECK((s.cross == 0 && kl(s) == 0));  // equal models
      }
    }
}

TEST_CASE("update_scores: one model, and any number of threads", "[kernels][elementwise]") {
  const Logits l = random_logits(20, 500);
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  const std::vector<TokenScores> both = score(l.full, &l.quantized, l.labels, 64);
  for (int threads : {2, 3}) {
    omp_set_num_threads(threads);
    const std::vector<TokenScores> again = score(l.full, &l.quantized, l.labels, 64);
    for (size_t t = 0; t < both.size(); ++t) CHECK(same(again[t], both[t]));
  }
  omp_set_num_threads(before);
  const std::vector<TokenScores> one = score(l.full, nullptr, l.labels, 64);
  for (size_t t = 0; t < both.size(); ++t)
    CHECK((same(one[t].full, both[t].full) && same(one[t].quantized, LogitSums{}) && one[t].cross == 0));
}

TEST_CASE("update_scores: a label is taken from its own tile alone", "[kernels][elementwise]") {
  Matrix l(1, 30);
  for (int64_t i = 0; i < 30; ++i) l(0, i) = float(i + 1);
  for (int32_t label = -1; label < 30; ++label) {
    std::vector<TokenScores> scores(1);
    const std::vector<int32_t> labels = {label};
    const MatrixView<const float> tile{l.data() + 10, 1, 10, 30};
    update_scores(tile, tile, 10, labels, scores);
    const float want = label >= 10 && label < 20 ? float(label + 1) : 0.0f;
    CAPTURE(label);
    CHECK((scores[0].full.label == want && scores[0].quantized.label == want));
  }
}

TEST_CASE("update_scores: ties take the first, in a tile and across tiles", "[kernels][elementwise]") {
  for (int64_t tile : {1, 2, 3, 20, 40})
    for (int32_t first = 0; first < 40; ++first) {
      std::vector<float> l(40, 1);
      l[size_t(first)] = 2, l[39] = 2, l[size_t(first + 39) / 2] = 2;
      CAPTURE(tile, first);
      CHECK(score_one(l, {}, tile).full.best == first);
      CHECK(score_one(std::vector<float>(40, -3), l, tile).quantized.best == first);
      CHECK(score_one(std::vector<float>(40, -3), l, tile).full.best == 0);
    }
}

TEST_CASE("update_scores: logits of -inf add nothing", "[kernels][elementwise]") {
  const float out = -kInf;
  for (int64_t tile : {1, 2, 3, 16, 33}) {
    CAPTURE(tile);
    std::vector<float> full(33, out), quantized(33, out);
    TokenScores s = score_one(full, quantized, tile);  // nothing but them
    CHECK((s.full.max == out && s.full.sum == 0 && s.full.best == 0 && s.cross == 0));
    full[20] = 1, full[30] = 3, quantized[20] = 2, quantized[30] = 2;
    s = score_one(full, quantized, tile);
    CHECK((s.full.max == 3 && s.full.best == 30 && s.quantized.best == 20 && s.quantized.sum == 2));
    CHECK(s.full.sum == Approx(1 + std::exp(-2.0)).epsilon(1e-7));
    CHECK(s.cross == Approx(1 - std::exp(-2.0)).epsilon(1e-7));
    quantized[5] = 4;  // the quantized model alone allows this one: its weight is 0
    s = score_one(full, quantized, tile);
    CHECK((s.quantized.best == 5 && s.cross == Approx(1 - std::exp(-2.0)).epsilon(1e-7)));
    full[5] = 500;  // the full model alone allows entry 7, and almost alone entry 5
    full[7] = 499, quantized[7] = out;
    s = score_one(full, quantized, tile);
    CHECK((s.cross == kInf && s.full.best == 5 && std::isfinite(s.full.sum)));
    full[32] = 3000;  // however little entry 7 weighs in the end, it is not NaN
    CHECK(!std::isnan(score_one(full, quantized, tile).cross));
  }
}

TEST_CASE("update_scores: far apart and huge logits do not overflow", "[kernels][elementwise]") {
  for (int64_t tile : {1, 2, 4}) {
    const TokenScores s = score_one({-3e38f, 1e4f, -1e4f, 3e38f}, {3e38f, -1e4f, 1e4f, -3e38f}, tile);
    CHECK((s.full.sum == 1 && s.full.best == 3 && s.quantized.sum == 1 && s.quantized.best == 0));
    CHECK(s.cross == 2 * double(3e38f));
  }
}

TEST_CASE("update_scores: a NaN stays visible", "[kernels][elementwise]") {
  for (int64_t tile : {1, 3, 16, 40})
    for (size_t at = 0; at < 40; ++at) {
      std::vector<float> bad(40, 1.5f), fine(40, 0.5f);
      bad[at] = kNan;
      CAPTURE(tile, at);
      TokenScores s = score_one(bad, fine, tile);
      CHECK((std::isnan(s.full.sum) && std::isnan(s.cross) && s.quantized.sum == 40));
      s = score_one(fine, bad, tile);
      CHECK((s.full.sum == 40 && std::isnan(s.quantized.sum) && std::isnan(s.cross)));
    }
}

TEST_CASE("update_scores: shapes that do not fit are named", "[kernels][elementwise]") {
  const Matrix full = Matrix::zeros(2, 8), narrow = Matrix::zeros(2, 7);
  std::vector<TokenScores> scores(2);
  const std::vector<int32_t> labels(2, -1), one(1, -1);
  const auto fault = [&](const Matrix& quantized, const std::vector<int32_t>& ids) -> std::string {
    try {
      update_scores(full, quantized, 0, ids, scores);
    } catch (const Fault& e) {
      return e.what();
    }
    return "no fault";
  };
  CHECK(fault(full, labels) == "no fault");
  CHECK(fault(narrow, labels).find("full (2, 8), quantized (2, 7)") != std::string::npos);
  CHECK(fault(full, one).find("2 tokens, 1 labels, 2 scores") != std::string::npos);
}
