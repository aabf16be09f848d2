// experiments/model/quantized_model.h - a model whose linears are quantized as a plan says, made and run one
// block at a time.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "core/hash.h"
#include "experiments/model/calibration_walk.h"
#include "experiments/model/plan.h"
#include "experiments/model/shared_model.h"

namespace fp4lab {

/// Rows of the embedding for every token of the windows, (tokens, hidden_size).
Matrix embed_tokens(const ModelWeights& model, std::span<const int32_t> ids);

/// Hidden states after the last block of the model in full precision.
Matrix full_precision_hidden(Ops& ops, const ModelWeights& checkpoint, std::span<const int32_t> ids,
                             int64_t length, const std::function<void()>& step);

/// What a model is calibrated on; a plan that needs nothing of it takes an empty one.
struct Calibration {
  const TokenWindows* windows = nullptr;
  /// Statistics of a site in the original model: `hessian_inputs: full_precision`.
  std::function<SiteStats(int64_t layer, SiteKind site)> full_precision;
  SpillPolicy spill;  // of the windows' hidden states
};

/// What the method did to one site, or to one of its parts.
struct PartReport {
  std::string name;  // of its first linear
  SiteReport report;
};

/// One part of a site as it was made: what its weights are stored as (nothing in full precision), and what
/// its inputs are quantized to, with their static scale.
struct MadePart {
  std::vector<Linear> linears;
  std::optional<QuantizedMatrix> q;
  std::optional<FormatSpec> activations;
};

class QuantizedModel {
 public:
  QuantizedModel(Ops& ops, const ModelWeights& checkpoint, const ModelPlan& plan, std::function<void()> step);

  /// Quantizes block after block and runs each over the windows (there may be none). Where the method looks
  /// at the quantized model's inputs, or activation scales are static, the calibration is walked beside: a
  /// block is first watched with its own weights, then quantized, then run on to the next one's inputs;
  /// static scales are dynamic until then, and frozen to what they saw.
  Matrix run(std::span<const int32_t> ids, int64_t length, const Calibration& calibration);

  /// Called by `run` with every block's parts, site by site, when their scales are final.
  void on_block(std::function<void(int64_t layer, std::vector<MadePart> parts)> see) {
    see_ = std::move(see);
  }

  /// The head of both models; after `run`.
  Head head();
  /// SHA-256 over all that is stored: linears, head, embedding.
  std::string digest() { return digest_.hex(); }
  /// Static scales only: inputs seen by the calibrated sites, and those that saturated.
  int64_t inputs_seen() const { return seen_; }
  int64_t inputs_saturated() const { return saturated_; }
  /// By layer and site, where weights are quantized.
  const std::vector<PartReport>& reports() const { return reports_; }

 private:
  void embed(std::span<const int32_t> ids, MatrixView<float> hidden) const;
  HiddenStates embedded(const Calibration& calibration, bool quantized) const;
  std::array<SiteStats, kSites> statistics(int64_t layer, const Calibration& calibration,
                                           CalibrationWalk* walk) const;
  BlockWeights make_block(int64_t layer, std::array<SiteStats, kSites> stats);
  void make_head();
  /// Takes the walk through the block and fixes its static activation scales to the amax of what it saw.
  void advance(CalibrationWalk& walk, BlockWeights& block);
  /// The head's inputs, chunk by chunk: hidden states after the final norm.
  void for_head_inputs(MatrixView<const float> hidden, int64_t length,
                       const std::function<void(MatrixView<const float>)>& see);
  MatrixView<const float> moved(const LinearMap& map, MatrixView<const float> X);
  float amax(MatrixView<const float> X);
  void count_saturated(const FormatSpec& format, MatrixView<const float> X);

  Ops& ops_;
  const ModelWeights& checkpoint_;
  std::unique_ptr<const ModelWeights> rotated_;
  const ModelWeights& model_;  // what is quantized: the checkpoint, or its rotation
  const ModelPlan& plan_;
  std::function<void()> step_;
  Sha256 digest_;
  Array scratch_;
  std::shared_ptr<const QuantizedMatrix> table_;  // the embedding
  std::shared_ptr<const QuantizedMatrix> head_;
  std::optional<FormatSpec> head_activations_;
  int64_t seen_ = 0, saturated_ = 0;
  std::vector<PartReport> reports_;
  std::function<void(int64_t, std::vector<MadePart>)> see_;
  std::vector<MadePart> made_;  // of the block at hand, for see_
};

}  // namespace fp4lab
