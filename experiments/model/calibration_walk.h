// experiments/model/calibration_walk.h - the calibration windows on their way through a model that is
// quantized block by block (DESIGN.md, "Calibration walk").
#pragma once
#include <functional>
#include <memory>
#include <optional>

#include "core/io/spill.h"
#include "experiments/corpus.h"
#include "experiments/model/plan.h"
#include "kernels/forward/forward.h"
#include "kernels/forward/hidden_states.h"
#include "methods/statistics.h"

namespace fp4lab {

/// Rows of the sample that methods see of a site's inputs.
inline constexpr int64_t kMethodSample = 1024;

class CalibrationWalk {
 public:
  /// Starts at the embeddings of the windows: `states` those of the quantized model; `full` those of the
  /// original one, where something compares the two, otherwise empty. Sample rows are drawn by `seed`.
  CalibrationWalk(Ops& ops, const ModelWeights& model, const ModelPlan& plan, int64_t length,
                  HiddenStates states, HiddenStates full, std::function<void()> step);

  /// The first pass: what flows into the sites of a block with its own weights. Its inputs are quantized as
  /// the plan says, in the transform's coordinates where those need no data, else as they are. The walk of
  /// the original model goes on to the next block.
  std::array<SiteStats, kSites> watch(int64_t layer);
  /// The second pass: through the quantized block, to the next one's inputs.
  void advance(const BlockWeights& block, const SiteInput& site_input = {});

  MatrixView<const float> states() { return states_.view(); }
  int64_t length() const { return forward_.length(); }

 private:
  StatsNeeds needs(int64_t layer, SiteKind site) const;
  BlockWeights unquantized_block(int64_t layer) const;

  Ops& ops_;
  const ModelWeights& model_;
  const ModelPlan& plan_;
  std::function<void()> step_;
  Forward forward_;
  HiddenStates states_, full_;
  std::vector<int64_t> rows_;  // of the samples
};

/// What the plan's method looks at of any site.
StatsNeeds needs_of(const ModelPlan& plan);
StatsNeeds needs_of(const ModelPlan& plan, int64_t layer, SiteKind site);

}  // namespace fp4lab
