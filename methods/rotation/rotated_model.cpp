#include "methods/rotation/rotated_model.h"

#include <omp.h>

#include <algorithm>

#include "core/random.h"
#include "kernels/cpu/linear_map.h"
#include "methods/transforms/transform.h"

namespace fp4lab {

namespace {

/// Columns that a thread transposes at a time to rotate outputs: a cache line of each row. The transposed
/// rows are apart by a line more than their length, so that those of 4096 outputs do not share their cache
/// sets.
constexpr int64_t kStrip = 16, kPadding = 16;

/// The Hadamard of every channel, as the transform has it.
TransformSpec full_hadamard() {
  TransformSpec spec = default_transform(TransformSpec::hadamard);
  spec.k = kFullWidth;
  return spec;
}
TransformFit fit_of(int64_t width) {
  TransformFit fit;
  fit.channels = width;
  return fit;
}
/// diag(signs) H / sqrt(width); without signs on every run of `width` channels.
LinearMap hadamard_map(int64_t width, std::vector<float> signs) {
  LinearMap map = fit_transforms({full_hadamard()}, fit_of(width));
  std::get<HadamardFactor>(map.factors.front()).signs = std::move(signs);
  return map;
}

std::vector<float> draw_signs(int64_t n, uint64_t seed) {
  const Stream stream(seed, "rotation signs", 0);
  std::vector<float> signs(static_cast<size_t>(n));
  for (size_t i = 0; i < signs.size(); ++i) signs[i] = stream.block(i)[0] & 1 ? -1.0f : 1.0f;
  return signs;
}

/// W -> W diag(gain).
void fold(const std::vector<float>& gain, MatrixView<float> W) {
  FP4LAB_CHECK(int64_t(gain.size()) == W.cols, gain.size(), " gains for ", W.cols, " columns");
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < W.rows; ++r)
    for (int64_t c = 0; c < W.cols; ++c) W(r, c) *= gain[size_t(c)];
}

/// W (out, in) -> R^T W, R orthogonal: every column as a row of outputs, by strips.
void rotate_outputs(const LinearMap& R, MatrixView<float> W) {
  if (R.identity()) return;
  const int64_t stride = W.rows + kPadding;
  Matrix strips(omp_get_max_threads() * kStrip, stride);
#pragma omp parallel for schedule(static)
  for (int64_t begin = 0; begin < W.cols; begin += kStrip) {
    const int64_t n = std::min(kStrip, W.cols - begin);
    const MatrixView<float> part{strips.row(omp_get_thread_num() * kStrip), n, W.rows, stride};
    for (int64_t r = 0; r < W.rows; ++r)
      for (int64_t c = 0; c < n; ++c) part(c, r) = W(r, begin + c);
    map_weights(R, part);
    for (int64_t r = 0; r < W.rows; ++r)
      for (int64_t c = 0; c < n; ++c) W(r, begin + c) = part(c, r);
  }
}

std::string width_problem(const char* key, int64_t width) {
  if (transform_problem(full_hadamard(), fit_of(width)).empty()) return "";
  return str("rotation: ", key, " is ", width, ", ", width / (width & -width),
             " times a power of two, and no Hadamard matrix of such an order is known here");
}

}  // namespace

std::string rotation_problem(const RotationSpec& spec, const ModelConfig& config) {
  if (spec.kind == RotationSpec::none) return "";
  const std::string problem = width_problem("hidden_size", config.hidden_size);
  return problem.empty() && spec.heads ? width_problem("head_dim", config.head_dim) : problem;
}

RotatedModel::RotatedModel(const ModelWeights& model, const RotationSpec& spec, uint64_t seed)
    : model_(model), config_(model.config()) {
  FP4LAB_CHECK(spec.kind == RotationSpec::hadamard, int(spec.kind));
  if (const std::string problem = rotation_problem(spec, config_); !problem.empty())
    throw ConfigError(model.path() + ": " + problem);
  config_.tied_head = false;
  stream_ = hadamard_map(config_.hidden_size, draw_signs(config_.hidden_size, seed));
  if (spec.heads) heads_ = hadamard_map(config_.head_dim, {});
}

Matrix RotatedModel::load(int64_t layer, std::span<const Linear> stacked) const {
  Matrix W = model_.load(layer, stacked);
  switch (site_of(stacked[0])) {
    case SiteKind::qkv: {
      fold(model_.load_norm(layer, Norm::input), W);
      map_weights(stream_, W);
      int64_t row = 0;
      for (const Linear l : stacked) {
        const int64_t outputs = shape(l)[0];
        if (l == Linear::v) rotate_outputs(heads_, W.view().middle_rows(row, outputs));
        row += outputs;
      }
      break;
    }
    case SiteKind::gate_up:
      fold(model_.load_norm(layer, Norm::post_attention), W);
      map_weights(stream_, W);
      break;
    case SiteKind::o: map_weights(heads_, W); [[fallthrough]];
    case SiteKind::down: rotate_outputs(stream_, W);
  }
  return W;
}

std::vector<float> RotatedModel::load_norm(int64_t layer, Norm n) const {
  if (n == Norm::q || n == Norm::k) return model_.load_norm(layer, n);
  return std::vector<float>(static_cast<size_t>(config_.hidden_size), 1.0f);
}

std::vector<float> RotatedModel::load_final_norm() const {
  return std::vector<float>(static_cast<size_t>(config_.hidden_size), 1.0f);
}

void RotatedModel::embed(std::span<const int32_t> ids, MatrixView<float> out) const {
  model_.embed(ids, out);
  map_activations(stream_, out);
}

Matrix RotatedModel::load_head(int64_t begin, int64_t count) const {
  Matrix rows = model_.load_head(begin, count);
  fold(model_.load_final_norm(), rows);
  map_weights(stream_, rows);
  return rows;
}

}  // namespace fp4lab
