#include "experiments/model/method_cost.h"

#include <algorithm>

#include "experiments/model/calibration_walk.h"
#include "experiments/model/shared_model.h"

namespace fp4lab {

namespace {

/// Per weight, on one core.
double scale_seconds(const MethodSpec& method) {
  if (method.rounding.scales == Rounding::in_loop || method.weight_scales.needs_hessian()) return 300e-9;
  if (method.weight_scales.kind == WeightScales::mse_shrink) return 300e-9;
  if (method.weight_scales.kind == WeightScales::alternate) return 100e-9;
  return 15e-9;
}

/// Bytes of the statistics of a site while they are gathered; `chunk`: tokens at a time.
double statistics_bytes(const StatsNeeds& needs, double K, double tokens, double chunk) {
  double bytes = 0;
  if (needs.hessian || needs.cross) bytes += 8 * K * K;
  if (needs.cross) bytes += 8 * K * K + 4 * chunk * K;  // D, and the original model's inputs of one chunk
  if (needs.sample) bytes += 4 * std::min(tokens, double(kMethodSample)) * K;
  return bytes;
}

/// Bytes that quantizing N x K weights takes beside them and their statistics.
double rounding_bytes(const MethodSpec& method, SiteKind site, double N, double K) {
  // Weights, what is left of them, errors, targets, their earlier order and a product, codes.
  double bytes = 0;
  if (method.rounding.kind != Rounding::rtn) bytes = 24 * N * K + 16 * K * K;  // the Cholesky and its input
  if (entry_of(method.rounding.kind).needs.cross) bytes += 24 * K * K;         // three more solves
  if (needs_of(method.transform[size_t(site)]).any()) bytes = std::max(bytes, 8 * N * K + 12 * K * K);
  return bytes;
}

}  // namespace

MethodCost method_cost(const ModelPlan& plan, const ModelConfig& config, const TokenWindows* calibration,
                       const SpillPolicy& spill) {
  MethodCost cost;
  cost.seconds = double(config.layers) * weights_of_block(config) * scale_seconds(plan.method);
  const StatsNeeds any = needs_of(plan);
  const bool watched = any.any() && plan.method.hessian_inputs == HessianInputs::quantized;
  double tokens = 0, chunk = 0;
  if (calibration && (watched || plan.static_activations)) {
    tokens = double(calibration->ids.size());
    chunk = double(default_chunk(*make_cpu_ops(), calibration->length) * calibration->length);
    const WalkCost walk = walk_cost(config, tokens, double(calibration->length));
    // Through each block as it is and as it becomes; the original model beside them.
    cost.seconds += walk.seconds * (1 + (watched ? 1 : 0) + (any.cross ? 1 : 0));
    if (walk.states <= double(spill.limit)) cost.states = walk.states * (any.cross ? 2 : 1);
    cost.workspace = walk.workspace;
  }
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    double held = 0, most = 0;
    for (int s = 0; s < kSites; ++s) {
      const auto site = SiteKind(s);
      const StatsNeeds needs = needs_of(plan, layer, site);
      const double K = double(linear_shape(config, linears_of(site)[0])[1]);
      const std::vector<PartPlan> parts = parts_of(plan, layer, site);
      const double own = statistics_bytes(needs, K, tokens, chunk);
      held += own;
      // Sums of products in double, at half the rate.
      if (watched)
        cost.seconds += 2 * tokens * K * K * (needs.cross ? 3 : needs.hessian ? 1 : 0) / kNominalRate;
      for (const PartPlan& part : parts) {
        if (!part.formats.weights) continue;
        double N = 0;
        for (const Linear l : part.linears) N += double(linear_shape(config, l)[0]);
        if (plan.method.rounding.kind != Rounding::rtn)
          cost.seconds += (2 * N * K * K + 6 * K * K * K) / kNominalRate;  // the Cholesky on one thread
        // Several parts have a copy of the statistics each, one at a time.
        most = std::max(most, rounding_bytes(plan.method, site, N, K) + (parts.size() > 1 ? own : 0));
      }
    }
    cost.site = std::max(cost.site, held + most);
  }
  return cost;
}

}  // namespace fp4lab
