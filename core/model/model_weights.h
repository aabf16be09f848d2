// core/model/model_weights.h - what a forward pass reads of a Llama or Qwen3: its tensors by what they are,
// one at a time.
#pragma once
#include <array>
#include <span>
#include <string>
#include <vector>

#include "core/io/tensor_file.h"
#include "core/matrix.h"
#include "core/model/config.h"

namespace fp4lab {

enum class Linear : uint8_t { q, k, v, o, gate, up, down };
inline constexpr int kLinears = 7;

/// Linears that read the same input are one site: one stacked weight, one transform, one tensor scale.
enum class SiteKind : uint8_t { qkv, o, gate_up, down };
inline constexpr int kSites = 4;
/// "qkv", "o", "gate_up", "down".
std::string_view name(SiteKind s);
/// In stacking order: q, k, v.
std::span<const Linear> linears_of(SiteKind s);
SiteKind site_of(Linear l);

/// "layers.3.self_attn.q_proj", "layers.3.mlp.down_proj": what patterns are matched with (a leading "model."
/// and a trailing ".weight" may be written too).
std::string linear_name(int64_t layer, Linear l);
/// "layers.3.qkv".
std::string site_name(int64_t layer, SiteKind s);

/// (out, in) of a linear.
std::array<int64_t, 2> linear_shape(const ModelConfig& config, Linear l);

/// A model as somebody has it: in files (Checkpoint), or in other coordinates (methods/rotation/). Reading is
/// const and may be done by several threads at once.
class ModelWeights {
 public:
  virtual ~ModelWeights() = default;

  virtual const ModelConfig& config() const = 0;
  /// The folder it comes from, for messages.
  virtual const std::string& path() const = 0;
  /// (out, in) of a linear.
  std::array<int64_t, 2> shape(Linear l) const { return linear_shape(config(), l); }

  /// Weights as float32, (out, in); DataError naming file, tensor and place for NaN or Inf. Resident memory
  /// is the result, and at most that much again on the way.
  Matrix load(int64_t layer, Linear l) const { return load(layer, {&l, 1}); }
  /// Linears of one site, stacked in this order: (sum of out, in).
  virtual Matrix load(int64_t layer, std::span<const Linear> stacked) const = 0;
  /// The same linears' bytes where they are stored as floats, one after the other; empty where they are not.
  /// They live as long as the model and have not been looked at.
  struct Stored {
    DType dtype;
    std::span<const std::byte> bytes;
    int64_t rows;
  };
  virtual std::vector<Stored> stored(int64_t, std::span<const Linear>) const { return {}; }
  enum class Norm : uint8_t { input, post_attention, q, k };
  virtual std::vector<float> load_norm(int64_t layer, Norm n) const = 0;
  virtual std::vector<float> load_final_norm() const = 0;
  /// Rows of the embedding for these ids (each in 0..vocab_size-1), as (ids, hidden_size).
  virtual void embed(std::span<const int32_t> ids, MatrixView<float> out) const = 0;
  /// Rows [begin, begin + count) of lm_head (of the embedding when tied).
  virtual Matrix load_head(int64_t begin, int64_t count) const = 0;

 protected:
  ModelWeights() = default;
  ModelWeights(ModelWeights&&) = default;
  ModelWeights& operator=(ModelWeights&&) = default;
};

}  // namespace fp4lab
