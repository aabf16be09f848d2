// experiments/export/stored_model.h - a checkpoint that another tool, or `fp4lab export`, has quantized: what
// it stores, and the model that it is.
//   x W^T is computed as Q(x T) W^^T with what is stored: codes, scales, T (the fp_quant layout's Hadamard
//   blocks, otherwise the identity) and the inputs' format. As ModelWeights it is the model in full precision
//   whose linears are W^ T^T: in the original coordinates, so that every task can look at it.
#pragma once
#include <array>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/linear_map.h"
#include "core/model/checkpoint.h"
#include "experiments/export/scheme.h"

namespace fp4lab {

/// Beside the weights, where layouts store 1 / s_T and its inverse is not s_T again: the exact factors of
/// each linear, {"model.layers.0.mlp.up_proj": {"weight": s_T, "input": s_T}}. Other readers see their
/// divisors; with it the cell is computed to the bit.
inline constexpr const char* kScalesFile = "fp4lab_scales.json";

class StoredModel final : public ModelWeights {
 public:
  /// DataError naming file and tensor for what read_scheme and Checkpoint::open refuse, for a linear whose
  /// tensors are missing, of another dtype or shape, stored twice or against the config; global scales that
  /// are no positive numbers or not the inverses of those in kScalesFile; Hadamard matrices that are none.
  /// Which linears are quantized, the tensors say. Codes and group scales are looked at when they are read.
  static StoredModel open(const std::string& path);

  const Scheme& scheme() const { return scheme_; }
  bool is_stored(int64_t layer, Linear l) const { return at(layer, l).stored; }
  int64_t stored_linears() const;
  /// What the linear's inputs are quantized to, with its own s_T where that is static.
  std::optional<FormatSpec> activations(int64_t layer, Linear l) const;
  /// Whether they have one tensor scale.
  bool share_scale(int64_t layer, std::span<const Linear> linears) const;
  /// The same for all stored linears.
  const LinearMap& map() const { return map_; }

  /// Linears with one tensor scale, stacked: (sum of out, in). DataError with tensor, row and group for group
  /// scales that are no numbers.
  QuantizedMatrix quantized(int64_t layer, std::span<const Linear> linears) const;
  /// One linear's values as the second decoder computes them, in the original coordinates.
  Matrix decoded(int64_t layer, Linear l) const;
  /// The global scales of one linear as they are stored (1 where the layout has none), for writing them
  /// again.
  float stored_global(int64_t layer, Linear l) const { return at(layer, l).global; }
  std::optional<float> stored_input(int64_t layer, Linear l) const { return at(layer, l).input; }
  /// Everything that is not of a stored linear: embedding, norms, linears in full precision.
  const Checkpoint& rest() const { return rest_; }

  const ModelConfig& config() const override { return rest_.config(); }
  const std::string& path() const override { return rest_.path(); }
  using ModelWeights::load;
  Matrix load(int64_t layer, std::span<const Linear> stacked) const override;
  std::vector<float> load_norm(int64_t layer, Norm n) const override { return rest_.load_norm(layer, n); }
  std::vector<float> load_final_norm() const override { return rest_.load_final_norm(); }
  void embed(std::span<const int32_t> ids, MatrixView<float> out) const override { rest_.embed(ids, out); }
  Matrix load_head(int64_t begin, int64_t count) const override { return rest_.load_head(begin, count); }

 private:
  struct Entry {
    bool stored = false;
    float global = 1, scale = 1;              // as stored; s_T
    std::optional<float> input, input_scale;  // the same of the inputs
  };
  StoredModel(Scheme scheme, Checkpoint rest) : scheme_(std::move(scheme)), rest_(std::move(rest)) {}
  const Entry& at(int64_t layer, Linear l) const { return entries_[size_t(layer)][size_t(l)]; }
  float tensor_scale(float global) const;
  void read_exact_scales();
  Entry read_entry(int64_t layer, Linear l);
  void check_matrix(const std::string& prefix, std::string_view suffix, bool required);

  Scheme scheme_;
  Checkpoint rest_;
  std::vector<std::array<Entry, kLinears>> entries_;
  LinearMap map_;
  std::optional<bool> rotated_;  // what the matrices that were read so far are: a Hadamard's, or the identity
};

/// The model in a folder: a StoredModel when it says that it is quantized, otherwise a Checkpoint.
std::shared_ptr<const ModelWeights> open_model(const std::string& path);

}  // namespace fp4lab
