#include "core/model/config.h"

#include "tests/catch.h"
#include "tests/core/model/models.h"

using namespace fp4lab;
using namespace fp4lab::test;
namespace fs = std::filesystem;

namespace {
/// small_config() with these members replaced; a null member is written as null.
Json with(const Json& members) {
  Json config = small_config();
  config.update(members);
  return config;
}
Json without(std::vector<std::string> keys, Json config = small_config()) {
  for (const std::string& key : keys) config.erase(key);
  return config;
}
ModelConfig read(const Json& config) {
  const TempFolder folder;
  return read_model_config(put(folder / "config.json", config.dump()));
}
/// What is said after the file's name.
std::string refusal_of_text(const std::string& text) {
  const TempFolder folder;
  const std::string path = put(folder / "config.json", text);
  const std::string message = message_of<DataError>([&] { read_model_config(path); });
  return message.starts_with(path) ? message.substr(path.size()) : "no path in: " + message;
}
std::string refusal(const Json& config) { return refusal_of_text(config.dump()); }

const Json kLlama3 = Json::parse(R"({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
  "high_freq_factor": 4.0, "original_max_position_embeddings": 8192})");
Json llama3(const Json& members) {
  Json rope = kLlama3;
  rope.update(members);
  return rope;
}
}  // namespace

TEST_CASE("model config: the shipped model", "[core][model][config]") {
  const ModelConfig c = read_model_config(shipped_model() + "/config.json");
  CHECK(c.architecture == "LlamaForCausalLM");
  CHECK(c.hidden_size == 256);
  CHECK(c.intermediate_size == 768);
  CHECK(c.layers == 6);
  CHECK(c.heads == 4);
  CHECK(c.kv_heads == 2);
  CHECK(c.head_dim == 64);
  CHECK(c.vocab_size == 8192);
  CHECK(c.max_positions == 2048);
  CHECK(c.rms_norm_eps == 1e-5);
  CHECK(c.tied_head);
  CHECK_FALSE(c.qk_norms);
  CHECK(c.rope.type == Rope::standard);
  CHECK(c.rope.theta == 10000);
  CHECK(read_model_config(shipped_model()).layers == 6);  // by its folder
}

TEST_CASE("model config: a Qwen3", "[core][model][config]") {
  const std::string folder = data_model("qwen3-random");
  if (!fs::exists(folder)) FP4LAB_SKIP("no " + folder + "; set FP4LAB_DATA");
  const ModelConfig c = read_model_config(folder + "/config.json");
  CHECK(c.architecture == "Qwen3ForCausalLM");
  CHECK(c.hidden_size == 128);
  CHECK(c.intermediate_size == 384);
  CHECK(c.layers == 2);
  CHECK(c.heads == 4);
  CHECK(c.kv_heads == 2);
  CHECK(c.head_dim == 64);  // not hidden_size / heads
  CHECK(c.vocab_size == 384);
  CHECK(c.max_positions == 512);
  CHECK(c.rms_norm_eps == 1e-6);
  CHECK_FALSE(c.tied_head);
  CHECK(c.qk_norms);
  CHECK(c.rope.type == Rope::standard);
  CHECK(c.rope.theta == 1e6);
}

TEST_CASE("model config: Llama 3.1 in the older spelling", "[core][model][config]") {
  const std::string folder = data_model("llama31-random");
  if (!fs::exists(folder)) FP4LAB_SKIP("no " + folder + "; set FP4LAB_DATA");
  const ModelConfig c = read_model_config(folder + "/config.json");
  CHECK(c.intermediate_size == 352);
  CHECK(c.kv_heads == 1);
  CHECK(c.head_dim == 32);
  CHECK(c.max_positions == 131072);
  CHECK(c.rope.type == Rope::llama3);
  CHECK(c.rope.theta == 500000);
  CHECK(c.rope.factor == 8);
  CHECK(c.rope.low_freq_factor == 1);
  CHECK(c.rope.high_freq_factor == 4);
  CHECK(c.rope.original_max_positions == 64);
}

TEST_CASE("model config: tiny and small of the shared data", "[core][model][config]") {
  for (const std::string model : {"tiny", "small"}) {
    const std::string folder = data_model(model);
    if (!fs::exists(folder)) FP4LAB_SKIP("no " + folder + "; set FP4LAB_DATA");
    const ModelConfig c = read_model_config(folder);
    CHECK(c.layers == (model == "tiny" ? 6 : 9));
    CHECK(c.hidden_size == (model == "tiny" ? 256 : 512));
  }
}

TEST_CASE("model config: what is absent has the default of transformers", "[core][model][config]") {
  const Json bare = without({"num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps",
                             "tie_word_embeddings", "rope_parameters", "hidden_act", "attention_bias",
                             "mlp_bias", "model_type"});
  const ModelConfig llama = read(bare);
  CHECK(llama.kv_heads == 2);
  CHECK(llama.head_dim == 2);
  CHECK(llama.max_positions == 2048);
  CHECK(llama.rms_norm_eps == 1e-6);
  CHECK_FALSE(llama.tied_head);
  CHECK(llama.rope.theta == 10000);
  CHECK(llama.rope.type == Rope::standard);

  Json qwen = bare;
  qwen["architectures"] = {"Qwen3ForCausalLM"};
  CHECK(read(qwen).head_dim == 128);
  CHECK(read(qwen).max_positions == 32768);
  CHECK(read(qwen).qk_norms);

  // null is absent.
  Json nulls = bare;
  for (const char* key : {"num_key_value_heads", "head_dim", "rope_scaling", "rope_parameters",
                          "sliding_window", "quantization_config", "pad_token_id", "hidden_act"})
    nulls[key] = nullptr;
  CHECK(read(nulls).head_dim == 2);
  CHECK(read(with({{"hidden_size", 4.0}})).hidden_size == 4);
}

TEST_CASE("model config: the architecture by either key", "[core][model][config]") {
  const std::string supported = "; supported: LlamaForCausalLM, Qwen3ForCausalLM";
  CHECK(read(without({"architectures"})).architecture == "LlamaForCausalLM");
  CHECK(read(without({"architectures"}, with({{"model_type", "qwen3"}}))).architecture == "Qwen3ForCausalLM");
  CHECK(read(with({{"architectures", Json::array()}})).architecture == "LlamaForCausalLM");
  CHECK(refusal(with({{"architectures", {"MistralForCausalLM"}}})) ==
        " at /architectures: \"MistralForCausalLM\" is not supported" + supported);
  CHECK(refusal(without({"architectures"}, with({{"model_type", "mistral"}}))) ==
        " at /model_type: \"mistral\" is not supported" + supported);
  CHECK(refusal(without({"architectures", "model_type"})) ==
        " at /architectures: missing, and so is model_type" + supported);
  CHECK(refusal(with({{"model_type", "qwen3"}})) ==
        " at /model_type: \"qwen3\" does not fit LlamaForCausalLM, which is \"llama\"");
  CHECK(has(refusal(with({{"architectures", "LlamaForCausalLM"}})),
            "expected a list of strings, found a string"));
  CHECK(
      has(refusal(with({{"architectures", {3}}})), " at /architectures: expected a list of strings, found"));
  CHECK(has(refusal(with({{"architectures", {"LlamaForCausalLM", "LlamaModel"}}})),
            " at /architectures: expected one architecture, found a list"));
  // Nothing in a name reaches the terminal as it is.
  CHECK(has(refusal(with({{"architectures", {"\x1b[2J"}}})), R"("\u001b[2J" is not supported)"));
}

TEST_CASE("model config: both spellings of the rotary embedding", "[core][model][config]") {
  const Json bare = without({"rope_parameters"});
  const auto rope_of = [&](const Json& members) {
    Json config = bare;
    config.update(members);
    return read(config).rope;
  };
  const auto refused = [&](const Json& members) {
    Json config = bare;
    config.update(members);
    return refusal(config);
  };
  const Json newer = llama3({{"rope_theta", 5e5}});
  CHECK(rope_of({{"rope_theta", 5e5}}).theta == 5e5);
  for (const Json& config :
       {Json{{"rope_parameters", newer}}, Json{{"rope_theta", 5e5}, {"rope_scaling", kLlama3}},
        Json{{"rope_theta", 5e5}, {"rope_parameters", kLlama3}},
        Json{{"rope_theta", 5e5}, {"rope_parameters", newer}, {"rope_scaling", kLlama3}}}) {
    CAPTURE(config.dump());
    const Rope rope = rope_of(config);
    CHECK(rope.type == Rope::llama3);
    CHECK(rope.theta == 5e5);
    CHECK(rope.factor == 8);
    CHECK(rope.low_freq_factor == 1);
    CHECK(rope.high_freq_factor == 4);
    CHECK(rope.original_max_positions == 8192);
  }
  Json oldest = kLlama3;
  oldest.erase("rope_type"), oldest["type"] = "llama3";
  CHECK(rope_of({{"rope_scaling", oldest}}).type == Rope::llama3);
  oldest["rope_type"] = "llama3";
  CHECK(rope_of({{"rope_scaling", oldest}}).type == Rope::llama3);
  oldest["rope_type"] = "default";
  CHECK(has(refused({{"rope_scaling", oldest}}),
            " at /rope_scaling/type: \"llama3\" and rope_type \"default\" do not agree"));

  for (const char* key :
       {"rope_theta", "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}) {
    CAPTURE(key);
    Json other = newer;
    other[key] = other[key].get<double>() * 1.5;
    CHECK(refused({{"rope_parameters", newer}, {"rope_scaling", other}}) ==
          " at /rope_scaling: does not agree with rope_parameters");
  }
  CHECK(refused({{"rope_parameters", {{"rope_type", "default"}}}, {"rope_scaling", kLlama3}}) ==
        " at /rope_scaling: does not agree with rope_parameters");
  CHECK(refused({{"rope_theta", 10000}, {"rope_parameters", newer}}) ==
        " at /rope_theta: 10000 does not agree with rope_parameters, where rope_theta is 500000");
}

TEST_CASE("model config: rotary embeddings that are refused", "[core][model][config]") {
  const auto refused = [](const Json& rope) { return refusal(with({{"rope_parameters", rope}})); };
  for (const std::string type : {"yarn", "linear", "dynamic", "longrope", "LLAMA3", ""})
    CHECK(refused({{"rope_type", type}, {"factor", 2.0}}) ==
          " at /rope_parameters/rope_type: rope type \"" + type +
              "\" is not supported; supported: default, llama3");
  CHECK(has(refused({{"type", "yarn"}}), " at /rope_parameters/type: rope type \"yarn\" is not supported"));
  CHECK(has(refused({{"rope_type", 3}}), " at /rope_parameters/rope_type: expected a string, found 3"));
  CHECK(has(refused("llama3"), " at /rope_parameters: expected an object, found a string"));
  CHECK(has(refused({{"rope_type", "default"}, {"factor", 8.0}}),
            " at /rope_parameters: unknown key \"factor\""));
  CHECK(has(refused({{"full_attention", {{"rope_type", "default"}}}}), "unknown key \"full_attention\""));
  CHECK(
      has(refused({{"rope_theta", 0}}), " at /rope_parameters/rope_theta: expected a number in [1, 1e+15]"));
  CHECK(has(refused({{"partial_rotary_factor", 0.5}}),
            "/partial_rotary_factor: a partial rotary embedding is not"));
  for (const char* key :
       {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}) {
    Json rope = kLlama3;
    rope.erase(key);
    CHECK(has(refused(rope), " at /rope_parameters: missing key \"" + std::string(key) + "\""));
    rope[key] = -1;
    CHECK(has(refused(rope), " at /rope_parameters/" + std::string(key) + ": expected "));
    rope[key] = "8";
    CHECK(has(refused(rope), "found a string \"8\""));
  }
  for (const double high : {1.0, 0.5})
    CHECK(has(refused(llama3({{"high_freq_factor", high}})),
              "/high_freq_factor: expected more than low_freq_factor (1), found"));
}

TEST_CASE("model config: sizes that are refused", "[core][model][config]") {
  for (const char* key :
       {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"}) {
    CAPTURE(key);
    CHECK(has(refusal(without({key})), ": missing key \"" + std::string(key) + "\""));
    CHECK(has(refusal(with({{key, nullptr}})), ": missing key \"" + std::string(key) + "\""));
  }
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                          "num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings"}) {
    CAPTURE(key);
    for (const Json& value : {Json(0), Json(-4), Json(2.5), Json("4"), Json(true), Json::array({4}),
                              Json(int64_t{1} << 40), Json(UINT64_MAX), Json(1e300)})
      CHECK(has(refusal(with({{key, value}})), " at /" + std::string(key) + ": expected an integer in ["));
  }
  CHECK(refusal(with({{"num_attention_heads", 3}, {"num_key_value_heads", 2}})) ==
        " at /num_key_value_heads: expected a divisor of num_attention_heads (3), found 2");
  CHECK(has(refusal(with({{"num_key_value_heads", 4}})),
            "expected a divisor of num_attention_heads (2), found 4"));
  CHECK(refusal(without({"head_dim"}, with({{"num_attention_heads", 3}}))) ==
        " at /num_attention_heads: without head_dim, expected a divisor of hidden_size (4), found 3");
  CHECK(has(refusal(with({{"head_dim", 3}})),
            " at /head_dim: expected an even number of at most 16384, found 3"));
  CHECK(has(refusal(without({"head_dim"}, with({{"num_attention_heads", 4}}))),
            "expected an even number of at most 16384, found 1 (hidden_size / num_attention_heads)"));
  CHECK(has(refusal(without({"head_dim"}, with({{"hidden_size", 1 << 16}, {"num_attention_heads", 2}}))),
            "found 32768 (hidden_size / num_attention_heads)"));
  for (const Json& eps : {Json(-1e-6), Json(2), Json("1e-5"), Json(nullptr)}) {
    if (eps.is_null())
      CHECK(read(with({{"rms_norm_eps", eps}})).rms_norm_eps == 1e-6);
    else
      CHECK(has(refusal(with({{"rms_norm_eps", eps}})),
                " at /rms_norm_eps: expected a number in [0, 1], found"));
  }
  CHECK(has(refusal(with({{"tie_word_embeddings", 1}})),
            " at /tie_word_embeddings: expected true or false, found 1"));
}

TEST_CASE("model config: models that compute something else are refused", "[core][model][config]") {
  CHECK(refusal(with({{"hidden_act", "gelu"}})) ==
        " at /hidden_act: \"gelu\" is not supported; supported: silu");
  for (const char* key : {"attention_bias", "mlp_bias"})
    CHECK(refusal(with({{key, true}})) ==
          " at /" + std::string(key) + ": biases are not supported; expected false");
  CHECK(refusal(with({{"quantization_config", {{"quant_method", "fp_quant"}, {"bits", 4}}}})) ==
        " at /quantization_config: a quantized checkpoint (quant_method \"fp_quant\") is not supported; "
        "expected "
        "weights in F32, F16 or BF16");
  CHECK(has(refusal(with({{"quantization_config", 3}})), "a quantized checkpoint is not supported"));
  CHECK(has(refusal(with({{"partial_rotary_factor", 0.5}})), " at /partial_rotary_factor: a partial rotary"));
  CHECK(refusal(with({{"layer_types", {"full_attention", "sliding_attention"}}})) ==
        " at /layer_types: \"sliding_attention\" is not supported; supported: full_attention");
  CHECK(read(with({{"layer_types", {"full_attention", "full_attention"}}})).layers == 2);

  const std::string window = ": a sliding window is not supported; expected full attention";
  CHECK(refusal(with({{"sliding_window", 64}})) == " at /sliding_window" + window);
  CHECK(refusal(with({{"use_sliding_window", true}})) == " at /use_sliding_window" + window);
  CHECK(read(with({{"sliding_window", 64}, {"use_sliding_window", false}})).layers == 2);
  const Json qwen{{"architectures", {"Qwen3ForCausalLM"}}, {"model_type", "qwen3"}, {"sliding_window", 64}};
  CHECK(read(with(qwen)).qk_norms);  // written, and off by default
  Json windowed = with(qwen);
  windowed["use_sliding_window"] = true;
  CHECK(refusal(windowed) == " at /sliding_window" + window);
}

TEST_CASE("model config: files that are missing or broken", "[core][model][config]") {
  const TempFolder folder;
  CHECK(message_of<DataError>([&] { read_model_config(folder / "config.json"); }) ==
        folder / "config.json" + ": cannot open: No such file or directory");
  CHECK(message_of<DataError>([&] { read_model_config(folder.path().string()); }) ==
        folder / "config.json" + ": cannot open: No such file or directory");
  CHECK(has(refusal_of_text(""), ": the text is empty"));
  CHECK(has(refusal_of_text("[]"), ": expected an object, found a list []"));
  CHECK(has(refusal_of_text("null"), ": expected an object, found null"));
  CHECK(has(refusal_of_text("{\"hidden_size\": 4,\n}"), ":2:1: "));
  CHECK(
      has(refusal_of_text(R"({"hidden_size": 4, "hidden_size": 8})"), "key \"hidden_size\" is given twice"));
  CHECK(has(refusal_of_text(R"({"rms_norm_eps": NaN})"), ":1:"));
  CHECK(has(refusal_of_text("{\"\xff\": 1}"), "not valid UTF-8"));
  CHECK(has(refusal_of_text(std::string(100000, '[')), "nested deeper than 64 levels"));
  // Cut anywhere, it is an error, not a model.
  const std::string whole = small_config().dump();
  for (size_t n = 0; n < whole.size(); ++n) {
    CAPTURE(n);
    CHECK(refusal_of_text(whole.substr(0, n)) != "no path in: (nothing thrown)");
  }
}
