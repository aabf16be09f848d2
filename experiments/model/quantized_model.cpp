#include "experiments/model/quantized_model.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "methods/rotation/rotated_model.h"
#include "methods/site.h"

namespace fp4lab {

namespace {

/// The magnitude from which a fixed tensor scale saturates: s_T * scale max * Qmax.
float saturation(const FormatSpec& f) { return f.tensor_scale.value / tensor_scale_for(f, 1.0f); }

bool is_static(const ModelPlan& plan, const std::optional<FormatSpec>& activations) {
  return plan.static_activations && activations && activations->tensor_scale.mode == TensorScale::dynamic;
}

}  // namespace

Matrix embed_tokens(const ModelWeights& model, std::span<const int32_t> ids) {
  Matrix hidden(int64_t(ids.size()), model.config().hidden_size);
  model.embed(ids, hidden);
  return hidden;
}

Matrix full_precision_hidden(Ops& ops, const ModelWeights& checkpoint, std::span<const int32_t> ids,
                             int64_t length, const std::function<void()>& step) {
  Forward forward(ops, checkpoint.config(), default_chunk(ops, length), length);
  Matrix hidden = embed_tokens(checkpoint, ids);
  for (int64_t layer = 0; layer < checkpoint.config().layers; ++layer) {
    step();
    run_layer(ops, forward, load_block(ops, checkpoint, layer), hidden, step);
  }
  return hidden;
}

QuantizedModel::QuantizedModel(Ops& ops, const ModelWeights& checkpoint, const ModelPlan& plan,
                               std::function<void()> step)
    : ops_(ops),
      checkpoint_(checkpoint),
      rotated_(plan.method.rotation.kind == RotationSpec::none
                   ? nullptr
                   : std::make_unique<RotatedModel>(checkpoint, plan.method.rotation, plan.seed)),
      model_(rotated_ ? *rotated_ : checkpoint),
      plan_(plan),
      step_(std::move(step)),
      head_activations_(plan.head.activations) {}

void QuantizedModel::embed(std::span<const int32_t> ids, MatrixView<float> hidden) const {
  if (!table_) return model_.embed(ids, hidden);
  const RowReader reader(*table_);
  for (size_t t = 0; t < ids.size(); ++t) reader.dequantize(ids[t], hidden.middle_rows(int64_t(t), 1));
}

HiddenStates QuantizedModel::embedded(const Calibration& calibration, bool quantized) const {
  const std::vector<int32_t>& ids = calibration.windows->ids;
  HiddenStates states(ops_, int64_t(ids.size()), model_.config().hidden_size, calibration.spill);
  states.fill(ops_, [&](int64_t begin, MatrixView<float> rows) {
    const auto part = std::span(ids).subspan(size_t(begin), size_t(rows.rows));
    // The walk of the original model has the original embeddings.
    quantized ? embed(part, rows) : model_.embed(part, rows);
  });
  return states;
}

std::array<SiteStats, kSites> QuantizedModel::statistics(int64_t layer, const Calibration& calibration,
                                                         CalibrationWalk* walk) const {
  if (plan_.method.hessian_inputs == HessianInputs::quantized)
    return needs_of(plan_).any() ? walk->watch(layer) : std::array<SiteStats, kSites>{};
  std::array<SiteStats, kSites> stats;
  for (int s = 0; s < kSites; ++s)
    if (needs_of(plan_, layer, SiteKind(s)).any())
      stats[size_t(s)] = calibration.full_precision(layer, SiteKind(s));
  return stats;
}

BlockWeights QuantizedModel::make_block(int64_t layer, std::array<SiteStats, kSites> stats) {
  BlockWeights block = load_norms(ops_, model_, layer);
  for (int s = 0; s < kSites; ++s) {
    const auto kind = SiteKind(s);
    SiteWeights& site = block.sites[size_t(s)];
    const std::vector<PartPlan> parts = parts_of(plan_, layer, kind);
    for (const PartPlan& part : parts) {
      step_();
      SitePart out;
      out.linears = members(model_, layer, part.linears);
      out.first_output = site.outputs();
      // A transform moves the statistics; each part begins with the site's own.
      if (parts.size() > 1) stats[size_t(s)].to_host(ops_);
      SiteStats own = parts.size() > 1 ? stats[size_t(s)].clone() : std::move(stats[size_t(s)]);
      QuantizedWeights q = make_part(ops_, plan_, model_, layer, kind, part, &own);
      digest_.update(out.linears[0].name).update(q.digest);
      if (part.formats.weights) reports_.push_back({out.linears[0].name, q.report});
      out.W = std::move(q.W);
      out.map = std::move(q.map);
      out.activations = part.formats.activations;
      site.parts.push_back(std::move(out));
      if (see_) made_.push_back({part.linears, std::move(q.q), {}});
    }
  }
  return block;
}

MatrixView<const float> QuantizedModel::moved(const LinearMap& map, MatrixView<const float> X) {
  if (map.identity()) return X;
  if (scratch_.rows() * scratch_.cols() < X.size()) scratch_ = ops_.allocate(X.rows, X.cols);
  const MatrixView<float> out = scratch_.shaped(X.rows, X.cols);
  ops_.copy(X, out);
  ops_.map_activations(map, out);
  return out;
}

float QuantizedModel::amax(MatrixView<const float> X) {
  std::vector<float> columns(size_t(X.cols));
  std::vector<double> sums(size_t(X.cols));
  ops_.column_stats(X, columns, sums);
  return *std::max_element(columns.begin(), columns.end());
}

void QuantizedModel::count_saturated(const FormatSpec& format, MatrixView<const float> X) {
  seen_ += X.size();
  saturated_ += ops_.count_above(X, saturation(format));
}

void QuantizedModel::advance(CalibrationWalk& walk, BlockWeights& block) {
  std::array<std::vector<float>, kSites> largest;
  for (int s = 0; s < kSites; ++s) largest[size_t(s)].resize(block.sites[size_t(s)].parts.size());
  SiteInput measure;
  if (plan_.static_activations)
    measure = [&](SiteKind kind, MatrixView<const float> X) {
      const SiteWeights& site = block.sites[size_t(kind)];
      for (size_t i = 0; i < site.parts.size(); ++i)
        if (is_static(plan_, site.parts[i].activations)) {
          float& m = largest[size_t(kind)][i];
          m = std::max(m, amax(moved(site.parts[i].map, X)));
        }
    };
  walk.advance(block, measure);
  for (int s = 0; s < kSites; ++s)
    for (size_t i = 0; i < largest[size_t(s)].size(); ++i) {
      std::optional<FormatSpec>& f = block.sites[size_t(s)].parts[i].activations;
      if (is_static(plan_, f))
        f->tensor_scale = {TensorScale::fixed, tensor_scale_for(*f, largest[size_t(s)][i])};
    }
}

Matrix QuantizedModel::run(std::span<const int32_t> ids, int64_t length, const Calibration& calibration) {
  const ModelConfig& config = model_.config();
  if (plan_.embedding) {
    std::vector<int32_t> all(size_t(config.vocab_size));
    std::iota(all.begin(), all.end(), 0);
    table_ = std::make_shared<const QuantizedMatrix>(
        quantize(*plan_.embedding, embed_tokens(model_, all), plan_.method.weight_scales));
    digest_.update("embed_tokens").update(table_->digest());
  }
  Forward forward(ops_, config, default_chunk(ops_, length), length);
  Matrix hidden(int64_t(ids.size()), config.hidden_size);
  embed(ids, hidden);
  std::optional<CalibrationWalk> walk;
  const StatsNeeds needs = needs_of(plan_);
  const bool watched = needs.any() && plan_.method.hessian_inputs == HessianInputs::quantized;
  if (plan_.static_activations || watched) {
    FP4LAB_CHECK(calibration.windows);
    walk.emplace(ops_, model_, plan_, calibration.windows->length, embedded(calibration, true),
                 needs.cross ? embedded(calibration, false) : HiddenStates{}, step_);
  }
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    BlockWeights block = make_block(layer, statistics(layer, calibration, walk ? &*walk : nullptr));
    // The last block's outputs matter to a calibrated head alone, its inputs to static scales.
    if (walk && (plan_.static_activations || layer + 1 < config.layers)) advance(*walk, block);
    if (see_) {
      size_t i = 0;
      for (const SiteWeights& site : block.sites)
        for (const SitePart& part : site.parts) made_[i++].activations = part.activations;
      see_(layer, std::exchange(made_, {}));
    }
    if (ids.empty()) continue;
    SiteInput count;
    if (plan_.static_activations || plan_.stored)
      count = [&](SiteKind kind, MatrixView<const float> X) {
        for (const SitePart& part : block.sites[size_t(kind)].parts)
          if (part.activations && part.activations->tensor_scale.mode == TensorScale::fixed)
            count_saturated(*part.activations, moved(part.map, X));
      };
    run_layer(ops_, forward, block, hidden, step_, count);
  }
  if (walk && is_static(plan_, head_activations_)) {
    float largest = 0;
    for_head_inputs(walk->states(), walk->length(),
                    [&](MatrixView<const float> X) { largest = std::max(largest, amax(X)); });
    head_activations_->tensor_scale = {TensorScale::fixed, tensor_scale_for(*head_activations_, largest)};
    for_head_inputs(hidden, length,
                    [&](MatrixView<const float> X) { count_saturated(*head_activations_, X); });
  }
  make_head();
  return hidden;
}

void QuantizedModel::for_head_inputs(MatrixView<const float> hidden, int64_t length,
                                     const std::function<void(MatrixView<const float>)>& see) {
  const std::vector<float> norm = model_.load_final_norm();
  const auto width = int64_t(norm.size()),
             chunk = std::min(default_chunk(ops_, length) * length, hidden.rows);
  const Array weight = ops_.allocate(1, width), h = ops_.allocate(chunk, width);
  ops_.upload({norm.data(), 1, width, width}, weight.view());
  for (int64_t begin = 0; begin < hidden.rows; begin += chunk) {
    const MatrixView<const float> rows = hidden.middle_rows(begin, std::min(chunk, hidden.rows - begin));
    const MatrixView<float> x = h.shaped(rows.rows, width);
    ops_.upload(rows, x);
    ops_.rms_norm(x, weight.flat(), float(model_.config().rms_norm_eps), x);
    see(x);
  }
}

void QuantizedModel::make_head() {
  if (!plan_.head.weights) return;
  head_ = std::make_shared<const QuantizedMatrix>(quantize(
      *plan_.head.weights, model_.load_head(0, model_.config().vocab_size), plan_.method.weight_scales));
  digest_.update("lm_head").update(head_->digest());
}

Head QuantizedModel::head() {
  Head head =
      rotated_ ? full_precision_head(ops_, checkpoint_, model_) : full_precision_head(ops_, checkpoint_);
  if (head_)
    head.quantized = [this](int64_t begin, int64_t count) {
      Matrix rows(count, head_->cols());
      dequantize_rows(*head_, begin, rows);
      return ops_.adopt(std::move(rows));
    };
  head.activations = head_activations_;
  return head;
}

}  // namespace fp4lab
