// methods/rotation/rotated_model.h - a model in rotated coordinates that computes the same function (QuaRot,
// Ashkboos et al., arXiv 2404.00456; SPEC section 4, "Model-level rotations").
//   g_in, g_post, g_end   the norms' weights, folded into the linears that follow; the norms become ones, and
//                         RMS(h R1) = RMS(h) lets R1 pass them. Norms of q and k heads stay as they are
//   R1  (hidden, hidden)  diag(signs) H / sqrt(hidden), signs +-1 from Stream(seed, "rotation signs")
//   R2  (head_dim, head_dim)  H / sqrt(head_dim), the same for every head: what attention mixes is tokens, so
//                         each query head of o reads its kv head's channels rotated
//     embedding        E R1                          o             R1^T W (R2, head by head)
//     q, k             W diag(g_in) R1               gate, up      W diag(g_post) R1
//     v                (R2^T, head by head) W diag(g_in) R1        down          R1^T W
//     lm_head          W diag(g_end) R1, untied from the embedding
//   H is the Hadamard matrix of the width: Sylvester's for a power of two, otherwise (Sylvester) kron
//   (Paley). Differs: H has QuaRot's construction but not its table of matrices for other orders; any
//   Hadamard matrix spreads a channel evenly over all.
#pragma once
#include "core/linear_map.h"
#include "core/model/model_weights.h"
#include "methods/rotation/rotation_spec.h"

namespace fp4lab {

/// Why this rotation cannot serve such a model: a width without a known Hadamard matrix; or "".
std::string rotation_problem(const RotationSpec& spec, const ModelConfig& config);

/// Weights are rotated as they are read, in float32 (each number of a rotated row is within about
/// (log2(width) + 2) 2^-24 of the row's norm); nothing is kept but the signs. Memory while reading: the
/// result and 16 columns per thread. The same bits for any number of threads.
class RotatedModel final : public ModelWeights {
 public:
  /// `model` must outlive this. ConfigError with the model's path for a rotation_problem. spec.kind is not
  /// none.
  RotatedModel(const ModelWeights& model, const RotationSpec& spec, uint64_t seed);

  const ModelConfig& config() const override { return config_; }  // with an untied head
  const std::string& path() const override { return model_.path(); }

  using ModelWeights::load;
  Matrix load(int64_t layer, std::span<const Linear> stacked) const override;
  std::vector<float> load_norm(int64_t layer, Norm n) const override;
  std::vector<float> load_final_norm() const override;
  void embed(std::span<const int32_t> ids, MatrixView<float> out) const override;
  Matrix load_head(int64_t begin, int64_t count) const override;

 private:
  const ModelWeights& model_;
  ModelConfig config_;
  LinearMap stream_, heads_;  // R1; R2 on every run of head_dim channels, or the identity
};

}  // namespace fp4lab
