// experiments/model/quantized_model.h - a model whose linears are quantized as a plan says, made and run one
// block at a time.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "core/hash.h"
#include "experiments/model/plan.h"
#include "experiments/model/shared_model.h"

namespace fp4lab {

/// Rows of the embedding for every token of the windows, (tokens, hidden_size).
Matrix embed_tokens(const Checkpoint& checkpoint, std::span<const int32_t> ids);

/// Hidden states after the last block of the model in full precision.
Matrix full_precision_hidden(Ops& ops, const Checkpoint& checkpoint, std::span<const int32_t> ids,
                             int64_t length, const std::function<void()>& step);

class QuantizedModel {
 public:
  QuantizedModel(Ops& ops, const Checkpoint& checkpoint, const ModelPlan& plan, std::function<void()> step);

  /// Quantizes block after block and runs each over the windows. With static activation scales the
  /// calibration is walked beside: a block first sees its calibration inputs with dynamic scales, then its
  /// scales are frozen. `calibration` may be null otherwise.
  Matrix run(std::span<const int32_t> ids, int64_t length, const TokenWindows* calibration);

  /// The head of both models; after `run`.
  Head head();
  /// SHA-256 over all that is stored: linears, head, embedding.
  std::string digest() { return digest_.hex(); }
  /// Static scales only: inputs seen by the calibrated sites, and those that saturated.
  int64_t inputs_seen() const { return seen_; }
  int64_t inputs_saturated() const { return saturated_; }

 private:
  Matrix embed(std::span<const int32_t> ids) const;
  BlockWeights make_block(int64_t layer);
  void make_head();
  void calibrate(BlockWeights& block, Forward& forward, MatrixView<float> hidden);
  /// The head's inputs, chunk by chunk: hidden states after the final norm.
  void for_head_inputs(MatrixView<const float> hidden, int64_t length,
                       const std::function<void(MatrixView<const float>)>& see);
  MatrixView<const float> moved(const LinearMap& map, MatrixView<const float> X);
  float amax(MatrixView<const float> X);
  void count_saturated(const FormatSpec& format, MatrixView<const float> X);

  Ops& ops_;
  const Checkpoint& checkpoint_;
  const ModelPlan& plan_;
  std::function<void()> step_;
  Sha256 digest_;
  Array scratch_;
  std::shared_ptr<const QuantizedMatrix> table_;  // the embedding
  std::shared_ptr<const QuantizedMatrix> head_;
  std::optional<FormatSpec> head_activations_;
  int64_t seen_ = 0, saturated_ = 0;
};

}  // namespace fp4lab
