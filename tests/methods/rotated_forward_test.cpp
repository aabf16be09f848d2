// A rotated model is the same function in other weights.
//
// The bound on logits. A product of K terms in float32 is off by about sqrt(K) u of |x| |w|, u = 2^-24, in
// either model. A weight row that went through a rotation of p * m channels (butterflies over p, sums of m)
// and a fold is off by at most r = (log2 p + m + 3) u of its norm (one rounding of every number per stage), a
// fold stretches that by at most kappa, the ratio of the largest gain to the smallest. In step over the four
// sites of a block and all blocks, and with the model's own gain g for a disturbance of the embeddings, as in
// tests/kernels/forward_test.cpp:
//   |difference of logit (t, v)| <= (g L (sum over sites of 2 sqrt(K) u + kappa r) + r_head) kappa |h_t|
//   |w_v|
#include <algorithm>

#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/gemm.h"
#include "kernels/forward/forward.h"
#include "methods/rotation/rotated_model.h"
#include "tests/catch.h"
#include "tests/methods/made_up_model.h"

using namespace fp4lab;
using namespace fp4lab::test;
using Norm = ModelWeights::Norm;

namespace {

/// `model`, but for one of its pieces, which is the one of `other`.
class Patched final : public ModelWeights {
 public:
  Patched(const ModelWeights& model, const ModelWeights& other, std::string piece)
      : model_(model), other_(other), piece_(std::move(piece)) {}
  const ModelConfig& config() const override { return model_.config(); }
  const std::string& path() const override { return model_.path(); }
  Matrix load(int64_t layer, std::span<const Linear> l) const override {
    return from(name(site_of(l[0]))).load(layer, l);
  }
  std::vector<float> load_norm(int64_t layer, Norm n) const override {
    return from(n == Norm::input            ? "input norm"
                : n == Norm::post_attention ? "post norm"
                                            : "head norms")
        .load_norm(layer, n);
  }
  std::vector<float> load_final_norm() const override { return from("final norm").load_final_norm(); }
  void embed(std::span<const int32_t> ids, MatrixView<float> out) const override {
    from("embedding").embed(ids, out);
  }
  Matrix load_head(int64_t begin, int64_t count) const override {
    return from("lm_head").load_head(begin, count);
  }

 private:
  const ModelWeights& from(std::string_view piece) const { return piece == piece_ ? other_ : model_; }
  const ModelWeights &model_, &other_;
  std::string piece_;
};

constexpr int64_t kTokens = 24;
std::vector<int32_t> some_ids() {
  std::vector<int32_t> ids;
  for (uint64_t i = 0; i < kTokens; ++i) ids.push_back(int32_t(Stream(3, "ids").below(i, MadeUp::vocab)));
  return ids;
}

Matrix last_hidden(Ops& ops, const ModelWeights& model, double noise = 0) {
  Matrix h(kTokens, model.config().hidden_size);
  model.embed(some_ids(), h);
  for (int64_t i = 0; i < h.size(); ++i)
    h.data()[i] *= float(1 + (Stream(4, "noise").below(uint64_t(i), 2) ? noise : -noise));
  Forward forward(ops, model.config(), 1, kTokens);
  for (int64_t layer = 0; layer < model.config().layers; ++layer)
    run_layer(ops, forward, load_block(ops, model, layer), h, [] {});
  return h;
}
Matrix final_states(Ops& ops, const ModelWeights& model, double noise = 0) {
  Matrix h = last_hidden(ops, model, noise);
  rms_norm(h, model.load_final_norm(), float(model.config().rms_norm_eps), h);
  return h;
}
Matrix logits(const Matrix& states, const ModelWeights& model) {
  Matrix y(kTokens, MadeUp::vocab);
  gemm(states, model.load_head(0, MadeUp::vocab), y);
  return y;
}
double norm(const float* x, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += double(x[i]) * double(x[i]);
  return std::sqrt(sum);
}

double rounding(const Width& w) { return (std::log2(double(w.power)) + double(w.dense) + 3) * 0x1p-24; }

/// Worst difference of a logit, of |h_t| |w_v| of the model that `states` are of.
double worst(const Matrix& got, const Matrix& want, const Matrix& states, const Matrix& head) {
  double largest = 0;
  for (int64_t t = 0; t < want.rows(); ++t)
    for (int64_t v = 0; v < want.cols(); ++v)
      largest = std::max(largest, std::fabs(double(got(t, v)) - double(want(t, v))) /
                                      norm(states.row(t), states.cols()) / norm(head.row(v), head.cols()));
  return largest;
}

}  // namespace

TEST_CASE("rotation: the same logits in full precision, and not when a piece is left as it was",
          "[methods][rotation]") {
  const std::unique_ptr<Ops> ops = make_cpu_ops();
  for (const Case& c : kCases) DYNAMIC_SECTION(c.name) {
      const TempFolder folder;
      const Checkpoint model = make_up(folder, c.shape);
      const RotatedModel rotated(model, kBoth, 5), stream_only(model, kStreamOnly, 5), other(model, kBoth, 6);
      const Matrix states = final_states(*ops, model), head = model.load_head(0, MadeUp::vocab),
                   want = logits(states, model);

      const double noise = 0x1p-12, kappa = kLargestGain / kSmallestGain;
      const Matrix disturbed = final_states(*ops, model, noise);
      double gain = 0;
      for (int64_t t = 0; t < kTokens; ++t) {
        double moved = 0;
        for (int64_t i = 0; i < states.cols(); ++i)
          moved += std::pow(double(states(t, i)) - double(disturbed(t, i)), 2);
        gain = std::max(gain, std::sqrt(moved) / norm(states.row(t), states.cols()) / noise);
      }
      double per_block = 0;
      for (int s = 0; s < kSites; ++s) {
        const auto inputs = double(model.shape(linears_of(SiteKind(s))[0])[1]);
        per_block += 2 * std::sqrt(inputs) * 0x1p-24 + kappa * rounding(c.hidden);
        if (SiteKind(s) == SiteKind::o || SiteKind(s) == SiteKind::qkv) per_block += rounding(c.head);
      }
      const double at_head =
          2 * std::sqrt(double(c.shape.hidden)) * 0x1p-24 + (kappa + 1) * rounding(c.hidden);
      const double bound = kappa * (gain * double(MadeUp::layers) * per_block + at_head);

      const auto error = [&](const ModelWeights& m) {
        return worst(logits(final_states(*ops, m), m), want, states, head);
      };
      const double both = error(rotated), without_heads = error(stream_only), reseeded = error(other);
      INFO("gain " << gain << ", bound " << bound << ", worst " << both << ", " << without_heads << ", "
                   << reseeded);
      CHECK(both <= bound);
      CHECK(without_heads <= bound);
      CHECK(reseeded <= bound);
      // In fact errors add up as a random walk, over fewer than all stages: 2e-7 to 5e-7 here.
      CHECK(std::max({both, without_heads, reseeded}) < 2e-6);
      CHECK(both > 0);  // other weights: other roundings
      CHECK(bound < 1e-3);

      for (const char* piece :
           {"qkv", "o", "gate_up", "down", "input norm", "post norm", "final norm", "embedding", "lm_head"}) {
        CAPTURE(piece);
        CHECK(error(Patched(rotated, model, piece)) > 10 * bound);
      }
      CHECK(error(Patched(rotated, stream_only, "o")) > 10 * bound);    // R2 on v alone
      CHECK(error(Patched(rotated, stream_only, "qkv")) > 10 * bound);  // on o alone
      CHECK(error(Patched(rotated, other, "down")) > 10 * bound);       // another R1
      // What both have, either may lend.
      CHECK(error(Patched(rotated, stream_only, "gate_up")) == both);
      if (c.shape.qwen3) CHECK(error(Patched(rotated, model, "head norms")) == both);
    }
}

TEST_CASE("score_tokens: the quantized model's own norm and head", "[methods][rotation]") {
  const std::unique_ptr<Ops> ops = make_cpu_ops();
  for (const Case& c : {kCases[0], kCases[4]}) {
    const TempFolder folder;
    const Checkpoint model = make_up(folder, c.shape);
    const RotatedModel rotated(model, kBoth, 5);
    const Matrix h = last_hidden(*ops, model), h_rotated = last_hidden(*ops, rotated);
    const std::vector<int32_t> labels(kTokens, 9);
    const auto scores = [&](const Head& head, const Matrix& quantized) {
      std::vector<TokenScores> s(kTokens);
      score_tokens(*ops, model.config(), head, kTokens, h, quantized, labels, s, [] {});
      return s;
    };
    /// Largest difference of two tokens' log-likelihoods of the label.
    const auto apart = [](const std::vector<TokenScores>& s) {
      double largest = 0;
      for (const TokenScores& t : s) {
        const auto nll = [](const LogitSums& l) { return double(l.max) + std::log(l.sum) - double(l.label); };
        largest = std::max(largest, std::fabs(nll(t.full) - nll(t.quantized)));
      }
      return largest;
    };
    CAPTURE(c.name);
    const std::vector<TokenScores> both = scores(full_precision_head(*ops, model, rotated), h_rotated);
    CHECK(apart(both) < 1e-4);
    CHECK(apart(both) > 0);
    const std::vector<TokenScores> one = scores(full_precision_head(*ops, model), h);
    CHECK(apart(one) == 0);
    for (size_t t = 0; t < one.size(); ++t) {
      CHECK(both[t].quantized.best == both[t].full.best);
      CHECK(both[t].full.label == one[t].full.label);
    }
    // Without either, the rotated states mean nothing.
    Head mixed = full_precision_head(*ops, model, rotated);
    mixed.quantized_norm = {};
    CHECK(apart(scores(mixed, h_rotated)) > 0.1);
    CHECK(apart(scores(full_precision_head(*ops, model), h_rotated)) > 0.1);
  }
}
