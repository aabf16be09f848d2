// experiments/model/method_cost.h - what quantizing a model takes beside running it over the evaluated
// windows: an order of magnitude, for plans and for refusing what cannot fit.
#pragma once
#include "core/io/spill.h"
#include "experiments/corpus.h"
#include "experiments/model/plan.h"

namespace fp4lab {

struct MethodCost {
  double seconds = 0;    // on one core
  double states = 0;     // bytes: hidden states of the calibration windows that stay in memory
  double workspace = 0;  // bytes: of one chunk of calibration windows
  double site = 0;  // bytes: a block's statistics, and what quantizing its largest site takes beside them
};

/// `calibration` may be null for a plan that needs none. Reading statistics of the original model from the
/// store is in it, gathering them is not.
MethodCost method_cost(const ModelPlan& plan, const ModelConfig& config, const TokenWindows* calibration,
                       const SpillPolicy& spill);

}  // namespace fp4lab
