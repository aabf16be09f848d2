// tests/core/model/models.h - where models for tests are, and small ones made by hand.
#pragma once
#include <cstdlib>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/io/tensor_file.h"
#include "core/params.h"
#include "tests/core/io/temp_folder.h"

namespace fp4lab::test {

/// A model of FP4LAB_DATA, which may not be there.
inline std::string data_model(const std::string& name) {
  const char* const set = std::getenv("FP4LAB_DATA");
  const std::filesystem::path data =
      set ? std::filesystem::path(set) : std::filesystem::path(FP4LAB_SOURCE_DIR) / "../shared/data";
  return (data / "models" / name).string();
}
inline std::string shipped_model() { return FP4LAB_SOURCE_DIR "/experiments/data/tiny-llama"; }

/// A Llama of two layers: hidden 4, heads 2 of width 4 sharing one of k and v, MLP 6, 5 tokens, untied.
inline Json small_config() {
  return Json::parse(R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
    "hidden_size": 4, "intermediate_size": 6, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 4, "vocab_size": 5, "max_position_embeddings": 16,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": false, "attention_bias": false, "mlp_bias": false,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}})");
}

/// A tensor of a model under construction; elements count 0, 1, 2, ... plus `first`, exact in every dtype.
struct SmallTensor {
  DType dtype;
  std::vector<int64_t> shape;
  float first = 0;
};
using SmallTensors = std::map<std::string, SmallTensor>;

/// The tensors of small_config(), typed.
inline SmallTensors small_tensors() {
  SmallTensors all{{"model.embed_tokens.weight", {DType::BF16, {5, 4}, 10}},
                   {"model.norm.weight", {DType::F32, {4}, 20}},
                   {"lm_head.weight", {DType::F16, {5, 4}, 30}}};
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
    const float n = layer == "model.layers.0." ? 0 : 100;
    all[layer + "input_layernorm.weight"] = {DType::F32, {4}, n + 1};
    all[layer + "post_attention_layernorm.weight"] = {DType::BF16, {4}, n + 2};
    all[layer + "self_attn.q_proj.weight"] = {DType::F32, {8, 4}, n + 3};
    all[layer + "self_attn.k_proj.weight"] = {DType::F16, {4, 4}, n + 4};
    all[layer + "self_attn.v_proj.weight"] = {DType::BF16, {4, 4}, n + 5};
    all[layer + "self_attn.o_proj.weight"] = {DType::F32, {4, 8}, n + 6};
    all[layer + "mlp.gate_proj.weight"] = {DType::F32, {6, 4}, n + 7};
    all[layer + "mlp.up_proj.weight"] = {DType::BF16, {6, 4}, n + 8};
    all[layer + "mlp.down_proj.weight"] = {DType::F32, {4, 6}, n + 9};
  }
  return all;
}

inline std::string elements_of(const SmallTensor& t) {
  int64_t n = 1;
  for (const int64_t d : t.shape) n *= d;
  std::string bytes;
  for (int64_t i = 0; i < n; ++i) {
    const float x = t.first + float(i);
    if (t.dtype == DType::BF16)
      bytes += raw(std::vector<bf16>{bf16_from_float(x)});
    else if (t.dtype == DType::F16)
      bytes += raw(std::vector<f16>{f16_from_float(x)});
    else if (t.dtype == DType::F32)
      bytes += raw(std::vector<float>{x});
    else
      bytes += std::string(size_t(bytes_per_element(t.dtype)), '\0');
  }
  return bytes;
}

inline void put_tensors(const std::string& path, const SmallTensors& tensors) {
  std::vector<std::string> bytes;
  for (const auto& [name, t] : tensors) bytes.push_back(elements_of(t));
  std::vector<TensorToWrite> all;
  for (const auto& [name, t] : tensors)
    all.push_back({name, t.dtype, t.shape, std::as_bytes(std::span(bytes[all.size()]))});
  write_safetensors(path, all);
}

/// A checkpoint folder; returns its path.
inline std::string put_model(const TempFolder& folder, const Json& config, const SmallTensors& tensors) {
  put(folder / "config.json", config.dump());
  put_tensors(folder / "model.safetensors", tensors);
  return folder.path().string();
}

}  // namespace fp4lab::test
