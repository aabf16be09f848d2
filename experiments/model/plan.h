// experiments/model/plan.h - which linear of a model is in which format: a cell's keys, resolved against the
// model.
#pragma once
#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "core/model/model_weights.h"
#include "core/params.h"
#include "experiments/export/stored_model.h"
#include "kernels/forward/forward.h"
#include "methods/method.h"
#include "methods/site.h"

namespace fp4lab {

struct LinearPlan {
  std::optional<FormatSpec> weights, activations;  // none: full precision
  bool operator==(const LinearPlan&) const = default;
};

struct ModelPlan {
  MethodSpec method;
  uint64_t seed = 1;  // of random signs
  bool fuse = true;   // linears that read one input share transform and tensor scale
  /// The activations' tensor scales come from a calibration; until then their formats say `dynamic`.
  bool static_activations = false;
  std::vector<std::array<LinearPlan, kLinears>> layers;
  /// What is quantized already, where the cell's format is "stored": codes, scales and rotation come from it.
  std::shared_ptr<const StoredModel> stored;
  LinearPlan head;
  std::optional<FormatSpec> embedding;  // of the table that tokens are looked up in

  bool draws_random_numbers() const;
  /// Whether anything at all is quantized.
  bool quantizes() const;
  bool quantizes_head() const { return head.weights || head.activations; }
};

/// Reads format, activations, activation_scale, method, fuse, skip and overrides, checks every linear, and
/// leaves the canonical form. `config` is null when declaring; `stored` is what "stored" means, or null.
/// ConfigErrors.
ModelPlan read_model_plan(Params& p, const ModelConfig* config, uint64_t seed,
                          const std::shared_ptr<const StoredModel>& stored = nullptr);

/// One part of a site: linears that share everything, and what their weights and inputs are quantized to. A
/// site is one part, or one per linear when `fuse` is off or their formats differ.
struct PartPlan {
  std::vector<Linear> linears;
  LinearPlan formats;
};
std::vector<PartPlan> parts_of(const ModelPlan& plan, int64_t layer, SiteKind site);

/// The part as the plan's method makes it of the model's weights, or as it is stored. `stats` as
/// quantize_site's; used up. DataError naming the site.
QuantizedWeights make_part(Ops& ops, const ModelPlan& plan, const ModelWeights& model, int64_t layer,
                           SiteKind site, const PartPlan& part, SiteStats* stats);

/// What the transforms of a site and its random numbers depend on.
SitePlace site_place(const ModelPlan& plan, const ModelConfig& config, int64_t layer, SiteKind site);

}  // namespace fp4lab
