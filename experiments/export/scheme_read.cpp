// Reading what a quantized checkpoint says of itself: keys that do not matter here are passed over, all that
// would change what the model computes is read or refused.
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/errors.h"
#include "experiments/export/scheme.h"

namespace fp4lab {

namespace fs = std::filesystem;

namespace {

struct CtArgs {
  bool is_float;
  std::string strategy, dynamic;  // "true", "false", "local"
  int64_t group_size;
};

CtArgs read_ct_args(const Json& value, const Place& place, bool weights) {
  const Json object = without_nulls(value);
  Params p(object, place, "a quantization scheme");
  CtArgs a{};
  const auto expect = [&](bool ok, const char* key, const std::string& what) {
    if (!ok) p.fail(key, str("expected ", what, ", found ", describe(object.value(key, Json()))));
  };
  expect(p.integer("num_bits", 8, {"4"}) == 4, "num_bits", "4");
  const std::string type = p.text("type", "int", {"float or int"});
  expect(type == "float" || type == "int", "type", "float or int");
  a.is_float = type == "float";
  a.strategy = p.text("strategy", "", {"tensor_group, group or token"});
  a.group_size = p.integer("group_size", -1, {"elements per scale"});
  expect(p.boolean("symmetric", true, {"must be true"}), "symmetric", "true: zero points are not supported");
  const Json& dynamic = p.raw("dynamic", {"when scales are made"});
  a.dynamic = dynamic.is_boolean()  ? (dynamic.get<bool>() ? "true" : "false")
              : dynamic.is_string() ? dynamic.get<std::string>()
              : dynamic.is_null()   ? "false"
                                    : "?";
  p.raw("scale_dtype", {"follows from the format"});
  p.raw("zp_dtype", {"of zero points, which a symmetric scheme has not"});
  p.raw("observer", {"how scales were chosen"});
  p.raw("observer_kwargs", {"of the observer"});
  p.raw("block_structure", {"must be null"});
  const std::string order = p.text("actorder", "", {"weight, static or null"});
  expect(order.empty() || order == "weight" || order == "static", "actorder",
         "weight, static or null: groups of permuted columns are not supported");
  p.done();
  if (weights) expect(a.dynamic == "false", "dynamic", "false for weights");
  return a;
}

FormatSpec int4(int64_t group, const Params& p) {
  if (group != kWholeRow && (group < 2 || group > 4096))
    p.fail("weights", str("groups of ", group, "; expected 2 to 4096"));
  return {element("int4-full"), int(group), kBF16};
}

void read_ct_group(const Json& group, const Place& place, Scheme& s) {
  const Json object = without_nulls(group);
  Params p(object, place, "a config group");
  if (p.text("format", name(s.layout), {"of the group"}) != name(s.layout))
    p.fail("format", str("expected ", name(s.layout), ", as above it; mixed formats are not supported"));
  p.texts("targets", {}, {"what is quantized; which linears are, their tensors say"});
  const Json& weights = p.raw("weights", {"scheme of the weights"});
  const Json& inputs = p.raw("input_activations", {"scheme of the inputs"});
  if (p.has("output_activations")) p.fail("output_activations", "quantized outputs are not supported");
  p.done();
  if (weights.is_null()) p.fail("weights", "missing");
  const CtArgs w = read_ct_args(weights, p.place("weights"), true);
  const auto want = [&](const char* key, const CtArgs& a, bool is_float, const char* strategy, int64_t size) {
    if (a.is_float != is_float || a.strategy != strategy || (size && a.group_size != size))
      p.fail(key, str(name(s.layout), " has ", is_float ? "float" : "int", ", strategy ", strategy,
                      size ? str(", group_size ", size) : std::string(), "; found ",
                      describe(key == std::string("weights") ? weights : inputs)));
  };
  const auto when = [&](const CtArgs& a, const char* dynamic) {
    if (a.dynamic != dynamic)
      p.fail("input_activations", str("expected dynamic ", dynamic, ", found ", a.dynamic));
  };
  std::optional<CtArgs> a;
  if (!inputs.is_null()) a = read_ct_args(inputs, p.place("input_activations"), false);
  switch (s.layout) {
    case Layout::nvfp4_pack_quantized:
      want("weights", w, true, "tensor_group", 16);
      s.weights = kNvfp4;
      if (!a) break;
      want("input_activations", *a, true, "tensor_group", 16), when(*a, "local");
      s.activations = kNvfp4;
      s.activations->tensor_scale = {TensorScale::fixed, 0};
      break;
    case Layout::mxfp4_pack_quantized:
      want("weights", w, true, "group", 32);
      s.weights = mxfp4_with(ScaleRule::even);
      if (!a) break;
      want("input_activations", *a, true, "group", 32), when(*a, "true");
      s.activations = mxfp4_with(ScaleRule::even);
      break;
    default:
      want("weights", w, false, "group", 0);
      s.weights = int4(w.group_size, p);
      if (!a) break;
      if (a->strategy != "token") want("input_activations", *a, false, "group", 0);
      when(*a, "true");
      s.activations = int4(a->strategy == "token" ? kWholeRow : a->group_size, p);
  }
}

Scheme read_ct(const Json& object, const Place& place) {
  Params p(object, place, "a quantization_config");
  Scheme s;
  p.text("quant_method", {"compressed-tensors"});
  const std::string format = p.text("format", {"how weights are stored"});
  const LayoutEntry* entry = find_layout(format);
  if (!entry || entry->layout == Layout::fp_quant || entry->layout == Layout::modelopt_nvfp4)
    p.fail("format",
           str("\"", format,
               "\" is not supported; supported: nvfp4-pack-quantized, mxfp4-pack-quantized, pack-quantized"));
  s.layout = entry->layout;
  const std::string status = p.text("quantization_status", "compressed", {"compressed"});
  if (status != "compressed")
    p.fail("quantization_status", str("expected compressed, found \"", status, "\""));
  s.in_full_precision = p.texts("ignore", {}, {"linears in full precision"}, true);
  if (p.has("kv_cache_scheme")) s.passed_over.push_back("kv_cache_scheme");
  p.raw("kv_cache_scheme", {"passed over"});
  p.raw("global_compression_ratio", {"passed over"});
  p.raw("version", {"of the library that wrote it"});
  for (const char* key : {"sparsity_config", "transform_config"}) {
    const Json& value = p.raw(key, {"must be empty"});
    if (!value.is_null() && !value.empty())
      p.fail(key, str(key == std::string("transform_config") ? "online transforms are" : "sparsity is",
                      " not supported; expected {}"));
  }
  const Json& groups = p.raw("config_groups", {"schemes and what they are for"});
  if (!groups.is_object() || groups.empty())
    p.fail("config_groups", "expected an object with a scheme, found " + describe(groups));
  p.done();
  std::optional<Scheme> first;
  for (const auto& [name, group] : groups.items()) {
    Scheme own = s;
    read_ct_group(group, p.place("config_groups").child(name), own);
    if (first && (first->weights != own.weights || first->activations != own.activations))
      p.fail("config_groups", "groups with different schemes are not supported");
    first = own;
  }
  return *first;
}

// fp_quant

Scheme read_fp_quant(const Json& object, const Place& place) {
  Params p(object, place, "a quantization_config");
  Scheme s;
  s.layout = Layout::fp_quant;
  p.text("quant_method", {"fp_quant"});
  const std::string dtype = p.choice("forward_dtype", {"nvfp4", "mxfp4"}, {"of weights and inputs"});
  const std::string method = p.text("forward_method", "abs_max", {"abs_max"});
  if (method != "abs_max") p.fail("forward_method", str("expected abs_max, found \"", method, "\""));
  p.raw("backward_dtype", {"of a training"});
  p.raw("transform_init", {"what the matrices began as"});
  for (const char* key : {"store_master_weights", "pseudoquantization"})
    if (p.boolean(key, false, {"must be false"})) p.fail(key, "expected false: quantized weights in qweight");
  s.hadamard = p.integer("hadamard_group_size", 32, {"width of the stored matrices", 1, 4096});
  s.in_full_precision = p.texts("modules_to_not_convert", {}, {"linears in full precision"}, true);
  p.done();
  s.weights = dtype == "nvfp4" ? kNvfp4 : mxfp4_with(ScaleRule::fpq);
  s.activations = s.weights;
  if (dtype == "nvfp4") s.activations->tensor_scale = {TensorScale::fixed, 0};
  return s;
}

// ModelOpt: hf_quant_config.json's "quantization", or the same flat in config.json

constexpr const char* kWeightOnly = "W4A16_NVFP4";

Scheme read_modelopt(const Json& object, const Place& place, const char* ignore_key) {
  Params p(object, place, "a quantization_config");
  Scheme s;
  s.layout = Layout::modelopt_nvfp4;
  const std::string algorithm = p.text("quant_algo", {"NVFP4 or W4A16_NVFP4"});
  if (algorithm != "NVFP4" && algorithm != kWeightOnly)
    p.fail("quant_algo", str("\"", algorithm, "\" is not supported; supported: NVFP4, ", kWeightOnly));
  if (const int64_t group = p.integer("group_size", 16, {"16"}); group != 16)
    p.fail("group_size", str("expected 16, found ", group));
  if (p.has("kv_cache_quant_algo")) s.passed_over.push_back("kv_cache_quant_algo");
  if (p.has("kv_cache_scheme")) s.passed_over.push_back("kv_cache_scheme");
  for (const char* key : {"kv_cache_quant_algo", "kv_cache_scheme", "quant_method", "producer",
                          "config_groups", "has_zero_point", "pre_quant_scale"})
    p.raw(key, {"passed over"});
  s.in_full_precision = p.texts(ignore_key, {}, {"linears in full precision"}, true);
  p.done();
  s.weights = kNvfp4;
  if (algorithm == "NVFP4") {
    s.activations = kNvfp4;
    s.activations->tensor_scale = {TensorScale::fixed, 0};
  }
  return s;
}

struct Found {
  Json config;  // the object with the scheme; null: not quantized
  Place place;
  bool own_file = false;  // hf_quant_config.json
};

Found find_config(const std::string& folder) {
  const std::string file = (fs::path(folder) / "config.json").string();
  const Json all = parse_json_file(file);
  if (all.is_object() && all.contains("quantization_config") && !all["quantization_config"].is_null())
    return {without_nulls(all["quantization_config"]), Place{file, "", nullptr}.child("quantization_config")};
  const std::string other = (fs::path(folder) / "hf_quant_config.json").string();
  if (std::error_code ignored; !fs::exists(other, ignored)) return {};
  const Json own = parse_json_file(other);
  const Json none = Json::object();
  return {without_nulls(own.is_object() ? own.value("quantization", none) : own),
          Place{other, "", nullptr}.child("quantization"), true};
}

}  // namespace

bool says_quantized(const std::string& folder) {
  std::error_code ignored;
  if (!fs::exists(fs::path(folder) / "config.json", ignored)) return false;
  try {
    return !find_config(folder).config.is_null();
  } catch (const ConfigError&) {  // whoever reads it says what is wrong
    return false;
  }
}

Scheme read_scheme(const std::string& folder) {
  try {
    const Found found = find_config(folder);
    if (found.config.is_null())
      throw DataError(folder + ": not a quantized checkpoint: config.json has no quantization_config");
    if (found.own_file) return read_modelopt(found.config, found.place, "exclude_modules");
    if (!found.config.is_object())
      throw ConfigError(str(found.place.text(), ": expected an object, found ", describe(found.config)));
    const Json method = found.config.value("quant_method", Json());
    const std::string text = method.is_string() ? method.get<std::string>() : "";
    if (text == "compressed-tensors") return read_ct(found.config, found.place);
    if (text == "fp_quant") return read_fp_quant(found.config, found.place);
    if (text == "modelopt" || text == "modelopt_fp4")
      return read_modelopt(found.config, found.place, "ignore");
    throw ConfigError(str(found.place.child("quant_method").text(), ": ", describe(method),
                          " is not supported; supported: compressed-tensors, fp_quant, modelopt"));
  } catch (const ConfigError& error) {  // this JSON is data, not a sweep
    throw DataError(error.what());
  }
}

}  // namespace fp4lab
