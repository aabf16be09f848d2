// tests/experiments/quantized_folder.h - quantized checkpoints made by hand, tensor by tensor.
#pragma once
#include <bit>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/model/checkpoint.h"
#include "core/random.h"
#include "experiments/export/scheme.h"
#include "tests/core/model/models.h"

namespace fp4lab::test {

struct RawTensor {
  DType dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};

/// A Llama of one block: hidden 64, one head of width 32 on its own k and v, MLP 128, 5 tokens.
struct QuantizedFolder {
  Scheme scheme;
  Json config;
  std::map<std::string, RawTensor> tensors;
  std::map<std::string, QuantizedMatrix> quantized;  // by linear
  static constexpr int64_t kHidden = 64, kHead = 32, kMlp = 128;

  explicit QuantizedFolder(const Scheme& s) : scheme(s) {
    config = Json::parse(R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama",
      "hidden_act": "silu", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1,
      "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 32, "vocab_size": 5,
      "max_position_embeddings": 16, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
      "attention_bias": false, "mlp_bias": false,
      "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}})");
    config["quantization_config"] = quantization_config(s);
    const auto ones = [](int64_t n) { return raw(std::vector<float>(static_cast<size_t>(n), 1.0f)); };
    tensors["model.embed_tokens.weight"] = {DType::F32, {5, kHidden}, ones(5 * kHidden)};
    for (const char* name :
         {"model.norm", "model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm"})
      tensors[std::string(name) + ".weight"] = {DType::F32, {kHidden}, ones(kHidden)};
    const std::map<std::string, std::pair<int64_t, int64_t>> shapes = {
        {"self_attn.q_proj", {kHead, kHidden}}, {"self_attn.k_proj", {kHead, kHidden}},
        {"self_attn.v_proj", {kHead, kHidden}}, {"self_attn.o_proj", {kHidden, kHead}},
        {"mlp.gate_proj", {kMlp, kHidden}},     {"mlp.up_proj", {kMlp, kHidden}},
        {"mlp.down_proj", {kHidden, kMlp}}};
    for (const auto& [linear, shape] : shapes) add("model.layers.0." + linear, shape.first, shape.second);
  }

  std::string write(const TempFolder& folder) const {
    put(folder / "config.json", config.dump());
    std::vector<TensorToWrite> all;
    for (const auto& [name, t] : tensors)
      all.push_back({name, t.dtype, t.shape, std::as_bytes(std::span(t.bytes))});
    write_safetensors(folder / "model.safetensors", all);
    return folder.path().string();
  }

 private:
  void add(const std::string& linear, int64_t rows, int64_t cols) {
    Matrix W(rows, cols);
    const Stream stream(11, linear);
    for (int64_t i = 0; i < W.size(); ++i) W.data()[i] = float(normal_pair(stream.block(uint64_t(i)))[0]);
    const QuantizedMatrix q = quantize(scheme.weights, W);
    for (const LayoutTensor& t : to_layout(scheme.layout, q, 0, rows))
      tensors[linear + "." + std::string(t.suffix)] = {
          t.dtype, t.shape, {reinterpret_cast<const char*>(t.bytes.data()), t.bytes.size()}};
    const std::string_view input = input_scale_suffix(scheme.layout);
    if (scheme.activations && !input.empty())
      tensors[linear + "." + std::string(input)] = {
          DType::F32, {1}, raw(std::vector<float>{scheme.weights.scale == kUE8M0 ? 3.0f : 0.25f})};
    if (scheme.layout == Layout::fp_quant) {
      const int64_t k = matrix_width(scheme);
      std::vector<float> m(static_cast<size_t>(k * k));
      for (int64_t i = 0; i < k; ++i)
        for (int64_t j = 0; j < k; ++j)
          m[size_t(i * k + j)] =
              scheme.hadamard > 1 ? (std::popcount(uint64_t(i & j)) % 2 ? -1.0f : 1.0f) / std::sqrt(float(k))
                                  : float(i == j);
      tensors[linear + ".forward_hadamard_matrix"] = {DType::F32, {k, k}, raw(m)};
    }
    quantized.emplace(linear, q);
  }
};

}  // namespace fp4lab::test
