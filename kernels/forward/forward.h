// kernels/forward/forward.h - Llama and Qwen3 one block at a time, written once on Ops.
//   A block (hidden states h, (tokens, hidden_size)):
//     x = norm(h);  q, k, v = qkv(x);  q, k = rope(head_norm(q), head_norm(k));  h += o(attention(q, k, v))
//     x = norm(h);  h += down(silu(gate(x)) * up(x))
//   head_norm is Qwen3's; Llama has none. A site's linears are products with dequantized weights on inputs
//   that were moved and quantized the same way: Y = Q(X T^-T) Q(W T)^T, all in float32.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/model/model_weights.h"
#include "kernels/ops.h"

namespace fp4lab {

/// Linears of one site that share formats and coordinates; usually all of them.
struct SitePart {
  struct Member {
    std::string name;  // "layers.3.self_attn.q_proj"
    int64_t outputs;
  };
  std::vector<Member> linears;  // in stacking order, for messages
  int64_t first_output = 0;     // among the site's outputs
  Array W;                      // (outputs, inputs), dequantized, in the coordinates of `map`
  LinearMap map;
  std::optional<FormatSpec> activations;  // what its input is quantized to
};

struct SiteWeights {
  std::vector<SitePart> parts;
  int64_t outputs() const;
};

struct BlockWeights {
  int64_t layer = 0;
  Array input_norm, post_norm, q_norm, k_norm;  // (1, width); q_norm and k_norm are empty without head norms
  std::array<SiteWeights, kSites> sites;        // by SiteKind
};

/// "layers.3.self_attn.q_proj" and its outputs, for some linears of a layer.
std::vector<SitePart::Member> members(const ModelWeights& model, int64_t layer,
                                      std::span<const Linear> linears);

/// Linears of one site, stacked, in full precision. DataError for NaN or Inf.
Array load_linears(Ops& ops, const ModelWeights& model, int64_t layer, std::span<const Linear> linears);
/// The norms of a layer; its sites are still empty.
BlockWeights load_norms(Ops& ops, const ModelWeights& model, int64_t layer);
/// A layer in full precision.
BlockWeights load_block(Ops& ops, const ModelWeights& model, int64_t layer);

/// Sees what flows into a site, in the original coordinates, before it is quantized. X (tokens, inputs).
using SiteInput = std::function<void(SiteKind, MatrixView<const float> X)>;

class Forward {
 public:
  /// For windows of `length` tokens, up to `windows` of them at a time: the workspace is
  /// (windows * length) x (2 hidden_size + all outputs of qkv + 4 intermediate_size) floats or so.
  Forward(Ops& ops, const ModelConfig& config, int64_t windows, int64_t length);
  /// The same with a rotary table of one's own, (>= length, head_dim).
  Forward(Ops& ops, const ModelConfig& config, int64_t windows, int64_t length, const Matrix& rope);

  int64_t chunk_windows() const { return windows_; }
  int64_t length() const { return length_; }
  enum class Pass : uint8_t {
    run,
    watch  // for `site_input` only: ends where down_proj's input is seen, the last that anybody sees, and
           // leaves hidden between its two values
  };
  /// hidden (some windows * length, hidden_size), in place. DataError naming block, linear, row and channel
  /// when a linear's input or output is NaN or Inf.
  void run_block(const BlockWeights& block, MatrixView<float> hidden, const SiteInput& site_input = {},
                 Pass pass = Pass::run);

 private:
  void run_site(const SiteWeights& site, MatrixView<const float> X, MatrixView<float> Y, bool accumulate);

  Ops& ops_;
  ModelConfig config_;
  int64_t windows_, length_;
  Array rope_, normed_, wide_, inner_, moved_;
};

/// Runs one block over the hidden states of all windows, which are on the host or in the machine's memory;
/// `step` is called before each chunk (to stop, or to tell progress).
void run_layer(Ops& ops, Forward& forward, const BlockWeights& block, MatrixView<float> hidden,
               const std::function<void()>& step, const SiteInput& site_input = {});
/// Shows site_input what run_layer would and changes nothing; down_proj's weights are not needed.
void watch_layer(Ops& ops, Forward& forward, const BlockWeights& block, MatrixView<const float> hidden,
                 const std::function<void()>& step, const SiteInput& site_input);

/// Windows of `length` to take at a time: about ops.chunk_tokens() tokens, at least one window.
int64_t default_chunk(const Ops& ops, int64_t length);

/// Takes logits = norm(h) lm_head^T of every token into scores, by tiles of the vocabulary.
///   full, quantized   hidden states after the last block, on the host, (tokens, hidden_size); `quantized`
///   may
///                     be empty
///   labels            the id that follows each token, or -1
struct Head {
  Array final_norm;      // (1, hidden_size)
  Array quantized_norm;  // the quantized model's own, as a rotated one has it; empty: the same
  /// Rows [begin, begin + count) of lm_head in full precision, and as the quantized model has them when that
  /// is not the same (null otherwise).
  std::function<Array(int64_t begin, int64_t count)> full, quantized;
  std::optional<FormatSpec> activations;  // what the quantized head's input is quantized to
};
/// The head as the model has it, for both. The model outlives the head.
Head full_precision_head(Ops& ops, const ModelWeights& model);
/// The same where the quantized model is made from another one than the full-precision model, in full
/// precision too: a rotated model's last hidden states ask for its own norm and rows.
Head full_precision_head(Ops& ops, const ModelWeights& full, const ModelWeights& quantized);
void score_tokens(Ops& ops, const ModelConfig& config, const Head& head, int64_t length,
                  MatrixView<const float> full, MatrixView<const float> quantized,
                  std::span<const int32_t> labels, std::span<TokenScores> scores,
                  const std::function<void()>& step);

}  // namespace fp4lab
