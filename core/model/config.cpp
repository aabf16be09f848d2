// config.json as transformers writes it: many keys that do not concern us are passed over, those that would
// change what the model computes are read or refused.
#include "core/model/config.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/text.h"

namespace fp4lab {

namespace {
struct Architecture {
  std::string_view name, model_type;
  bool qk_norms;
  int64_t head_dim;       // transformers' default; 0: hidden_size / heads
  int64_t max_positions;  // transformers' default
};
constexpr Architecture kArchitectures[] = {
    {"LlamaForCausalLM", "llama", false, 0, 2048},
    {"Qwen3ForCausalLM", "qwen3", true, 128, 32768},
};

/// As it stands in the file, quoted and at most 60 characters of it.
std::string quoted(const std::string& text) { return describe(Json(text)).substr(9); }  // without "a string "

std::string not_supported(const std::string& what, const std::vector<std::string>& supported) {
  return what + " is not supported; supported: " + join(supported);
}

const Architecture& read_architecture(Params& p) {
  const std::vector<std::string> supported = names_of(kArchitectures);
  // A list of one; a model_type without it is what older tools and hand-made configs have.
  const Json& list = p.raw("architectures", {"the class of the model, in a list"});
  const std::string type = p.text("model_type", "", {"llama or qwen3"});
  const Architecture* found = nullptr;
  if (!list.is_null() && !(list.is_array() && list.empty())) {
    if (!list.is_array() ||
        !std::all_of(list.begin(), list.end(), [](const Json& x) { return x.is_string(); }))
      p.fail("architectures", "expected a list of strings, found " + describe(list));
    const std::string name = list[0].get<std::string>();
    if (list.size() > 1) p.fail("architectures", "expected one architecture, found " + describe(list));
    found = find_named(kArchitectures, name);
    if (!found) p.fail("architectures", not_supported(quoted(name), supported));
    if (!type.empty() && type != found->model_type)
      p.fail("model_type", quoted(type) + " does not fit " + name + ", which is \"" +
                               std::string(found->model_type) + "\"");
    return *found;
  }
  for (const Architecture& a : kArchitectures)
    if (a.model_type == type) return a;
  if (type.empty()) p.fail("architectures", "missing, and so is model_type; supported: " + join(supported));
  p.fail("model_type", not_supported(quoted(type), supported));
}

/// Refuses what would make the model compute something else than kernels/forward does.
void refuse_other_models(Params& p, const Architecture& architecture, bool quantized) {
  if (!quantized && p.has("quantization_config")) {
    const Json& q = p.raw("quantization_config", {"must be absent"});
    const bool named = q.is_object() && q.contains("quant_method") && q["quant_method"].is_string();
    p.fail("quantization_config",
           "a quantized checkpoint" +
               (named ? " (quant_method " + quoted(q["quant_method"].get<std::string>()) + ")" : "") +
               " is not supported; expected weights in F32, F16 or BF16");
  }
  const std::string act = p.text("hidden_act", "silu", {"silu"});
  if (act != "silu") p.fail("hidden_act", not_supported(quoted(act), {"silu"}));
  for (const char* key : {"attention_bias", "mlp_bias"})
    if (p.boolean(key, false, {"must be false"})) p.fail(key, "biases are not supported; expected false");

  // Qwen3 writes a window's length and does not use it unless the switch is on.
  const bool has_window = p.has("sliding_window") || p.has("use_sliding_window");
  const bool by_default = !architecture.qk_norms && p.has("sliding_window");
  if (has_window && p.boolean("use_sliding_window", by_default, {"must be false"}))
    p.fail(p.has("sliding_window") ? "sliding_window" : "use_sliding_window",
           "a sliding window is not supported; expected full attention");
  if (p.has("layer_types"))
    for (const std::string& type : p.texts("layer_types", {}, {"of each layer"}))
      if (type != "full_attention") p.fail("layer_types", not_supported(quoted(type), {"full_attention"}));
  if (p.number("partial_rotary_factor", 1, {"must be 1"}) != 1)
    p.fail("partial_rotary_factor", "a partial rotary embedding is not supported; expected 1");
}

bool same(const Rope& a, const Rope& b) {
  return a.type == b.type && a.theta == b.theta && a.factor == b.factor &&
         a.low_freq_factor == b.low_freq_factor && a.high_freq_factor == b.high_freq_factor &&
         a.original_max_positions == b.original_max_positions;
}

/// `rope_parameters`, or the older `rope_scaling`, whose theta stands beside it.
Rope read_rope_object(const Json& object, const Place& place, double theta) {
  Params p(object, place, "the rotary embedding");
  Rope rope;
  const std::string older = p.text("type", "", {"older spelling of rope_type"});
  const std::string type = p.text("rope_type", older.empty() ? "default" : older, {"default or llama3"});
  if (!older.empty() && older != type)
    p.fail("type", quoted(older) + " and rope_type " + quoted(type) + " do not agree");
  if (type != "default" && type != "llama3")
    p.fail(p.has("rope_type") ? "rope_type" : "type",
           "rope type " + not_supported(quoted(type), {"default", "llama3"}));
  rope.theta = p.number("rope_theta", theta, {"base of the frequencies", 1, 1e15});
  if (p.number("partial_rotary_factor", 1, {"must be 1"}) != 1)
    p.fail("partial_rotary_factor", "a partial rotary embedding is not supported; expected 1");
  if (type == "llama3") {
    rope.type = Rope::llama3;
    rope.factor = p.number("factor", {"long wavelengths are divided by it", 1, 1e6});
    rope.low_freq_factor = p.number("low_freq_factor", {"where the blend begins", 1e-3, 1e6});
    rope.high_freq_factor = p.number("high_freq_factor", {"where the blend ends", 1e-3, 1e6});
    rope.original_max_positions =
        p.integer("original_max_position_embeddings", {"positions before the extension", 1, 0x1p31});
    if (!(rope.low_freq_factor < rope.high_freq_factor))
      p.fail("high_freq_factor", str("expected more than low_freq_factor (", rope.low_freq_factor,
                                     "), found ", rope.high_freq_factor));
  }
  p.done();
  return rope;
}

Rope read_rope(Params& p) {
  Rope rope;
  rope.theta = p.number("rope_theta", 10000, {"base of the rotary frequencies", 1, 1e15});
  const Rope beside = rope;
  const char* first = nullptr;
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    if (!p.has(key)) continue;
    const Json object = without_nulls(p.raw(key, {"the rotary embedding"}));
    const Rope read = read_rope_object(object, p.place(key), beside.theta);
    if (first && !same(read, rope)) p.fail(key, std::string("does not agree with ") + first);
    if (p.has("rope_theta") && read.theta != beside.theta)
      p.fail("rope_theta",
             str(beside.theta, " does not agree with ", key, ", where rope_theta is ", read.theta));
    rope = read, first = key;
  }
  return rope;
}

constexpr double kMaxHidden = 1 << 20, kMaxHeads = 1 << 16, kMaxHeadDim = 1 << 14, kMaxLayers = 1 << 12,
                 kMaxVocabulary = 1 << 24, kMaxPositions = 0x7fffffff;

ModelConfig read_checked(Params& p, bool quantized) {
  ModelConfig c{};
  const Architecture& architecture = read_architecture(p);
  c.architecture = architecture.name;
  c.qk_norms = architecture.qk_norms;
  refuse_other_models(p, architecture, quantized);

  c.hidden_size = p.integer("hidden_size", {"width of the residual stream", 1, kMaxHidden});
  c.intermediate_size = p.integer("intermediate_size", {"width inside the MLP", 1, 4 * kMaxHidden});
  c.layers = p.integer("num_hidden_layers", {"blocks", 1, kMaxLayers});
  c.heads = p.integer("num_attention_heads", {"heads of q", 1, kMaxHeads});
  c.kv_heads = p.integer("num_key_value_heads", c.heads, {"heads of k and v", 1, kMaxHeads});
  if (c.heads % c.kv_heads != 0)
    p.fail("num_key_value_heads",
           str("expected a divisor of num_attention_heads (", c.heads, "), found ", c.kv_heads));
  const bool derived = !p.has("head_dim") && architecture.head_dim == 0;
  if (derived && c.hidden_size % c.heads != 0)
    p.fail("num_attention_heads",
           str("without head_dim, expected a divisor of hidden_size (", c.hidden_size, "), found ", c.heads));
  // A derived one has its limits checked as if it stood there; 0 would be a hidden_size below the heads.
  c.head_dim = p.integer("head_dim", derived ? c.hidden_size / c.heads : architecture.head_dim,
                         {"width of a head", 2, kMaxHeadDim});
  if (c.head_dim % 2 != 0 || c.head_dim > kMaxHeadDim)
    p.fail("head_dim", str("expected an even number of at most ", int64_t(kMaxHeadDim), ", found ",
                           c.head_dim, derived ? " (hidden_size / num_attention_heads)" : ""));
  c.vocab_size = p.integer("vocab_size", {"rows of the embedding", 1, kMaxVocabulary});
  c.max_positions = p.integer("max_position_embeddings", architecture.max_positions,
                              {"longest sequence of the training", 1, kMaxPositions});
  c.rms_norm_eps = p.number("rms_norm_eps", 1e-6, {"added to the mean square", 0, 1});
  c.tied_head = p.boolean("tie_word_embeddings", false, {"lm_head is the embedding"});
  c.rope = read_rope(p);
  return c;
}
}  // namespace

ModelConfig read_model_config(const std::string& path, bool quantized) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  const std::string file = fs::is_directory(path, ignored) ? (fs::path(path) / "config.json").string() : path;
  try {
    const Json json = without_nulls(parse_json_file(file));
    Params p(json, {file, "", nullptr}, "a model's config.json");
    return read_checked(p, quantized);
  } catch (const ConfigError& error) {  // this JSON is data, not a sweep
    throw DataError(error.what());
  }
}

}  // namespace fp4lab
