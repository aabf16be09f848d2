#include "experiments/model/calibration_walk.h"

#include <algorithm>

#include "methods/site.h"

namespace fp4lab {

StatsNeeds needs_of(const ModelPlan& plan, int64_t layer, SiteKind site) {
  StatsNeeds needs;
  for (const PartPlan& part : parts_of(plan, layer, site))
    if (part.formats.weights || part.formats.activations)
      needs = needs | needs_of(plan.method, site, part.formats.weights ? &*part.formats.weights : nullptr);
  return needs;
}

StatsNeeds needs_of(const ModelPlan& plan) {
  StatsNeeds needs;
  for (size_t layer = 0; layer < plan.layers.size(); ++layer)
    for (int s = 0; s < kSites; ++s) needs = needs | needs_of(plan, int64_t(layer), SiteKind(s));
  return needs;
}

CalibrationWalk::CalibrationWalk(Ops& ops, const ModelWeights& model, const ModelPlan& plan, int64_t length,
                                 HiddenStates states, HiddenStates full, std::function<void()> step)
    : ops_(ops),
      model_(model),
      plan_(plan),
      step_(std::move(step)),
      forward_(ops, model.config(), default_chunk(ops, length), length),
      states_(std::move(states)),
      full_(std::move(full)),
      rows_(sample_rows(plan.seed, states_.view().rows, std::min(kMethodSample, states_.view().rows))) {}

BlockWeights CalibrationWalk::unquantized_block(int64_t layer) const {
  BlockWeights block = load_norms(ops_, model_, layer);
  for (int s = 0; s < kSites; ++s) {
    const auto kind = SiteKind(s);
    SiteWeights& site = block.sites[size_t(s)];
    for (const PartPlan& part : parts_of(plan_, layer, kind)) {
      SitePart out;
      out.linears = members(model_, layer, part.linears);
      out.first_output = site.outputs();
      out.W = load_linears(ops_, model_, layer, part.linears);
      const auto pointer = [](const std::optional<FormatSpec>& f) { return f ? &*f : nullptr; };
      out.map =
          map_without_data(plan_.method, site_place(plan_, model_.config(), layer, kind),
                           pointer(part.formats.weights), pointer(part.formats.activations), out.W.cols());
      ops_.map_weights(out.map, out.W.view());
      out.activations = part.formats.activations;
      site.parts.push_back(std::move(out));
    }
  }
  return block;
}

std::array<SiteStats, kSites> CalibrationWalk::watch(int64_t layer) {
  const ModelConfig& config = model_.config();
  std::array<std::optional<StatsGatherer>, kSites> sites;
  std::array<Array, kSites> beside;  // inputs of one chunk in the original model
  const int64_t chunk = std::min(states_.view().rows, forward_.chunk_windows() * forward_.length());
  const bool compares = full_.view().data != nullptr;
  for (int s = 0; s < kSites; ++s)
    if (const StatsNeeds needs = needs_of(plan_, layer, SiteKind(s)); needs.any()) {
      const int64_t inputs = linear_shape(config, linears_of(SiteKind(s))[0])[1];
      sites[size_t(s)].emplace(ops_, inputs, needs, rows_);
      if (needs.cross) beside[size_t(s)] = ops_.allocate(chunk, inputs);
    }
  const BlockWeights block = unquantized_block(layer);
  const BlockWeights original = compares ? load_block(ops_, model_, layer) : BlockWeights{};
  const auto gather = [&](SiteKind kind, MatrixView<const float> X) {
    if (!sites[size_t(kind)]) return;
    const Array& full = beside[size_t(kind)];
    sites[size_t(kind)]->add(
        X, full.rows() ? MatrixView<const float>(full.shaped(X.rows, X.cols)) : MatrixView<const float>{});
  };
  const auto keep = [&](SiteKind kind, MatrixView<const float> X) {
    if (const Array& full = beside[size_t(kind)]; full.rows()) ops_.copy(X, full.shaped(X.rows, X.cols));
  };
  for (int64_t begin = 0; begin < states_.view().rows; begin += chunk) {
    const int64_t count = std::min(chunk, states_.view().rows - begin);
    if (compares) run_layer(ops_, forward_, original, full_.view().middle_rows(begin, count), step_, keep);
    watch_layer(ops_, forward_, block, states_.view().middle_rows(begin, count), step_, gather);
  }
  std::array<SiteStats, kSites> out;
  for (int s = 0; s < kSites; ++s)
    if (sites[size_t(s)]) out[size_t(s)] = sites[size_t(s)]->finish();
  return out;
}

void CalibrationWalk::advance(const BlockWeights& block, const SiteInput& site_input) {
  run_layer(ops_, forward_, block, states_.view(), step_, site_input);
}

}  // namespace fp4lab
