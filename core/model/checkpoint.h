// core/model/checkpoint.h - the tensors of a Llama or Qwen3 checkpoint by what they are, read by mmap one at
// a time.
#pragma once
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/io/tensor_file.h"
#include "core/model/model_weights.h"

namespace fp4lab {

class Checkpoint final : public ModelWeights {
 public:
  /// Opens a folder with config.json and safetensors. DataError naming file and tensor for what
  /// TensorFile::open and read_model_config refuse, for a tensor that is missing or whose shape or dtype
  /// (F32, F16 or BF16 are read) is not what the config asks for, and for one that the model does not have (a
  /// bias, say; rotary inv_freq buffers and a stored lm_head equal in shape to a tied one are passed over).
  /// `elsewhere`: tensors that somebody else reads, as those of quantized linears: they are neither asked for
  /// nor looked at, and a quantization_config is passed over.
  static Checkpoint open(const std::string& path,
                         const std::function<bool(std::string_view tensor)>& elsewhere = {});

  const ModelConfig& config() const override { return config_; }
  const std::string& path() const override { return path_; }
  const TensorFile& file() const { return file_; }

  /// Pages are released as they are read, so that resident memory is the result.
  using ModelWeights::load;
  Matrix load(int64_t layer, std::span<const Linear> stacked) const override;
  std::vector<Stored> stored(int64_t layer, std::span<const Linear> linears) const override;
  std::vector<float> load_norm(int64_t layer, Norm n) const override;
  std::vector<float> load_final_norm() const override;
  void embed(std::span<const int32_t> ids, MatrixView<float> out) const override;
  Matrix load_head(int64_t begin, int64_t count) const override;

 private:
  Checkpoint(std::string path, ModelConfig config, TensorFile file);
  std::string path_;
  ModelConfig config_;
  TensorFile file_;
};

}  // namespace fp4lab
