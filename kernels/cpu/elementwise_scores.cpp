// update_scores of elementwise.h. Compiled once, for 8 lanes. With 16, two models took 1.25 instead of 1.5 ns
// per entry (one Zen 4 core, data in cache); making both logits from 512 channels takes 19 ns at that core's
// peak.
#define FP4LAB_VECTOR 8
#include <cmath>

#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/vector_math.h"

namespace fp4lab {

namespace {

constexpr float kMinusInf = -std::numeric_limits<float>::infinity();

/// The largest logit; NaNs are passed over, -inf when nothing else is there.
float largest_of(const float* l, int64_t n) {
  FloatLanes top = Lanes<FloatLanes>::all(kMinusInf);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const FloatLanes x = load(l + i);
    top = x > top ? x : top;
  }
  float best = largest(top);
  for (; i < n; ++i) best = l[i] > best ? l[i] : best;
  return best;
}

/// Where exponents are taken from. While all logits are -inf nothing may be subtracted: -inf + inf is NaN.
float base_of(const LogitSums& s) { return s.max == kMinusInf ? 0.0f : s.max; }

/// Takes the maximum, its place and the label's logit from a tile, and moves the sum to the new maximum.
/// Returns the factor that did so.
double begin_tile(LogitSums& s, const float* l, int64_t n, int64_t first, int32_t label) {
  if (label >= first && label < first + n) s.label = l[label - first];
  const float old = s.max, found = largest_of(l, n);
  if (found > old || s.best < 0)
    for (int64_t i = 0; i < n; ++i)
      if (l[i] == found) {
        s.best = int32_t(first + i);
        break;
      }
  if (!(found > old)) return 1;
  s.max = found;
  const double factor = std::exp(double(old) - double(found));  // 0 before the first finite logit
  s.sum *= factor;
  return factor;
}

struct TileSums {
  double sum, cross;
};

/// sum of w = exp(l - base) and, with `other`, of w (l - other). What has no weight adds nothing, whatever
/// `other` is.
TileSums tile_sums(const float* l, const float* other, int64_t n, float base) {
  Sum16 sum, cross;
  const auto add = [&](const float* x, const float* y) {
    float weights[16];
    for (int i = 0; i < 16; i += kLanes) store(weights + i, exp_lanes(load(x + i) - base));
    for (int p = 0; p < 4; ++p) {
      const __m256d w = widen(weights + 4 * p);
      sum.add(p, w);
      if (y) cross.add(p, w == 0.0 ? __m256d{} : w * (widen(x + 4 * p) - widen(y + 4 * p)));
    }
  };
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) add(l + i, other ? other + i : nullptr);
  if (i < n) {
    float x[16], y[16];
    for (int64_t j = 0; j < 16; ++j) {
      x[j] = i + j < n ? l[i + j] : kMinusInf;
      y[j] = other && i + j < n ? other[i + j] : 0;
    }
    add(x, other ? y : nullptr);
  }
  return {sum.total(), cross.total()};
}

}  // namespace

void update_scores(MatrixView<const float> full, MatrixView<const float> quantized, int64_t first,
                   std::span<const int32_t> labels, std::span<TokenScores> scores) {
  FP4LAB_CHECK(int64_t(labels.size()) == full.rows && int64_t(scores.size()) == full.rows, full.rows,
               " tokens, ", labels.size(), " labels, ", scores.size(), " scores");
  FP4LAB_CHECK(!quantized.data || (quantized.rows == full.rows && quantized.cols == full.cols), "full (",
               full.rows, ", ", full.cols, "), quantized (", quantized.rows, ", ", quantized.cols, ")");
#pragma omp parallel for schedule(static) if (full.size() > 1 << 14)
  for (int64_t t = 0; t < full.rows; ++t) {
    TokenScores& s = scores[size_t(t)];
    const float *l = full.row(t), *other = quantized.data ? quantized.row(t) : nullptr;
    const double factor = begin_tile(s.full, l, full.cols, first, labels[size_t(t)]);
    if (std::isfinite(s.cross)) s.cross *= factor;  // an Inf stays: times a vanished factor it would be NaN
    const TileSums sums = tile_sums(l, other, full.cols, base_of(s.full));
    s.full.sum += sums.sum;
    s.cross += sums.cross;
    if (!other) continue;
    begin_tile(s.quantized, other, full.cols, first, labels[size_t(t)]);
    s.quantized.sum += tile_sums(other, nullptr, full.cols, base_of(s.quantized)).sum;
  }
}

}  // namespace fp4lab
