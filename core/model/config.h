// core/model/config.h - the shape of a language model, from a Hugging Face config.json.
#pragma once
#include <string>

#include "core/params.h"

namespace fp4lab {

/// Rotary position embedding; angles are position * inverse_frequency[i], i < head_dim / 2.
struct Rope {
  enum Type : uint8_t { standard, llama3 };
  Type type = standard;
  double theta = 10000;
  // llama3 only (Llama 3.1): long wavelengths are divided by `factor`, short ones kept, between them blended.
  double factor = 1, low_freq_factor = 1, high_freq_factor = 4;
  int64_t original_max_positions = 0;
};

struct ModelConfig {
  std::string architecture;  // "LlamaForCausalLM", "Qwen3ForCausalLM"
  int64_t hidden_size, intermediate_size, layers, heads, kv_heads, head_dim, vocab_size, max_positions;
  double rms_norm_eps;
  bool tied_head;  // lm_head is the embedding
  bool qk_norms;   // Qwen3: an RMS norm of each head of q and k, before the rotary embedding
  Rope rope;
};

/// Reads config.json (`path` is the file or its folder), in the older spelling (`rope_theta`, `rope_scaling`,
/// `torch_dtype`) or the newer one (`rope_parameters`, `dtype`); absent keys have transformers' defaults
/// (head_dim = hidden_size / heads, of Qwen3 128; kv_heads = heads, ...). DataError naming file and key for:
/// a missing or broken file, an architecture or rope type that is not supported (the message lists what is),
/// biases, another activation than silu, a sliding window in use, a quantization_config, sizes that are
/// absent, not positive, absurd or do not fit each other. `quantized`: a quantization_config is passed over,
/// for somebody else to read.
ModelConfig read_model_config(const std::string& path, bool quantized = false);

}  // namespace fp4lab
