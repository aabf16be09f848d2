// core/model/checkpoint.h - the tensors of a Llama or Qwen3 checkpoint by what they are, read by mmap one at
// a time.
#pragma once
#include <array>
#include <span>
#include <string>
#include <vector>

#include "core/io/tensor_file.h"
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

class Checkpoint {
 public:
  /// Opens a folder with config.json and safetensors. DataError naming file and tensor for what
  /// TensorFile::open and read_model_config refuse, for a tensor that is missing or whose shape or dtype
  /// (F32, F16 or BF16 are read) is not what the config asks for, and for one that the model does not have (a
  /// bias, say; rotary inv_freq buffers and a stored lm_head equal in shape to a tied one are passed over).
  static Checkpoint open(const std::string& path);

  const ModelConfig& config() const { return config_; }
  const std::string& path() const { return path_; }
  /// (out, in) of a linear.
  std::array<int64_t, 2> shape(Linear l) const;

  /// Weights as float32; DataError naming file, tensor and place for NaN or Inf. Pages are released as they
  /// are read, so that resident memory is the result.
  Matrix load(int64_t layer, Linear l) const;
  /// Linears of one site, stacked in this order: (sum of out, in).
  Matrix load(int64_t layer, std::span<const Linear> stacked) const;
  enum class Norm : uint8_t { input, post_attention, q, k };
  std::vector<float> load_norm(int64_t layer, Norm n) const;
  std::vector<float> load_final_norm() const;
  /// Rows of the embedding for these ids (each in 0..vocab_size-1), as (ids, hidden_size).
  void embed(std::span<const int32_t> ids, MatrixView<float> out) const;
  /// Rows [begin, begin + count) of lm_head (of the embedding when tied).
  Matrix load_head(int64_t begin, int64_t count) const;

 private:
  Checkpoint(std::string path, ModelConfig config, TensorFile file);
  std::string path_;
  ModelConfig config_;
  TensorFile file_;
};

/// Radians per position of each pair of channels (head_dim / 2), in float32 as transformers computes them.
std::vector<float> inverse_frequencies(const ModelConfig& config);
/// Cosines (columns < head_dim / 2) and sines of position * frequency, (positions, head_dim). The angle is
/// rounded to float32, then the cosine is taken.
Matrix rope_table(std::span<const float> frequencies, int64_t positions);
Matrix rope_table(const ModelConfig& config, int64_t positions);

}  // namespace fp4lab
