// tests/methods/made_up_model.h - small models with random weights, as checkpoints.
#pragma once
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/model/checkpoint.h"
#include "core/random.h"
#include "methods/rotation/rotation_spec.h"
#include "tests/core/io/temp_folder.h"

namespace fp4lab::test {

struct MadeUp {
  bool qwen3;
  int64_t hidden, intermediate, heads, kv_heads, head_dim;
  bool tied;
  static constexpr int64_t layers = 2, vocab = 53;
};

/// Norms' weights are within these, of either sign: what is folded matters, and how much is known.
inline constexpr double kSmallestGain = 0.5, kLargestGain = 1.5;

/// Weights N(0, 1 / inputs), embeddings N(0, 1), everything in float32.
inline Checkpoint make_up(const TempFolder& folder, const MadeUp& m) {
  Json config{{"architectures", {m.qwen3 ? "Qwen3ForCausalLM" : "LlamaForCausalLM"}},
              {"model_type", m.qwen3 ? "qwen3" : "llama"},
              {"hidden_act", "silu"},
              {"hidden_size", m.hidden},
              {"intermediate_size", m.intermediate},
              {"num_hidden_layers", MadeUp::layers},
              {"num_attention_heads", m.heads},
              {"num_key_value_heads", m.kv_heads},
              {"head_dim", m.head_dim},
              {"vocab_size", MadeUp::vocab},
              {"rms_norm_eps", 1e-5},
              {"tie_word_embeddings", m.tied}};
  put(folder / "config.json", config.dump());
  std::vector<std::vector<float>> data;
  std::vector<TensorToWrite> tensors;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape) {
    const Stream stream(1, name);
    const int64_t cols = shape.back(), n = shape.size() == 2 ? shape[0] * cols : cols;
    const double scale = name.find("embed") != std::string::npos ? 1 : 1 / std::sqrt(double(cols));
    std::vector<float> x;
    for (uint64_t i = 0; i < uint64_t(n); ++i) {
      const auto bits = stream.block(i);
      const double gain = kSmallestGain + (kLargestGain - kSmallestGain) * uniform_open(bits[0], bits[1]);
      x.push_back(float(shape.size() == 2 ? normal_pair(bits)[0] * scale : bits[2] & 1 ? gain : -gain));
    }
    data.push_back(std::move(x));
    tensors.push_back({name, DType::F32, std::move(shape), std::as_bytes(std::span(data.back()))});
  };
  add("model.embed_tokens.weight", {MadeUp::vocab, m.hidden});
  add("model.norm.weight", {m.hidden});
  if (!m.tied) add("lm_head.weight", {MadeUp::vocab, m.hidden});
  const ModelConfig shapes = read_model_config(folder.path().string());
  for (int64_t layer = 0; layer < MadeUp::layers; ++layer) {
    const std::string prefix = str("model.layers.", layer, ".");
    add(prefix + "input_layernorm.weight", {m.hidden});
    add(prefix + "post_attention_layernorm.weight", {m.hidden});
    if (m.qwen3) add(prefix + "self_attn.q_norm.weight", {m.head_dim});
    if (m.qwen3) add(prefix + "self_attn.k_norm.weight", {m.head_dim});
    for (int l = 0; l < kLinears; ++l) {
      const auto [out, in] = linear_shape(shapes, Linear(l));
      add("model." + linear_name(layer, Linear(l)) + ".weight", {out, in});
    }
  }
  write_safetensors(folder / "model.safetensors", tensors);
  return Checkpoint::open(folder.path().string());
}

/// A width is a power of two times the order of a matrix that is known.
struct Width {
  int64_t power, dense;
  int64_t size() const { return power * dense; }
};
inline constexpr RotationSpec kBoth{RotationSpec::hadamard, true}, kStreamOnly{RotationSpec::hadamard, false};

struct Case {
  const char* name;
  MadeUp shape;
  Width hidden, head;
};
inline const Case kCases[] = {
    {"llama, untied", {false, 64, 80, 4, 2, 16, false}, {64, 1}, {16, 1}},
    {"llama, tied, one kv head", {false, 64, 48, 2, 1, 32, true}, {64, 1}, {32, 1}},
    {"llama of width 96, untied", {false, 96, 64, 3, 3, 12, false}, {8, 12}, {1, 12}},
    {"qwen3, tied", {true, 64, 80, 4, 2, 8, true}, {64, 1}, {8, 1}},
    {"qwen3 of width 96, tied", {true, 96, 80, 4, 2, 24, true}, {8, 12}, {2, 12}},
    {"qwen3 of width 80, untied", {true, 80, 64, 6, 2, 16, false}, {4, 20}, {16, 1}},
};

}  // namespace fp4lab::test
