#include "kernels/forward/forward.h"

#include <algorithm>
#include <cmath>

#include "core/model/rope.h"

namespace fp4lab {

namespace {

Array vector_array(Ops& ops, const std::vector<float>& values) {
  if (values.empty()) return {};
  const auto cols = int64_t(values.size());
  Array a = ops.allocate(1, cols);
  ops.upload({values.data(), 1, cols, cols}, a.view());
  return a;
}

/// DataError for the first NaN or Inf of what flows into some linears.
void check_input(Ops& ops, MatrixView<const float> X, const std::string& linear, int64_t length) {
  const int64_t at = ops.first_nonfinite(X);
  if (at < 0) return;
  throw DataError(str(linear, ": its input is NaN or infinite at token ", at / X.cols % length,
                      " of a window, channel ", at % X.cols));
}

/// DataError for the first NaN or Inf of what some stacked linears gave.
void check_output(Ops& ops, MatrixView<const float> Y, const std::vector<SitePart::Member>& linears,
                  int64_t length) {
  const int64_t at = ops.first_nonfinite(Y);
  if (at < 0) return;
  int64_t channel = at % Y.cols;
  size_t l = 0;
  while (channel >= linears[l].outputs) channel -= linears[l++].outputs;
  throw DataError(str(linears[l].name, ": its output is NaN or infinite at token ", at / Y.cols % length,
                      " of a window, channel ", channel));
}

}  // namespace

int64_t SiteWeights::outputs() const {
  return parts.empty() ? 0 : parts.back().first_output + parts.back().W.rows();
}

int64_t default_chunk(const Ops& ops, int64_t length) {
  return std::max<int64_t>(1, ops.chunk_tokens() / length);
}

BlockWeights load_norms(Ops& ops, const ModelWeights& model, int64_t layer) {
  using Norm = ModelWeights::Norm;
  BlockWeights block;
  block.layer = layer;
  block.input_norm = vector_array(ops, model.load_norm(layer, Norm::input));
  block.post_norm = vector_array(ops, model.load_norm(layer, Norm::post_attention));
  if (model.config().qk_norms) {
    block.q_norm = vector_array(ops, model.load_norm(layer, Norm::q));
    block.k_norm = vector_array(ops, model.load_norm(layer, Norm::k));
  }
  return block;
}

std::vector<SitePart::Member> members(const ModelWeights& model, int64_t layer,
                                      std::span<const Linear> linears) {
  std::vector<SitePart::Member> out;
  for (const Linear l : linears) out.push_back({linear_name(layer, l), model.shape(l)[0]});
  return out;
}

Array load_linears(Ops& ops, const ModelWeights& model, int64_t layer, std::span<const Linear> linears) {
  const std::vector<ModelWeights::Stored> parts =
      ops.on_host() ? std::vector<ModelWeights::Stored>{} : model.stored(layer, linears);
  if (parts.empty()) return ops.adopt(model.load(layer, linears));
  int64_t rows = 0;
  for (const ModelWeights::Stored& part : parts) rows += part.rows;
  const Array W = ops.allocate(rows, model.shape(linears[0])[1]);
  rows = 0;
  for (const ModelWeights::Stored& part : parts) {
    ops.upload(part.dtype, part.bytes, W.view().middle_rows(rows, part.rows));
    rows += part.rows;
  }
  // Loading on the host names what is not finite.
  return ops.first_nonfinite(W.view()) < 0 ? W : ops.adopt(model.load(layer, linears));
}

BlockWeights load_block(Ops& ops, const ModelWeights& model, int64_t layer) {
  BlockWeights block = load_norms(ops, model, layer);
  for (int s = 0; s < kSites; ++s) {
    const auto kind = SiteKind(s);
    block.sites[size_t(s)].parts.push_back({members(model, layer, linears_of(kind)),
                                            0,
                                            load_linears(ops, model, layer, linears_of(kind)),
                                            {},
                                            {}});
  }
  return block;
}

Forward::Forward(Ops& ops, const ModelConfig& config, int64_t windows, int64_t length)
    : Forward(ops, config, windows, length, rope_table(config, length)) {}

Forward::Forward(Ops& ops, const ModelConfig& config, int64_t windows, int64_t length, const Matrix& rope)
    : ops_(ops), config_(config), windows_(windows), length_(length) {
  const int64_t tokens = windows * length, q = config.heads * config.head_dim,
                kv = config.kv_heads * config.head_dim;
  rope_ = ops.allocate(rope.rows(), rope.cols());
  ops.upload(rope, rope_.view());
  normed_ = ops.allocate(tokens, config.hidden_size);
  wide_ = ops.allocate(tokens, std::max(q + 2 * kv, 2 * config.intermediate_size));
  inner_ = ops.allocate(tokens, std::max(q, config.intermediate_size));
  moved_ = ops.allocate(tokens, std::max({q, config.intermediate_size, config.hidden_size}));
}

void Forward::run_site(const SiteWeights& site, MatrixView<const float> X, MatrixView<float> Y,
                       bool accumulate) {
  check_input(ops_, X, site.parts[0].linears[0].name, length_);
  for (const SitePart& part : site.parts) {
    MatrixView<const float> input = X;
    if (!part.map.identity() || part.activations) {
      const MatrixView<float> moved = moved_.shaped(X.rows, X.cols);
      if (!part.map.identity()) {
        ops_.copy(X, moved);
        ops_.map_activations(part.map, moved);
        input = moved;
      }
      if (part.activations) {
        ops_.fake_quantize(*part.activations, input, length_, moved);
        input = moved;
      }
    }
    const MatrixView<float> out{Y.data + part.first_output, Y.rows, part.W.rows(), Y.stride};
    ops_.gemm(input, part.W.view(), out, accumulate);
    check_output(ops_, out, part.linears, length_);
  }
}

void Forward::run_block(const BlockWeights& block, MatrixView<float> hidden, const SiteInput& site_input,
                        Pass pass) {
  FP4LAB_CHECK(hidden.rows <= windows_ * length_ && hidden.rows % length_ == 0, hidden.rows);
  const int64_t tokens = hidden.rows, d = config_.head_dim, q = config_.heads * d, kv = config_.kv_heads * d;
  const auto eps = float(config_.rms_norm_eps);
  const auto site = [&](SiteKind kind, MatrixView<const float> X, MatrixView<float> Y, bool accumulate) {
    if (site_input) site_input(kind, X);
    run_site(block.sites[size_t(kind)], X, Y, accumulate);
  };
  const MatrixView<float> normed = normed_.shaped(tokens, config_.hidden_size);

  ops_.rms_norm(hidden, block.input_norm.flat(), eps, normed);
  const MatrixView<float> qkv = wide_.shaped(tokens, q + 2 * kv);
  site(SiteKind::qkv, normed, qkv, false);
  const MatrixView<float> queries{qkv.data, tokens, q, qkv.stride},
      keys{qkv.data + q, tokens, kv, qkv.stride}, values{qkv.data + q + kv, tokens, kv, qkv.stride};
  if (config_.qk_norms) {
    ops_.rms_norm(queries, block.q_norm.flat(), eps, queries);
    ops_.rms_norm(keys, block.k_norm.flat(), eps, keys);
  }
  ops_.rope(queries, d, rope_.view(), length_);
  ops_.rope(keys, d, rope_.view(), length_);
  const MatrixView<float> mixed = inner_.shaped(tokens, q);
  ops_.attention(queries, keys, values, d, length_, float(1 / std::sqrt(double(d))), mixed);
  site(SiteKind::o, mixed, hidden, true);

  ops_.rms_norm(hidden, block.post_norm.flat(), eps, normed);
  const MatrixView<float> gate_up = wide_.shaped(tokens, 2 * config_.intermediate_size);
  site(SiteKind::gate_up, normed, gate_up, false);
  const MatrixView<float> act = inner_.shaped(tokens, config_.intermediate_size);
  ops_.swiglu(gate_up, act);
  if (pass == Pass::run) {
    site(SiteKind::down, act, hidden, true);
  } else {
    if (site_input) site_input(SiteKind::down, act);
    check_input(ops_, act, linear_name(block.layer, Linear::down), length_);
  }
}

namespace {

/// Chunk after chunk of the hidden states in the machine's memory: body(part). What it leaves there goes to
/// `to`, which is `from` itself or has no data.
template <class Body>
void for_chunks(Ops& ops, const Forward& forward, MatrixView<const float> from, MatrixView<float> to,
                const std::function<void()>& step, const Body& body) {
  const int64_t chunk = std::min(from.rows, forward.chunk_windows() * forward.length());
  const bool in_place = to.data && ops.holds(to.data);
  const Array h = ops.allocate(in_place ? 0 : chunk, from.cols);
  for (int64_t begin = 0; begin < from.rows; begin += chunk) {
    step();
    const int64_t rows = std::min(chunk, from.rows - begin);
    if (in_place) {
      body(to.middle_rows(begin, rows));
      continue;
    }
    const MatrixView<float> part = h.shaped(rows, from.cols);
    ops.upload(from.middle_rows(begin, rows), part);
    body(part);
    if (to.data) ops.download(part, to.middle_rows(begin, rows));
  }
}

}  // namespace

void run_layer(Ops& ops, Forward& forward, const BlockWeights& block, MatrixView<float> hidden,
               const std::function<void()>& step, const SiteInput& site_input) {
  for_chunks(ops, forward, hidden, hidden, step,
             [&](MatrixView<float> part) { forward.run_block(block, part, site_input); });
}

void watch_layer(Ops& ops, Forward& forward, const BlockWeights& block, MatrixView<const float> hidden,
                 const std::function<void()>& step, const SiteInput& site_input) {
  for_chunks(ops, forward, hidden, {}, step, [&](MatrixView<float> part) {
    forward.run_block(block, part, site_input, Forward::Pass::watch);
  });
}

Head full_precision_head(Ops& ops, const ModelWeights& model) {
  Head head;
  head.final_norm = vector_array(ops, model.load_final_norm());
  head.full = [&ops, &model](int64_t begin, int64_t count) {
    return ops.adopt(model.load_head(begin, count));
  };
  return head;
}

Head full_precision_head(Ops& ops, const ModelWeights& full, const ModelWeights& quantized) {
  Head head = full_precision_head(ops, full);
  Head other = full_precision_head(ops, quantized);
  head.quantized_norm = std::move(other.final_norm);
  head.quantized = std::move(other.full);
  return head;
}

void score_tokens(Ops& ops, const ModelConfig& config, const Head& head, int64_t length,
                  MatrixView<const float> full, MatrixView<const float> quantized,
                  std::span<const int32_t> labels, std::span<TokenScores> scores,
                  const std::function<void()>& step) {
  // On the CPU a tile of logits, 1024 tokens x 4096 entries, is 16 MB; its products are large enough to run
  // at full rate.
  constexpr int64_t kVocabTile = 4096;
  const int64_t kTokenTile = ops.chunk_tokens() / 2;
  const int64_t tokens = full.rows, width = config.hidden_size;
  const int64_t chunk = std::min(tokens, std::max<int64_t>(1, kTokenTile / length) * length);
  const auto eps = float(config.rms_norm_eps);
  const bool two = quantized.data != nullptr;
  const Array h = ops.allocate(chunk, width), h_quantized = ops.allocate(two ? chunk : 0, width);
  const Array& quantized_norm = head.quantized_norm.rows() > 0 ? head.quantized_norm : head.final_norm;
  const Array logits = ops.allocate(chunk, kVocabTile),
              logits_quantized = ops.allocate(two ? chunk : 0, kVocabTile);
  for (int64_t first = 0; first < config.vocab_size; first += kVocabTile) {
    const int64_t count = std::min(kVocabTile, config.vocab_size - first);
    const Array W = head.full(first, count);
    const Array W_quantized = two && head.quantized ? head.quantized(first, count) : W;
    for (int64_t begin = 0; begin < tokens; begin += chunk) {
      step();
      const int64_t n = std::min(chunk, tokens - begin);
      const auto compute = [&](MatrixView<const float> states, const Array& state, const Array& weights,
                               const Array& out, bool is_quantized) {
        const MatrixView<float> x = state.shaped(n, width), y = out.shaped(n, count);
        ops.upload(states.middle_rows(begin, n), x);
        ops.rms_norm(x, (is_quantized ? quantized_norm : head.final_norm).flat(), eps, x);
        if (is_quantized && head.activations) {
          check_input(ops, x, "lm_head", length);
          ops.fake_quantize(*head.activations, x, length, x);
        }
        ops.gemm(x, weights.view(), y, false);
        if (const int64_t at = ops.first_nonfinite(y); at >= 0)
          throw DataError(str("lm_head", is_quantized ? " of the quantized model" : "",
                              ": a logit is NaN or infinite at token ", at / count % length,
                              " of a window, vocabulary entry ", first + at % count));
        return y;
      };
      const MatrixView<float> a = compute(full, h, W, logits, false);
      MatrixView<float> b;
      if (two) b = compute(quantized, h_quantized, W_quantized, logits_quantized, true);
      ops.update_scores(a, b, first, labels.subspan(size_t(begin), size_t(n)),
                        scores.subspan(size_t(begin), size_t(n)));
    }
  }
}

}  // namespace fp4lab
