// The GPU's scores of tokens beside the CPU's, every field's bits.
#include "kernels/cuda/scores.h"

#include "kernels/cpu/elementwise.h"
#include "tests/kernels/cuda/gpu_matrix.h"

using namespace fp4lab;
using namespace fp4lab::test;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();

MatrixD fields(const std::vector<TokenScores>& scores) {
  MatrixD out(int64_t(scores.size()), 9);
  for (size_t t = 0; t < scores.size(); ++t) {
    const TokenScores& s = scores[t];
    const double row[] = {s.full.max,      s.full.sum,      s.full.label,      double(s.full.best),
                          s.quantized.max, s.quantized.sum, s.quantized.label, double(s.quantized.best),
                          s.cross};
    std::copy_n(row, 9, out.row(int64_t(t)));
  }
  return out;
}

/// Logits with what models do not give, a kind per row: ties, rows of -inf, zeros of both signs, NaN, +inf,
/// maxima that rise late.
Matrix logits(int64_t tokens, int64_t vocab, uint64_t seed) {
  Matrix l = numbers(tokens, vocab, seed);
  std::mt19937_64 random(seed);
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t i = 0; i < vocab; ++i) {
      float& x = l(t, i);
      switch (t % 10) {
        case 0: x = -kInf; break;
        case 1: x = random() % 2 ? 0.0f : -0.0f; break;
        case 2: x = i < vocab / 2 ? -kInf : x; break;
        case 3: x = random() % 5 ? x : kNan; break;
        case 4: x = float(int(random() % 5)) - 2; break;
        case 5: x += float(i) * 0.05f; break;
        case 6: x = kNan; break;
        case 7: x = i == vocab / 3 ? kInf : x; break;
        case 8: x = x > 0 ? (random() % 2 ? 0.0f : -0.0f) : x; break;
        default: break;
      }
    }
  return l;
}

}  // namespace

TEST_CASE("cuda: scores: every field has the CPU's bits, tile by tile and gathered", "[kernels][cuda]") {
  FP4LAB_NEEDS_GPU();
  for (const int64_t vocab : {1, 5, 8, 15, 16, 23, 100, 1000, 4099})
    for (const int64_t tile :
         {vocab, std::max<int64_t>(1, vocab / 3), std::max<int64_t>(1, vocab / 3 / 16 * 16)})
      for (const bool two : {false, true}) {
        if (vocab / tile > 20) continue;
        INFO(vocab << " entries, tiles of " << tile << (two ? ", two models" : ""));
        const int64_t tokens = 83;
        const Matrix full = logits(tokens, vocab, 1), other = logits(tokens + 1, vocab, 2);
        const OnGpu<float> a(full), b(other);
        std::vector<int32_t> labels;
        for (int64_t t = 0; t < tokens; ++t) labels.push_back(t % 7 ? int32_t(t * 13 % vocab) : -1);
        std::vector<TokenScores> want(tokens), one(tokens), gathered(tokens);
        cuda::ScoreTiles tiles(gpu(), labels, gathered);
        for (int64_t first = 0; first < vocab; first += tile) {
          const int64_t n = std::min(tile, vocab - first);
          // One row further on, so that the two models meet different kinds.
          const auto second = [&](MatrixView<const float> x) {
            return two ? part(x.middle_rows(1, tokens), first, n) : MatrixView<const float>{};
          };
          const MatrixView<const float> l = part<const float>(a.view(), first, n);
          update_scores(part<const float>(full.view(), first, n), second(other), first, labels, want);
          cuda::update_scores(gpu(), l, second(b.view()), first, labels, one);
          // The tokens in two parts.
          const auto rows = [](MatrixView<const float> x, int64_t begin, int64_t count) {
            return x.data ? x.middle_rows(begin, count) : x;
          };
          tiles.update(rows(l, 0, 40), rows(second(b.view()), 0, 40), first, 0);
          tiles.update(rows(l, 40, tokens - 40), rows(second(b.view()), 40, tokens - 40), first, 40);
        }
        tiles.finish(gathered);
        CHECK(difference(fields(one), fields(want)) == "");
        CHECK(difference(fields(gathered), fields(want)) == "");
      }
  std::vector<TokenScores> none;
  cuda::update_scores(gpu(), {nullptr, 0, 10, 10}, {}, 0, {}, none);
  gpu().wait();
}
